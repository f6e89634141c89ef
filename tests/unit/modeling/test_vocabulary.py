"""The sidecar of a merged tokenizer, and the opening of a tokenizer.json."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from biollm.core.errors import ConfigError, DataError
from biollm.merge.continuation import continue_tokenizer
from biollm.modeling.vocabulary import SIDECAR, Domain, DomainVocabulary, base_pieces, load_tokenizer, readable_texts
from tokenizers import Tokenizer

DNA = Domain(
    name="dna",
    strategy="isolate",
    modality="dna",
    kind="bpe",
    first_id=10,
    new_tokens=6,
    scaffold_tokens=1,
    mark="ߨ",
    model_mark="ߨ",
    units={residue: f"ߨ{residue}" for residue in "ACGTN"},
    model_units={residue: f"ߨ{residue}" for residue in "ACGTN"},
    min_run=12,
    tags=True,
)
SMILES = DNA.model_copy(update={"name": "smiles", "modality": "smiles", "units": {"C": "ߩC", "c": "ߩc", "(": "ߩߪa"}, "first_id": 16})
WORDS = Domain(name="words", strategy="continue", modality="text", kind="bpe", first_id=22, new_tokens=4)
VOCABULARY = DomainVocabulary(base_vocab_size=10, domains=[DNA, SMILES, WORDS])


def test_sequences_are_spelt_in_units_in_either_case() -> None:
    assert DNA.to_private(["GAt", "n"]) == ["ߨGߨAߨT", "ߨN"]


def test_smiles_are_spelt_as_they_stand() -> None:
    assert SMILES.to_private(["C(c"]) == ["ߩCߩߪaߩc"]


@pytest.mark.parametrize(
    ("sequence", "message"),
    [
        ("ACGX", "sequence number 1 holds 'X' at position 4; dna sequences hold [ACGTN]{5} in either case"),
        ("ac gt", "sequence number 1 holds ' ' at position 3; dna"),
        ("ACGT\n", r"sequence number 1 holds '\\n' at position 5"),
        ("AĆGT", "sequence number 1 holds 'Ć' at position 2"),
        ("Aſ", "sequence number 1 holds 'ſ' at position 2"),
        ("", "sequence number 1 is empty; dna"),
    ],
)
def test_a_foreign_letter_is_refused_with_its_place(sequence: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        DNA.to_private(["ACGT", sequence])


def test_a_refused_sequence_is_called_by_its_name() -> None:
    with pytest.raises(DataError, match=r"sequence chr4:1 holds 'a' at position 2; smiles sequences hold Cc\($"):
        SMILES.to_private(["Ca"], ["chr4:1"])


def test_case_is_folded_only_where_it_means_nothing() -> None:
    assert [d.folds_case for d in (DNA, SMILES)] == [True, False]


def test_domains_are_found_by_what_they_read() -> None:
    assert VOCABULARY.isolated == [DNA, SMILES]
    assert VOCABULARY.sequence_domain() == DNA
    assert VOCABULARY.sequence_domain("smiles") == SMILES
    assert VOCABULARY.sequence_domain("protein") is None
    assert VOCABULARY.sequence_domain("text") is None, "words are no sequences"
    assert DomainVocabulary(base_vocab_size=3, domains=[WORDS]).sequence_domain() is None
    assert VOCABULARY.new_tokens == 16
    assert list(DNA.ids) == [10, 11, 12, 13, 14, 15]


def test_a_sidecar_read_again_is_the_one_that_was_written(tmp_path: Path) -> None:
    VOCABULARY.save(tmp_path)
    assert DomainVocabulary.load(tmp_path) == VOCABULARY


def test_a_folder_without_sidecar_is_an_ordinary_one(tmp_path: Path) -> None:
    assert DomainVocabulary.load(tmp_path) is None


@pytest.mark.parametrize("damage", ["{", '{"base_vocab_size": 3}', '{"base_vocab_size": 3, "domains": [], "more": 1}', "[]"])
def test_a_damaged_sidecar_is_refused_with_its_name(tmp_path: Path, damage: str) -> None:
    (tmp_path / SIDECAR).write_text(damage)
    with pytest.raises(ConfigError, match=SIDECAR):
        DomainVocabulary.load(tmp_path)


def test_a_sidecar_of_an_older_make_is_refused_and_not_guessed_at(tmp_path: Path) -> None:
    old = {"strategy": "isolate", "modality": "dna", "private_letters": {"A": "ꓐ"}, "base_vocab_size": 3, "new_tokens": 1}
    (tmp_path / SIDECAR).write_text(json.dumps(old))
    with pytest.raises(ConfigError, match=SIDECAR):
        DomainVocabulary.load(tmp_path)


def test_every_new_token_has_a_text_and_its_residues_are_counted(
    base_tokenizer: Callable[[str], Tokenizer], domain_tokenizer: Callable[..., Any], start_merge: Callable[[Tokenizer], Any]
) -> None:
    merged = start_merge(base_tokenizer("bert_uncased")).add(domain_tokenizer("smiles", "wordpiece"), domain_tokenizer("dna", "wordpiece"))
    texts = merged.vocabulary.readable(merged.tokenizer)
    counts = merged.vocabulary.residues_by_id(merged.tokenizer)[merged.base_size :]
    assert len(texts) == len(counts) == merged.vocabulary.new_tokens
    assert [len(text) for text in texts] == counts.tolist(), "WordPiece has no scaffold: every new token stands for residues"
    assert {"(", "c", "C", "A", "N"} <= set(texts)


def test_texts_of_a_byte_level_scaffold_are_empty(
    base_tokenizer: Callable[[str], Tokenizer], domain_tokenizer: Callable[..., Any], start_merge: Callable[[Tokenizer], Any]
) -> None:
    merged = start_merge(base_tokenizer("gpt2")).add(domain_tokenizer("smiles", "bpe"))
    scaffold = merged.vocabulary.domains[0].scaffold_tokens
    texts = merged.vocabulary.readable(merged.tokenizer)
    assert scaffold > 0
    assert set(texts[:scaffold]) == {""}
    assert all(texts[scaffold:])


@pytest.mark.parametrize("kind", ["bert_uncased", "mistral", "gpt2", "t5"])
def test_words_read_as_letters_and_are_made_of_what_the_base_has_at_their_place(
    base_tokenizer: Callable[[str], Tokenizer], plain_lines: Callable[[int], list[str]], kind: str
) -> None:
    base = base_tokenizer(kind)
    continued = continue_tokenizer(json.loads(base.to_str()), plain_lines(1000), 60, 2)
    merged = Tokenizer.from_str(json.dumps(continued.merged))
    words = Domain(
        name="words", strategy="continue", modality="text", kind="bpe", first_id=continued.first_id, new_tokens=len(continued.new)
    )
    texts = DomainVocabulary(base_vocab_size=continued.first_id, domains=[words]).readable(merged)
    starts = [token.startswith(("▁", "Ġ")) or (kind == "bert_uncased" and not token.startswith("##")) for token in continued.new]
    assert [text.startswith(" ") for text in texts] == starts
    assert set(starts) == {True, False}
    assert not any(mark in text for text in texts for mark in "#▁Ġ")
    pieces = base_pieces(base, continued.new)
    assert pieces == [continued.pieces[i] for i in words.ids]
    spelt = readable_texts(base)
    assert ["".join(spelt[i] for i in row) for row in pieces] == texts


# --- tokenizer.json -----------------------------------------------------------------------------------------------------------


def test_truncation_and_padding_are_off_when_a_tokenizer_is_opened(bert_base: Path) -> None:
    stored = json.loads((bert_base / "tokenizer.json").read_text())
    assert None not in (stored["truncation"], stored["padding"]), "the base arrives with both on"
    tokenizer = load_tokenizer(bert_base)
    assert len(tokenizer.encode("a " * 100).ids) == 102
    assert len(tokenizer.encode("a").ids) == 3


def test_a_folder_without_tokenizer_json_is_refused_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no tokenizer\.json; .*AutoTokenizer\.from_pretrained\(…\)\.save_pretrained\(folder\)"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("content", ["", "{}", '{"model": {"type": "Future"}}', "\x00"])
def test_what_is_no_tokenizer_json_is_refused_with_its_name(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ConfigError, match=r"tokenizer\.json: not a tokenizer\.json that this version of tokenizers reads: "):
        load_tokenizer(tmp_path)
