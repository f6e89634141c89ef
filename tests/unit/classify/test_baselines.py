from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from biollm.classify.baselines import (
    hashed_kmer_names,
    kmer_frequencies,
    kmer_names,
    positional_letters,
    positional_names,
    positional_one_hot,
    random_vectors,
)
from biollm.classify.features import KmerBlock
from biollm.classify.rows import KMERS, RowPlan
from biollm.classify.tables import Tables
from biollm.classify.tracks import track_feature_names, track_features
from biollm.core.errors import ConfigError

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


def test_rna_and_protein_kmers_are_read_in_one_direction() -> None:
    assert kmer_frequencies(["AACU"], 1, "rna").tolist() == [[0.5, 0.25, 0.0, 0.25]]
    table = kmer_frequencies(["MKXKM"], 2, "protein")
    names = kmer_names(2, "protein")
    assert table.shape == (1, 400)
    assert {names[i] for i in np.flatnonzero(table[0])} == {"MK", "KM"}


def test_text_grams_are_the_same_for_the_same_text() -> None:
    table = kmer_frequencies(["a cell", "a cell", "another"], 3, "text")
    assert table.shape == (3, len(kmer_names(3, "text")))
    assert (table[0] == table[1]).all()
    assert (table[0] != table[2]).any()
    assert table.sum(axis=1) == pytest.approx(1)


def test_kmer_names_stand_over_their_columns() -> None:
    table = kmer_frequencies(["GATTACA"], 3)
    assert {kmer_names(3)[i] for i in np.flatnonzero(table[0])} == {"ATC/GAT", "AAT/ATT", "TAA/TTA", "GTA/TAC", "ACA/TGT"}


def test_too_long_kmers_are_refused_with_the_longest_that_would_do() -> None:
    with pytest.raises(ConfigError, match=r"classify.kmer is 4, which makes 160,000 columns for protein; expected at most 3"):
        kmer_frequencies(["MK"], 4, "protein")


def test_letters_by_position_by_hand() -> None:
    assert positional_letters(["AC", "GN"], "dna") == (2, "ACGT")
    assert positional_one_hot(["AC", "GN"], 2, "ACGT").tolist() == [[1, 0, 0, 0, 0, 1, 0, 0], [0, 0, 1, 0, 0, 0, 0, 0]]
    assert positional_names(2, "ACGT")[5] == "C at 2"
    assert positional_letters(["AC", "G"], "dna") == "sequences are 1 to 2 long; one length is needed"
    assert "at most 2,048 are used" in positional_letters(["A" * 600], "dna")
    assert "no fixed meaning" in positional_letters(["ab"], "text")


def test_random_vectors_know_only_which_sequences_are_equal() -> None:
    vectors = random_vectors(["AC", "GT", "AC"], 50, 7)
    assert (vectors[0] == vectors[2]).all()
    assert abs(np.corrcoef(vectors[0], vectors[1])[0, 1]) < 0.5
    assert (random_vectors(["GT"], 50, 7)[0] == vectors[1]).all()


def test_tracks_are_summed_up_with_missing_values_by_hand() -> None:
    nan = float("nan")
    lists = pl.List(pl.Float32)
    table = pl.DataFrame(
        {
            "track_cg": pl.Series([[0.5, nan, 1.0, nan], [nan, nan, nan, nan], None], dtype=lists),
            "coverage_cg": pl.Series([[3.0, nan, 5.0, nan], [nan] * 4, None], dtype=lists),
            "track_gc": pl.Series([[0.2], [0.4], [0.6]], dtype=lists),
        }
    )
    names = track_feature_names(["cg", "gc"], ["cg"])
    assert names[:4] == ["cg: mean level", "cg: share of residues with a value", "cg: log mean coverage", "cg: missing"]
    features = track_features(table, ["cg", "gc"])
    assert features.shape == (3, len(names))
    assert features[0].tolist() == pytest.approx([0.75, 0.5, np.log(5), 0, 0.2, 1, 0], abs=1e-6)
    assert features[1:, :4].tolist() == [[0, 0, 0, 1], [0, 0, 0, 1]]


def test_hashed_columns_are_named_by_the_k_grams_that_fell_into_them() -> None:
    sequences = ["CC(=O)Oc1ccccc1", "CC(=O)N", "a gene, a Gene"]
    names, table = hashed_kmer_names(3, sequences), kmer_frequencies(sequences, 3, "text")
    assert len(names) == table.shape[1]
    for sequence, row in zip(sequences, table, strict=True):
        grams = {sequence[i : i + 3] for i in range(len(sequence) - 2)}
        assert all(any(repr(gram) in names[i] for gram in grams) for i in np.flatnonzero(row))
    assert sum("bucket" not in name for name in names) == (table > 0).any(axis=0).sum()
    assert hashed_kmer_names(3, ["CC"]) == kmer_names(3, "smiles"), "too short for a k-gram"
    tables = Tables({KMERS: KmerBlock(k=3, modality="text")}, {}, {}, pl.DataFrame({"sequence": sequences}))
    assert tables.names(RowPlan("kmers_logistic", "", (KMERS,), "logistic", True), None) == names
    crowded = hashed_kmer_names(3, ["".join(chr(33 + i * j % 90) for i in range(4000)) for j in range(1, 60)])
    assert any(name.endswith("others") for name in crowded)
