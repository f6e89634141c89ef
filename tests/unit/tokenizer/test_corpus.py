from __future__ import annotations

import random

import pytest

from biollm.core.alphabets import reverse_complement
from biollm.core.errors import DataError
from biollm.tokenizer.corpus import BLOCK_BASES, Corpus, both_strands, hold_out, sample_evenly, spread_evenly, training_words


def test_about_one_in_twenty_is_held_out_whatever_the_order() -> None:
    rng = random.Random(1)
    proteins = ["".join(rng.choices("ACDEFGHIKLMNPQRSTVWY", k=30)) for _ in range(4000)]
    corpus = hold_out(proteins, "protein")
    assert 140 <= len(corpus.held_out) <= 260
    assert set(corpus.train) | set(corpus.held_out) == set(proteins)
    assert not set(corpus.train) & set(corpus.held_out)
    assert set(hold_out(reversed(proteins), "protein").held_out) == set(corpus.held_out)


def test_a_contig_is_cut_into_blocks_and_both_strands_of_a_block_fall_on_one_side() -> None:
    rng = random.Random(2)
    contig = "".join(rng.choices("ACGT", k=BLOCK_BASES * 100 + 7))
    corpus = hold_out([contig], "dna")
    assert corpus.held_out
    assert max(map(len, corpus.train + corpus.held_out)) == BLOCK_BASES
    assert sum(map(len, corpus.train + corpus.held_out)) == len(contig)
    mirrored = hold_out([reverse_complement(block) for block in corpus.train + corpus.held_out], "dna")
    assert set(mirrored.held_out) == {reverse_complement(block) for block in corpus.held_out}


def test_equal_sequences_count_once_but_lines_of_text_as_often_as_they_stand() -> None:
    assert len(hold_out(["MKV"] * 5 + ["MKL"] * 5, "protein").train) == 1
    text = hold_out(["a"] * 5 + ["b"] * 5, "text")
    assert sorted(map(len, (text.train, text.held_out))) == [5, 5]


def test_of_two_sequences_one_is_held_out_and_of_one_none() -> None:
    assert sorted(map(len, (hold_out(["MK", "ML"], "protein")).__dict__.values())) == [1, 1]
    assert hold_out(["MK"], "protein") == Corpus(["MK"], []) or hold_out(["MK"], "protein") == Corpus([], ["MK"])


def test_a_sample_is_even_bounded_and_the_same() -> None:
    sequences = [f"{i:03d}" for i in range(100)]
    assert sample_evenly(sequences, 30) == [f"{i:03d}" for i in range(0, 100, 10)]
    assert sample_evenly(sequences, 300) == sequences
    assert spread_evenly(sequences, 1) == ["000"]


def test_a_sample_is_never_larger_than_asked_for() -> None:
    lengths = [900, 10, 10, 10, 900, 10, 10, 10, 5000]  # those that are picked first happen to be long
    sample = sample_evenly(["A" * length for length in lengths], 1000)
    assert 500 <= sum(map(len, sample)) <= 1000
    with pytest.raises(DataError, match=r"max_residues is 1,000, but the shortest of the 2 sequences to train on has 5,000; raise it"):
        sample_evenly(["A" * 5000, "C" * 9999], 1000)


def test_words_hold_no_unknown_residue_and_are_bounded() -> None:
    assert list(training_words(["ACNNGT", "NN"], "dna")) == ["AC", "GT"]
    assert list(training_words(["MKXV"], "protein")) == ["MK", "V"]
    assert [len(word) for word in training_words(["A" * 1030], "dna")] == [512, 512, 6]
    assert list(training_words(["an N and an X"], "text")) == ["an N and an X"]


def test_both_strands_are_read() -> None:
    assert list(both_strands(["AACN"], "dna")) == ["AACN", "NGTT"]
    assert list(both_strands(["AACN"], "rna")) == ["AACN", "NGUU"]
