from __future__ import annotations

import numpy as np
import pytest

from biollm.classify.baselines import kmer_frequencies, majority_scores

_COMPLEMENT = str.maketrans("ACGT", "TGCA")


def test_both_strands_give_the_same_kmers() -> None:
    sequence = "GATTACAGGCCT"
    both = kmer_frequencies([sequence, sequence.translate(_COMPLEMENT)[::-1]], 4)
    assert both.shape == (2, 136)
    assert (both[0] == both[1]).all()


def test_kmer_frequencies_by_hand() -> None:
    # k = 1: A and T share a column, C and G the other
    assert kmer_frequencies(["AATC", "GGGG"], 1).tolist() == [[0.75, 0.25], [0.0, 1.0]]
    # k = 2 over ACNGT: AC and GT, which are each other's reverse complement
    counted = kmer_frequencies(["ACNGT"], 2)
    assert counted.shape == (1, 10)
    assert sorted(counted[0])[-2:] == [0.0, 1.0]


@pytest.mark.parametrize("sequence", ["", "ACG", "NNNNNNNN"])
def test_a_sequence_without_kmers_is_a_row_of_zeros(sequence: str) -> None:
    assert not kmer_frequencies([sequence], 4).any()


def test_majority_scores_say_nothing_about_a_record() -> None:
    assert majority_scores(np.array([True, False, False, False]), 3).tolist() == [0.25] * 3
