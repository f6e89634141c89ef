"""What find_duplicates drops, and why."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from biollm.core.alphabets import reverse_complement
from biollm.core.errors import DataError
from biollm.corpus.duplicates import find_duplicates


def random_dna(bases: int, seed: int) -> str:
    return "".join(np.random.default_rng(seed).choice(list("ACGT"), bases))


ONE, OTHER = random_dna(200, 1), random_dna(200, 2)
NEAR_ONE = ONE[:100] + ("A" if ONE[100] != "A" else "C") + ONE[101:]


def test_each_kind_is_told_and_the_first_is_kept() -> None:
    table = pl.DataFrame({"sequence": [ONE, OTHER, ONE.lower(), reverse_complement(ONE), NEAR_ONE, reverse_complement(NEAR_ONE)]})
    found = find_duplicates(table, "dna", 0.8)
    assert found.select("row", "kept_row", "kind").rows() == [
        (2, 0, "exact"),
        (3, 0, "reverse_complement"),
        (4, 0, "near"),
        (5, 0, "near"),
    ]
    shared = 200 - 12 + 1 - 12
    assert found["similarity"].to_list() == pytest.approx([1, 1, *[shared / (shared + 24)] * 2])


def test_without_near_only_equal_rows_go() -> None:
    table = pl.DataFrame({"sequence": [ONE, NEAR_ONE, reverse_complement(NEAR_ONE)]})
    assert find_duplicates(table, "dna").rows() == [(2, 1, "reverse_complement", 1.0)]


def test_the_smaller_id_is_kept_whatever_the_order_of_the_rows() -> None:
    rng = np.random.default_rng(0)
    founders = [random_dna(200, seed) for seed in range(10, 16)]
    rows = [(f"r{i:02d}", founders[i % 6][:180] + random_dna(20, 100 + i)) for i in range(30)] + [("a", founders[3]), ("z", founders[3])]
    results = []
    for _ in range(5):
        mixed = [rows[i] for i in rng.permutation(len(rows))]
        found = find_duplicates(pl.DataFrame(mixed, schema=["id", "sequence"], orient="row"), "dna", 0.5)
        results.append({(mixed[r][0], mixed[k][0], kind, s) for r, k, kind, s in found.rows()})
    assert all(result == results[0] for result in results)
    assert ("z", "a", "exact", 1.0) in results[0]
    assert all(kept < dropped for dropped, kept, _, _ in results[0])


def test_of_a_chain_both_ends_stay() -> None:
    long = random_dna(500, 5)
    table = pl.DataFrame({"sequence": [long[0:256], long[60:316], long[120:376]]})
    assert find_duplicates(table, "dna", 0.5).select("row", "kept_row").rows() == [(1, 0)]


def test_a_kept_row_is_never_dropped() -> None:
    base = random_dna(256, 6)
    rows = [base[i:] + random_dna(i, 50 + i) if i else base for i in range(0, 200, 7)] * 2
    found = find_duplicates(pl.DataFrame({"sequence": rows}), "dna", 0.4)
    assert not set(found["row"]) & set(found["kept_row"])


def test_the_two_strands_of_a_protein_are_nothing() -> None:
    table = pl.DataFrame({"sequence": ["ACGT", "ACGT"[::-1], "acgt"]})
    assert find_duplicates(table, "protein").rows() == [(2, 0, "exact", 1.0)]


def test_an_empty_table_and_null_sequences_have_no_duplicates() -> None:
    assert find_duplicates(pl.DataFrame({"sequence": []}, schema={"sequence": pl.String}), "dna", 0.5).rows() == []
    assert find_duplicates(pl.DataFrame({"sequence": [None, None, ""]}, schema={"sequence": pl.String}), "dna", 0.5).rows() == []


def test_a_missing_column_and_an_impossible_threshold_are_refused() -> None:
    with pytest.raises(DataError, match="no column 'sequence'; it has text"):
        find_duplicates(pl.DataFrame({"text": ["A"]}), "dna")
    with pytest.raises(DataError, match="near is 80"):
        find_duplicates(pl.DataFrame({"sequence": ["A"]}), "dna", 80)
