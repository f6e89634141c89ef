from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from biollm.core.errors import DataError
from biollm.modeling.encoding import Encoder, pad, pad_features
from tokenizers import Tokenizer

KINDS = {"gpt2": "bpe", "llama3": "bpe", "mistral": "bpe", "bert_uncased": "wordpiece", "bert_cased": "wordpiece", "t5": "unigram"}
Folder = Callable[[str], tuple[Path, Any]]


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory,
    base_tokenizer: Callable[[str], Tokenizer],
    domain_tokenizer: Callable[..., Any],
    start_merge: Callable[[Tokenizer], Any],
) -> Folder:
    """folder(kind) -> a tokenizer folder with protein, DNA and SMILES merged into a base of that kind, and the merge."""

    def make(kind: str) -> tuple[Path, Any]:
        merged = start_merge(base_tokenizer(kind)).add(*(domain_tokenizer(m, KINDS[kind]) for m in ("protein", "dna", "smiles")))
        place = tmp_path_factory.mktemp(kind)
        merged.tokenizer.save(str(place / "tokenizer.json"))
        merged.vocabulary.save(place)
        return place, merged

    made = {kind: make(kind) for kind in KINDS}
    return made.__getitem__


@pytest.mark.parametrize("modality", ["dna", "protein", "smiles"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_fast_path_gives_the_domain_tokens(folder: Folder, kind: str, modality: str) -> None:
    place, merged = folder(kind)
    encoder, rng = Encoder(place, modality), random.Random(0)
    assert encoder.domain is not None
    residues = "".join(encoder.domain.units)
    sequences = ["".join(rng.choices(residues, k=k)) for k in (1, 2, 3, 11, 12, 32, 33, 34, 66, 67, 1000)] + ["".join(residues)]
    for sequence, encoded in zip(sequences, encoder.encode_sequences(sequences), strict=True):
        assert encoded.ids.tolist() == merged.wanted(modality, sequence)
        assert (encoded.residues > 0).all()
        assert encoded.residues.sum() == len(sequence)
        assert encoder.tokenizer.decode(encoded.ids.tolist()) == sequence


@pytest.mark.parametrize("kind", KINDS)
def test_known_sequences_are_read_in_either_case_but_smiles(folder: Folder, kind: str) -> None:
    place, _ = folder(kind)
    for modality, sequence in (("dna", "GATTACAGATTACANNN"), ("protein", "MKVLAAGIWXBZ")):
        encoder = Encoder(place, modality)
        upper, lower, mixed = encoder.encode_sequences([sequence, sequence.lower(), sequence.capitalize()])
        assert upper.ids.tolist() == lower.ids.tolist() == mixed.ids.tolist()
    aromatic, aliphatic = Encoder(place, "smiles").encode_sequences(["c1ccccc1", "C1CCCCC1"])
    assert aromatic.ids.tolist() != aliphatic.ids.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_gives_what_one_at_a_time_gives(folder: Folder, kind: str) -> None:
    encoder, rng = Encoder(folder(kind)[0], "dna"), random.Random(1)
    sequences = ["".join(rng.choices("ACGTN", k=rng.randint(1, 300))) for _ in range(30)]
    batch = encoder.encode_sequences(sequences)
    assert [e.ids.tolist() for e in batch] == [encoder.encode_sequences([s])[0].ids.tolist() for s in sequences]
    assert encoder.encode_sequences([]) == []


def test_the_first_domain_is_read_unless_one_is_asked_for(folder: Folder) -> None:
    place, _ = folder("gpt2")
    read = [
        encoder.domain.modality if encoder.domain else None for encoder in (Encoder(place), Encoder(place, "dna"), Encoder(place, "rna"))
    ]
    assert read == ["protein", "dna", None]


@pytest.mark.parametrize(
    ("modality", "sequence", "message"),
    [
        ("dna", "ACGX", "sequence s holds 'X' at position 4; dna sequences hold [ACGTN]{5} in either case"),
        ("dna", "ACé", "sequence s holds 'é' at position 3"),
        ("dna", "中A", "sequence s holds '中' at position 1"),
        ("protein", "MK*", r"sequence s holds '\*' at position 3; protein"),
        ("smiles", "C C", "sequence s holds ' ' at position 2; smiles"),
        ("dna", "", "sequence s is empty; remove it"),
    ],
)
def test_a_foreign_letter_is_refused_with_its_place(folder: Folder, modality: str, sequence: str, message: str) -> None:
    encoder = Encoder(folder("gpt2")[0], modality)
    with pytest.raises(DataError, match=message):
        encoder.encode_sequences(["A" if modality == "dna" else "C", sequence], ["first", "s"])
    with pytest.raises(DataError, match="sequence number 1 "):
        encoder.encode_sequences(["A" if modality == "dna" else "C", sequence])


@pytest.mark.parametrize("kind", KINDS)
def test_text_is_read_by_the_ordinary_path_and_counts_residues_of_sequences(folder: Folder, kind: str) -> None:
    place, merged = folder(kind)
    encoder = Encoder(place, "dna")
    text = "the GATTACAGATTACA of <protein>MKVLA</protein> and <dna>ACGT</dna>"
    (encoded,) = encoder.encode_text([text])
    assert encoded.ids.tolist() == merged.ids(text)
    assert encoded.residues.sum() == 14 + 5 + 4
    assert not encoded.residues[encoded.ids < merged.base_size].any()


@pytest.mark.parametrize(
    ("kind", "around"),
    [("gpt2", ([], [])), ("llama3", (["<|begin_of_text|>"], [])), ("mistral", (["<s>"], [])), ("bert_cased", (["[CLS]"], ["[SEP]"])),
     ("t5", ([], ["</s>"]))],
)  # fmt: skip
def test_special_tokens_are_those_that_the_base_puts_around_a_text(folder: Folder, kind: str, around: tuple[list[str], list[str]]) -> None:
    encoder = Encoder(folder(kind)[0], "dna")
    ids = encoder.with_special_tokens(np.asarray([7, 8]))
    before, behind = ([encoder.tokenizer.token_to_id(token) for token in tokens] for tokens in around)
    assert ids.tolist() == [*before, 7, 8, *behind]


def test_pad_and_mask_are_found_by_their_usual_names(folder: Folder, bert_base: Path) -> None:
    bert, gpt2, t5 = Encoder(bert_base), Encoder(folder("gpt2")[0]), Encoder(folder("t5")[0])
    assert (bert.pad_id, bert.mask_id) == tuple(bert.tokenizer.token_to_id(token) for token in ("[PAD]", "[MASK]"))
    assert (gpt2.pad_id, gpt2.mask_id) == (None, None)
    assert (t5.pad_id, t5.mask_id) == (t5.tokenizer.token_to_id("<pad>"), None)


@pytest.mark.parametrize("kind", ["gpt2", "bert_cased", "t5"])
def test_whole_runs_are_told_from_text(folder: Folder, kind: str) -> None:
    place, _ = folder(kind)
    encoder = Encoder(place, "dna")
    assert encoder.is_sequence("GATTACAGATTA")
    for text in ("GATTACAGATT", "GATTACAGATTACA x", "xGATTACAGATTACA", "GATTACA GATTACA", "", "GATTACAGATTAĆ"):
        assert not encoder.is_sequence(text)
    assert not Encoder(place, "protein").is_sequence("MKVLAAGIWYTRMKVLAAGIWYTR"), "proteins are read between tags only"


def test_text_has_the_tokens_of_the_stock_tokenizer_and_no_residues(bert_base: Path) -> None:
    encoder = Encoder(bert_base)
    (encoded,) = encoder.encode_text(["the gene"])
    assert [encoder.tokenizer.id_to_token(i) for i in encoded.ids] == ["the", "gene"]
    assert not encoded.residues.any()


def test_without_a_domain_vocabulary_a_sequence_is_the_text_that_it_is(bert_base: Path) -> None:
    encoder = Encoder(bert_base)
    (encoded,) = encoder.encode_sequences(["ACGT" * 5])
    assert encoded.ids.tolist() == encoder.encode_text(["ACGT" * 5])[0].ids.tolist()
    assert not encoder.is_sequence("ACGT" * 5)


def test_a_special_token_in_a_text_is_found_at_its_place(tiny_results: Path) -> None:
    encoder = Encoder(tiny_results / "merge")
    (encoded,) = encoder.encode_text(["ACGTACGTACGTAC [MASK] the"])
    tokens = [encoder.tokenizer.id_to_token(i) for i in encoded.ids]
    assert tokens[-2:] == ["[MASK]", "the"]
    assert encoded.residues[-2:].tolist() == [0, 0]
    assert encoded.residues.sum() == 14


def test_padding_is_on_the_right_and_marked() -> None:
    ids, mask = pad([np.asarray([5, 6, 7]), np.asarray([8])], 0, multiple=2)
    assert ids.tolist() == [[5, 6, 7, 0], [8, 0, 0, 0]]
    assert mask.tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]


def test_padding_has_no_features() -> None:
    found = pad_features([np.ones((2, 3), dtype=np.float32), np.ones((1, 3), dtype=np.float32)], 3)
    assert found.shape == (2, 3, 3)
    assert found.sum(axis=(1, 2)).tolist() == [6.0, 3.0]
    assert not found[1, 1:].any()
