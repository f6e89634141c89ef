"""The merge is lossless: over any text and any sequence, not only over those that the stage proves it on."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biollm.core.errors import DataError
from biollm.modeling.encoding import Encoder
from biollm.modeling.vocabulary import DomainVocabulary, load_tokenizer
from tokenizers import Tokenizer


@dataclass(frozen=True, repr=False)
class Merge:
    base: Tokenizer
    domain: Tokenizer
    merged: Tokenizer
    id_map: dict[int, int]
    vocabulary: DomainVocabulary
    encoder: Encoder

    def domain_ids(self, sequence: str) -> list[int]:
        return [self.id_map[i] for i in self.domain.encode(sequence).ids]

    def base_ids(self, text: str) -> list[int]:
        return list(self.base.encode(text, add_special_tokens=False).ids)


@pytest.fixture(scope="session")
def merge(tiny_results: Path, bert_base: Path) -> Merge:
    folder = tiny_results / "merge"
    vocabulary = DomainVocabulary.load(folder)
    assert vocabulary is not None
    assert vocabulary.min_run == 12
    id_map = {int(old): new for old, new in json.loads((folder / "id_map.json").read_text()).items()}
    return Merge(
        load_tokenizer(bert_base), load_tokenizer(tiny_results / "tokenizer"), load_tokenizer(folder), id_map, vocabulary, Encoder(folder)
    )


def _seeded(seed: int, length: int, letters: str) -> str:
    return "".join(np.random.default_rng(seed).choice(list(letters), length))


sequences = st.one_of(
    st.text("ACGTN", min_size=1, max_size=60),
    st.builds(_seeded, st.integers(0, 2**32), st.integers(1, 2000), st.just("ACGT")),
    st.builds(_seeded, st.integers(0, 2**32), st.integers(100, 500), st.just("AN")),
)
in_any_case = st.one_of(
    sequences, sequences.map(str.lower), sequences.map(lambda s: "".join(c.lower() if i % 3 else c for i, c in enumerate(s)))
)

_PRIVATE = "".join(map(chr, range(0xA4D0, 0xA4D5)))
_RUN = re.compile("[ACGTN]{12,}", re.IGNORECASE)
# Any text but what the merge gives a new meaning to: long runs of nucleotide letters, and the private letters themselves.
texts = (
    st.one_of(st.text(max_size=80), st.text("ACGTNacgtn x.é\u0301[]MASK##\n\t", max_size=60))
    .map(lambda t: t.translate(dict.fromkeys(map(ord, _PRIVATE))))
    .filter(lambda t: not _RUN.search(t))
)


@given(sequences)
def test_a_domain_tokenizer_gives_back_what_it_was_given(merge: Merge, sequence: str) -> None:
    encoded = merge.domain.encode(sequence)
    assert merge.domain.decode(encoded.ids) == sequence
    assert "[UNK]" not in encoded.tokens
    assert merge.domain.encode(sequence.lower()).ids == encoded.ids


@given(in_any_case)
def test_a_sequence_has_the_domain_tokens_by_the_fast_path(merge: Merge, sequence: str) -> None:
    (encoded,) = merge.encoder.encode_sequences([sequence])
    assert encoded.ids.tolist() == merge.domain_ids(sequence)
    assert int(encoded.residues.sum()) == len(sequence)
    assert (encoded.residues > 0).all()
    assert merge.merged.decode(encoded.ids.tolist()) == sequence.upper()


@given(in_any_case.filter(lambda s: len(s) >= 12))
def test_a_sequence_of_min_run_or_more_has_the_domain_tokens_by_the_ordinary_path(merge: Merge, sequence: str) -> None:
    assert merge.merged.encode(sequence, add_special_tokens=False).ids == merge.domain_ids(sequence)
    assert merge.encoder.is_sequence(sequence)


@given(st.text("ACGTNacgtn", min_size=1, max_size=11))
def test_a_shorter_run_is_the_text_that_it_was(merge: Merge, sequence: str) -> None:
    assert merge.merged.encode(sequence).ids == merge.base.encode(sequence).ids
    assert not merge.encoder.is_sequence(sequence)


@settings(max_examples=300)
@given(texts)
def test_text_without_domain_sequences_is_unchanged(merge: Merge, text: str) -> None:
    before, after = merge.base.encode(text), merge.merged.encode(text)
    assert (after.ids, after.offsets, after.tokens) == (before.ids, before.offsets, before.tokens)
    assert merge.merged.decode(after.ids) == merge.base.decode(before.ids)


@settings(max_examples=150)
@given(texts, sequences.filter(lambda s: len(s) >= 12), texts)
def test_text_around_a_sequence_has_the_base_tokens_and_the_sequence_the_domain_tokens(
    merge: Merge, before: str, run: str, after: str
) -> None:
    text = f"{before} {run} {after}"
    wanted = merge.base_ids(f"{before} ") + merge.domain_ids(run) + merge.base_ids(f" {after}")
    assert merge.merged.encode(text, add_special_tokens=False).ids == wanted


@pytest.mark.parametrize("text", ["({})", "5'-{}-3'", "seq:{}.", "{}", "é{}é"])
def test_a_sequence_that_touches_other_letters_is_still_one(merge: Merge, text: str) -> None:
    run = "GATTACAGATTACA"
    before, after = text.split("{}")
    wanted = merge.base_ids(before) + merge.domain_ids(run) + merge.base_ids(after)
    assert merge.merged.encode(text.format(run), add_special_tokens=False).ids == wanted


def test_two_sequences_in_one_text_are_each_read(merge: Merge) -> None:
    one, two = "GATTACAGATTACA", "ccggttaaccggttaa"
    ids = merge.merged.encode(f"{one} and {two}", add_special_tokens=False).ids
    assert ids == merge.domain_ids(one) + merge.base_ids("and") + merge.domain_ids(two)


@given(st.text(min_size=1, max_size=20).filter(lambda t: t.upper().strip("ACGTN") != "" and not set(t) <= set("ACGTNacgtn")))
def test_a_foreign_letter_is_refused_by_the_fast_path_with_its_position(merge: Merge, text: str) -> None:
    with pytest.raises(DataError, match=r"sequence s holds .* at position \d+; dna sequences hold [ACGTN]{5} in either case"):
        merge.encoder.encode_sequences([text], ["s"])


def test_an_empty_sequence_is_refused_by_its_number(merge: Merge) -> None:
    with pytest.raises(DataError, match="sequence number 1 is empty"):
        merge.encoder.encode_sequences(["ACGT", ""])


def test_special_tokens_are_those_of_the_base(merge: Merge) -> None:
    cls, sep = merge.base.token_to_id("[CLS]"), merge.base.token_to_id("[SEP]")
    (encoded,) = merge.encoder.encode_sequences(["ACGTACGTACGT"])
    assert merge.encoder.with_special_tokens(encoded.ids).tolist() == [cls, *encoded.ids, sep]
    assert (merge.encoder.pad_id, merge.encoder.mask_id) == (merge.base.token_to_id("[PAD]"), merge.base.token_to_id("[MASK]"))
