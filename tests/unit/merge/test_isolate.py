"""The merge on paper: JSON in, JSON out; and what it refuses."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from biollm.core.errors import ConfigError, DataError
from biollm.merge.isolate import check_base, choose_private_letters, merge_tokenizers
from biollm.merge.proof import describe_base, prove_domain, prove_plain_text, prove_reachable, sample_lines
from biollm.modeling.vocabulary import DomainVocabulary, load_tokenizer
from biollm.tokenizer.train import train_wordpiece
from tokenizers import Tokenizer, models, normalizers, trainers

MakeBase = Callable[..., Path]
_LISU = "\ua4d0"


@pytest.fixture(scope="module")
def base_json(bert_base: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((bert_base / "tokenizer.json").read_text())
    return values


@pytest.fixture(scope="module")
def domain(dna: Callable[[int, int], str]) -> Tokenizer:
    return train_wordpiece([dna(500, seed) for seed in range(20)], "ACGTN", 40, 50)


def merged_parts(base_folder: Path, domain: Tokenizer) -> tuple[Tokenizer, Tokenizer, dict[int, int], DomainVocabulary, dict[str, Any]]:
    base = load_tokenizer(base_folder)
    base_json, domain_json = json.loads((base_folder / "tokenizer.json").read_text()), json.loads(domain.to_str())
    vocabulary = DomainVocabulary(
        strategy="isolate", modality="dna", private_letters=choose_private_letters("ACGTN", base), continuing_prefix="##",
        min_run=12, piece_residues=50, base_vocab_size=base.get_vocab_size(), new_tokens=domain.get_vocab_size() - 1,
    )  # fmt: skip
    merged_json, id_map = merge_tokenizers(base_json, domain_json, vocabulary)
    return base, Tokenizer.from_str(json.dumps(merged_json)), id_map, vocabulary, merged_json


def test_base_ids_survive_merge_and_new_ids_follow_in_domain_order(bert_base: Path, domain: Tokenizer) -> None:
    base, merged, id_map, vocabulary, _ = merged_parts(bert_base, domain)
    assert {token: merged.token_to_id(token) for token in base.get_vocab()} == base.get_vocab()
    first = base.get_vocab_size()
    assert [id_map[i] for i in sorted(id_map)] == list(range(first, first + domain.get_vocab_size() - 1))
    assert domain.token_to_id("[UNK]") not in id_map
    back = str.maketrans({letter: residue for residue, letter in vocabulary.private_letters.items()})
    assert all(merged.id_to_token(new).translate(back) == domain.id_to_token(old) for old, new in id_map.items())


def test_truncation_and_padding_are_switched_off(bert_base: Path, domain: Tokenizer, base_json: dict[str, Any]) -> None:
    assert None not in (base_json["truncation"], base_json["padding"]), "the base arrives with both on"
    *_, merged_json = merged_parts(bert_base, domain)
    assert merged_json["truncation"] is None
    assert merged_json["padding"] is None
    tokenizer = load_tokenizer(bert_base)
    assert len(tokenizer.encode("a " * 100).ids) == 102
    assert len(tokenizer.encode("a").ids) == 3


def test_the_merge_changes_nothing_that_it_was_given(bert_base: Path, domain: Tokenizer, base_json: dict[str, Any]) -> None:
    _, _, _, vocabulary, _ = merged_parts(bert_base, domain)
    domain_json = json.loads(domain.to_str())
    before = copy.deepcopy((base_json, domain_json))
    merge_tokenizers(base_json, domain_json, vocabulary)
    assert (base_json, domain_json) == before


def test_a_base_that_uses_a_letter_of_a_block_gets_another_block(
    tmp_path: Path, bert_base: Path, make_bert_base: MakeBase, domain: Tokenizer
) -> None:
    assert choose_private_letters("ACGTN", load_tokenizer(bert_base))["A"] == _LISU
    vocabulary = [*load_tokenizer(bert_base).get_vocab(), _LISU]
    folder = make_bert_base(
        tmp_path / "lisu", vocabulary=sorted(vocabulary, key=lambda t: (t == _LISU, load_tokenizer(bert_base).token_to_id(t) or 0))
    )
    letters = choose_private_letters("ACGTN", load_tokenizer(folder))
    assert letters == dict(zip("ACGTN", "\ua510\ua511\ua512\ua513\ua514", strict=True)), "Vai is next"
    base, merged, id_map, merged_vocabulary, _ = merged_parts(folder, domain)
    prove_plain_text(base, merged, merged_vocabulary, [f"a {_LISU} b", "the cell"])
    prove_domain(domain, merged, id_map, merged_vocabulary, ["ACGTACGTACGTACGT"])


def test_a_base_that_uses_every_block_is_refused() -> None:
    base = Tokenizer(models.WordPiece({"[UNK]": 0, "\ua4d0": 1, "x\ua511": 2, "\ua018": 3}, unk_token="[UNK]"))
    with pytest.raises(
        ConfigError, match=r"uses or changes letters of every block that could be private \(Lisu, Vai, Yi\); cannot isolate"
    ):
        choose_private_letters("ACGTN", base)


def test_a_base_whose_normaliser_changes_a_block_gets_another_block() -> None:
    base = Tokenizer(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]"))
    base.normalizer = normalizers.Replace("\ua4d1", "x")
    assert choose_private_letters("ACGTN", base)["A"] == "\ua510"


def test_kinds_of_base_that_cannot_be_isolated_are_refused(base_json: dict[str, Any]) -> None:
    check_base(base_json, 100)
    bpe = Tokenizer(models.BPE())
    bpe.train_from_iterator(["a b c"], trainers.BpeTrainer(show_progress=False))
    with pytest.raises(ConfigError, match=r"the base tokenizer is BPE; merge.strategy 'isolate' is built for WordPiece bases so far"):
        check_base(json.loads(bpe.to_str()), 100)


def test_a_base_with_a_hole_in_its_ids_is_refused(base_json: dict[str, Any]) -> None:
    holed = copy.deepcopy(base_json)
    holed["model"]["vocab"]["the"] = 5000
    size = len(base_json["model"]["vocab"])
    with pytest.raises(ConfigError, match=f"ids are not 0 to {size - 1}: {size} tokens, largest id 5000; repair it first"):
        check_base(holed, 100)


def test_pieces_longer_than_the_base_reads_are_refused(base_json: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"tokenizer.piece_residues is 101; this base reads words of at most 100 letters: set it to 100"):
        check_base(base_json, 101)


def test_a_folder_without_a_fast_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no tokenizer.json; biollm needs the fast tokenizer of the model: save it once with"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": 1}')
    with pytest.raises(ConfigError, match=r"tokenizer.json: not a tokenizer.json that this version of tokenizers reads"):
        load_tokenizer(tmp_path)


def test_broken_guarantees_stop_the_merge(bert_base: Path, domain: Tokenizer) -> None:
    base, merged, id_map, vocabulary, merged_json = merged_parts(bert_base, domain)
    moved = copy.deepcopy(merged_json)
    vocab = moved["model"]["vocab"]
    vocab["the"], vocab["gene"] = vocab["gene"], vocab["the"]
    with pytest.raises(DataError, match="a guarantee does not hold: 2 base tokens changed their id"):
        prove_plain_text(base, Tokenizer.from_str(json.dumps(moved)), vocabulary, ["x"])

    greedy = copy.deepcopy(merged_json)
    greedy["model"]["vocab"]["them"] = merged.get_vocab_size()
    with pytest.raises(DataError, match=r"1 of 2 plain lines changed, for example \['themes'\]"):
        prove_plain_text(base, Tokenizer.from_str(json.dumps(greedy)), vocabulary, ["the", "themes"])

    shifted = {old: new + 1 for old, new in id_map.items()}
    with pytest.raises(DataError, match="1 of 1 domain sequences are tokenised otherwise than by the domain tokenizer"):
        prove_domain(domain, merged, shifted, vocabulary, ["ACGTACGTACGT"])

    mute = copy.deepcopy(merged_json)
    mute["decoder"] = None
    with pytest.raises(DataError, match="1 of 1 domain sequences do not decode to themselves"):
        prove_domain(domain, Tokenizer.from_str(json.dumps(mute)), id_map, vocabulary, ["ACGTACGTACGT"])


def test_a_token_that_nothing_can_produce_stops_the_merge(domain: Tokenizer) -> None:
    assert prove_reachable(domain, [])["unreachable_tokens"] == 0, "each is produced by a sequence built for it"
    dead = json.loads(domain.to_str())
    dead["model"]["vocab"]["acgt"] = domain.get_vocab_size()  # the normaliser leaves no lower-case letter
    with pytest.raises(DataError, match=r"1 domain tokens can never be produced, for example \['acgt'\]"):
        prove_reachable(Tokenizer.from_str(json.dumps(dead)), [])


def test_sampled_lines_are_spread_over_the_text(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("".join(f"{i}\n\n" for i in range(10)))
    assert sample_lines([tmp_path / "a"], 100) == [str(i) for i in range(10)]
    assert sample_lines([tmp_path / "a"], 5) == ["0", "2", "4", "6", "8"]


def test_plain_text_that_is_not_utf8_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(DataError, match=r"a\.txt"):
        sample_lines([tmp_path / "a.txt"], 5)


def test_the_base_on_its_own_is_described(bert_base: Path) -> None:
    facts = describe_base(load_tokenizer(bert_base), ["acgt", "ꓐ"])
    assert facts == {"bases_per_token_before": 1.0, "unknown_share_before": 0.2}
