"""The fast path gives the ids of `tokenizers` itself: for any merges, any sequence, any kind."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from biollm.modeling.fastpath import SequenceEncoder
from biollm.modeling.sequence_tables import BpeTables, tables_from_domain
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

DNA = "ACGTN"


def _random(seed: int, length: int, letters: str) -> str:
    return "".join(np.random.default_rng(seed).choice(list(letters), length))


# Where ties and pairs that merges took apart bite: runs of one letter, short words over and over, few letters.
low_complexity = st.one_of(
    st.builds(lambda letter, n: letter * n, st.sampled_from(DNA), st.integers(1, 300)),
    st.builds(lambda word, n: word * n, st.text(DNA, min_size=2, max_size=5), st.integers(1, 80)),
    st.text("AT", min_size=1, max_size=120),
    st.text("AN", min_size=1, max_size=120),
)
plain = st.one_of(st.text(DNA, min_size=1, max_size=80), st.builds(_random, st.integers(0, 2**32), st.integers(1, 1500), st.just("ACGT")))
sequences = st.one_of(
    low_complexity,
    plain,
    st.lists(st.one_of(low_complexity, plain), min_size=2, max_size=6).map("".join),
)
in_any_case = st.builds(lambda s, k: "".join(c.lower() if i % k else c for i, c in enumerate(s)), sequences, st.integers(1, 5))
batches = st.lists(in_any_case, min_size=1, max_size=8)


def upper() -> normalizers.Normalizer:
    return normalizers.Sequence([normalizers.Replace(letter.lower(), letter) for letter in DNA])


def assert_same_ids(stock: Tokenizer, batch: list[str], **how: Any) -> None:
    stock.normalizer = upper()
    encoder = SequenceEncoder(tables_from_domain(json.loads(stock.to_str()), None, DNA, **how), fold_case=True)
    wanted = [encoding.ids for encoding in stock.encode_batch(batch, add_special_tokens=False)]
    assert [ids.tolist() for ids in encoder.encode(batch)] == wanted


def train_bpe(corpus: list[str], vocab_size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=list(DNA), show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


@settings(max_examples=150)
@given(st.lists(sequences, min_size=1, max_size=10), st.integers(5, 200), batches)
def test_bpe_learnt_from_anything_gives_the_same_ids(corpus: list[str], vocab_size: int, batch: list[str]) -> None:
    assert_same_ids(train_bpe(corpus, vocab_size), [*batch, *corpus])


@st.composite
def any_merges(draw: st.DrawFn) -> Tokenizer:
    """A BPE model that no trainer would make: merges in any order, several for one token, some that never come up, the last of
    two equal pairs the one that counts."""
    letters = draw(st.sampled_from(["A", "AT", "ACG"]))
    tokens, merges = list(DNA), []
    for _ in range(draw(st.integers(1, 14))):
        left, right = draw(st.sampled_from([*letters, *tokens[len(DNA) :]])), draw(st.sampled_from([*letters, *tokens[len(DNA) :]]))
        if len(left + right) <= 12:
            merges.append((left, right))
            tokens += [left + right] if left + right not in tokens else []
    return Tokenizer(models.BPE({t: i for i, t in enumerate(draw(st.permutations(tokens)))}, draw(st.permutations(merges + merges[:1]))))


@settings(max_examples=600)
@given(any_merges(), st.lists(st.one_of(st.text("ACGT", min_size=1, max_size=40), st.text("AT", max_size=40), sequences), max_size=8))
def test_bpe_by_merges_in_any_order_gives_the_same_ids(stock: Tokenizer, batch: list[str]) -> None:
    assert_same_ids(stock, [*batch, "A" * 37, "AT" * 20, "TTA" * 9, "ACG" * 9])


@given(any_merges(), st.text("AT", min_size=1, max_size=8))
def test_bpe_that_ignores_merges_for_whole_tokens_gives_the_same_ids(stock: Tokenizer, sequence: str) -> None:
    content = json.loads(stock.to_str())
    content["model"]["ignore_merges"] = True
    assert_same_ids(Tokenizer.from_str(json.dumps(content)), [sequence, *content["model"]["vocab"]])


@settings(max_examples=300)
@given(st.sets(st.text("ACGT", min_size=2, max_size=8), max_size=40), st.sets(st.text(DNA, min_size=2, max_size=8), max_size=40),
       st.integers(1, 60), batches)  # fmt: skip
def test_wordpiece_gives_the_same_ids(initial: set[str], continuing: set[str], piece: int, batch: list[str]) -> None:
    tokens = ["[UNK]", *DNA, *("##" + letter for letter in DNA), *sorted(initial), *("##" + token for token in sorted(continuing))]
    stock = Tokenizer(models.WordPiece({t: i for i, t in enumerate(tokens)}, unk_token="[UNK]", max_input_chars_per_word=piece))
    stock.pre_tokenizer = pre_tokenizers.Split(Regex(f".{{1,{piece}}}"), behavior="isolated")
    assert_same_ids(stock, batch, piece_residues=piece)


@given(st.sets(st.text("ACGT", min_size=3, max_size=3), max_size=50), batches)
def test_words_of_k_residues_give_the_same_ids_and_missing_ones_the_unknown_one(words: set[str], batch: list[str]) -> None:
    tokens = ["[UNK]", *DNA, *sorted(words)]
    stock = Tokenizer(models.WordPiece({t: i for i, t in enumerate(tokens)}, unk_token="[UNK]", max_input_chars_per_word=3))
    stock.pre_tokenizer = pre_tokenizers.Split(Regex(".{1,3}"), behavior="isolated")
    assert_same_ids(stock, batch, piece_residues=3)


@given(st.integers(1, 5), st.sets(st.text("ACGT", min_size=1, max_size=4), max_size=60), batches)
def test_overlapping_kmers_give_the_ids_of_the_words_with_spaces_between(k: int, words: set[str], batch: list[str]) -> None:
    stock = Tokenizer(models.WordLevel({t: i for i, t in enumerate(["[UNK]", *sorted(words)])}, unk_token="[UNK]"))
    stock.normalizer, stock.pre_tokenizer = upper(), pre_tokenizers.WhitespaceSplit()
    batch = ["ACGTN", *batch]
    tables = tables_from_domain(json.loads(stock.to_str()), None, DNA, kmer=k, overlapping=True)
    spelt = [" ".join(s[i : i + k] for i in range(max(len(s) - k + 1, 1))) for s in batch]
    wanted = [encoding.ids for encoding in stock.encode_batch(spelt)]
    assert [ids.tolist() for ids in SequenceEncoder(tables, fold_case=True).encode(batch)] == wanted


# Scores of few values make ties; others, sums that depend on the order of adding.
scores = st.one_of(st.sampled_from([-1.0, -2.0, -3.0, -4.0, -0.1, -0.2, -0.3]), st.floats(-20, 0))


@settings(max_examples=300)
@given(st.lists(scores, min_size=5, max_size=5), st.dictionaries(st.text(DNA, min_size=2, max_size=8), scores, max_size=60), batches)
@example([-1.0] * 5, {"AA": -2.0, "AAA": -3.0, "AAAA": -4.0}, ["A" * 50])
def test_unigram_gives_the_same_ids(singles: list[float], pieces: dict[str, float], batch: list[str]) -> None:
    vocabulary = [("<unk>", 0.0), *zip(DNA, singles, strict=True), *pieces.items()]
    assert_same_ids(Tokenizer(models.Unigram(vocabulary, unk_id=0)), batch)


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    corpus = [_random(seed, 2000, "ACGT") + "A" * 40 + "AT" * 30 + "N" * 200 for seed in range(60)]
    tokenizer = train_bpe(corpus, 1024)
    tokenizer.normalizer = upper()
    return tokenizer


@pytest.fixture(scope="module")
def encoder(trained: Tokenizer) -> SequenceEncoder:
    return SequenceEncoder(tables_from_domain(json.loads(trained.to_str()), None, DNA), fold_case=True)


@given(batches)
def test_ids_do_not_depend_on_what_else_is_encoded_nor_on_threads(trained: Tokenizer, encoder: SequenceEncoder, batch: list[str]) -> None:
    three = SequenceEncoder(tables_from_domain(json.loads(trained.to_str()), None, DNA), fold_case=True, threads=3)
    many = batch * 400  # beyond what one thread keeps to itself
    together = three.encode(many)
    assert all((a == b).all() and a.dtype == np.int64 for a, b in zip(together, encoder.encode(many), strict=True))
    assert all((encoder.encode_one(s) == ids).all() for s, ids in zip(batch, together, strict=False))


@pytest.mark.slow
@pytest.mark.parametrize("length", [1, 2, 10, 1_000, 100_000, 1_000_000])
def test_a_window_of_any_length_has_the_same_ids(trained: Tokenizer, encoder: SequenceEncoder, length: int) -> None:
    repeats = ("N" * 30_000 + "AT" * 10_000 + "A" * 10_000)[:length]
    for window in (_random(length, length, "ACGT"), (repeats + _random(1, length, "ACGTacgtN"))[:length]):
        assert encoder.encode_one(window).tolist() == trained.encode(window).ids


@pytest.mark.slow
def test_a_window_of_five_million_bases_has_the_same_ids(trained: Tokenizer, encoder: SequenceEncoder) -> None:
    window = _random(5, 4_900_000, "ACGTacgtN") + "N" * 40_000 + "AT" * 20_000 + "A" * 20_000
    assert len(window) == 5_000_000
    assert encoder.encode_one(window).tolist() == trained.encode(window).ids


def test_merges_that_come_behind_ones_of_higher_rank_are_followed() -> None:
    """ATA can be made of (AT, A) or (A, TA); ATAT ranks below the second way, so its making steps back in rank."""
    vocabulary = {t: i for i, t in enumerate([*DNA, "TA", "ATA", "ATAT", "AT", "GATAT"])}
    merges = [("T", "A"), ("ATA", "T"), ("A", "TA"), ("A", "T"), ("G", "ATAT")]
    stock = Tokenizer(models.BPE(vocabulary, merges))
    assert stock.encode("GATAT").tokens == ["GATAT"]
    assert_same_ids(stock, ["GATAT" * n + tail for n in (1, 2, 3) for tail in ("", "A", "AT", "ATA", "T", "TATAT")])


def test_tables_made_by_hand_need_no_tokenizer() -> None:
    tables = BpeTables({"A": 100, "T": 101}, [(100, 101, 7), (7, 7, 9)], {})
    assert SequenceEncoder(tables, fold_case=False).encode_one("ATATAT").tolist() == [9, 7]
