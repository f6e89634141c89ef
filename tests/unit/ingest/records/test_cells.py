"""Cells as sentences of genes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sparse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from biollm.core.errors import DataError
from biollm.ingest.records.config import RecordOptions
from biollm.ingest.records.read import RecordTable, read_records

anndata = pytest.importorskip("anndata", reason="the extra 'cells' is not installed")
pd = pytest.importorskip("pandas")

X = np.array([[1, 5, 0, 2], [0, 0, 0, 0], [3, 3, 9, 0]], dtype=np.float32)
Cells = Callable[..., RecordTable]


@pytest.fixture
def cells(tmp_path: Path) -> Cells:
    """cells(X, labels={…}) -> the records of an .h5ad file with this X, a row for each of three cells."""

    def read(x: Any, genes: list[str] | None = None, **options: Any) -> RecordTable:
        obs = pd.DataFrame({"type": pd.Categorical(["T", "B", None]), "age": [1, 2, np.nan]}, index=["c1", "c2", "c3"])
        many = x.shape[1]
        columns = {"symbol": list("ABCD"), "median": [1, 10.0, 1, 1], "bad": [0, 1, 1, 1]}
        var = pd.DataFrame(
            {name: np.resize(values, many) for name, values in columns.items()}, index=genes or [f"g{i}" for i in range(many)]
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            anndata.AnnData(x, obs=obs, var=var).write_h5ad(tmp_path / "x.h5ad")
        return read_records([tmp_path / "x.h5ad"], RecordOptions(**options), "text")

    return read


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
def test_genes_stand_by_expression_and_ties_by_place(cells: Cells, kind: Any) -> None:
    table = cells(kind(X), labels={"type": "type", "age": "age"})
    assert table.frame.rows() == [("c1", "g1 g3 g0", "T", 1.0), ("c3", "g2 g0 g1", None, None)]
    assert table.counts["dropped, blank sequence"] == 1
    assert table.dropped.row(0)[2:] == ("row 2", "blank sequence")


def test_many_genes_of_equal_expression_keep_their_order(cells: Cells) -> None:
    x = np.tile(np.arange(400, dtype=np.float32) % 3 + 1, (3, 1))
    wanted = sorted(range(400), key=lambda i: (-x[0, i], i))
    assert cells(x).frame["sequence"][0] == " ".join(f"g{i}" for i in wanted)


def test_scaling_and_logarithm_change_no_sentence(cells: Cells) -> None:
    """Cell2Sentence ranks log1p of counts per 10,000; that is the rank of the counts."""
    scaled = np.log1p(X / np.maximum(X.sum(1, keepdims=True), 1) * 10_000)
    assert cells(scaled).frame.equals(cells(X).frame)


def test_medians_divide_as_geneformer_does(cells: Cells) -> None:
    assert cells(X, cells={"medians": "median"}).frame["sequence"].to_list() == ["g3 g0 g1", "g2 g0 g1"]


def test_a_sentence_is_cut_and_names_come_from_a_column(cells: Cells) -> None:
    assert cells(X, cells={"genes": 2, "gene_names": "symbol"}).frame["sequence"].to_list() == ["B D", "C A"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 3), min_size=12, max_size=12))
def test_sparse_and_dense_give_the_same(cells: Cells, values: list[int]) -> None:
    x = np.array(values, dtype=np.float32).reshape(3, 4)
    if x.any():
        assert cells(x).frame.equals(cells(sparse.csr_matrix(x)).frame)


def test_blocks_of_cells_join_without_a_seam(cells: Cells, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = cells(sparse.csr_matrix(X))
    monkeypatch.setattr("biollm.ingest.records.cells._CELLS_AT_ONCE", 2)
    assert cells(sparse.csr_matrix(X)).frame.equals(whole.frame)


@pytest.mark.parametrize(
    ("x", "genes", "options", "says"),
    [
        (-X, None, {}, "row 1: X holds negative or missing"),
        (np.where(X == 9, np.nan, X), None, {}, "row 3: X holds negative or missing"),
        (X, ["a", "b c", "d", "e"], {}, "gene 2 of var is called 'b c'.*rename it"),
        (X, None, {"cells": {"gene_names": "q"}}, "no column 'q'.*symbol, median"),
        (X, None, {"cells": {"medians": "q"}}, "no column 'q'.*symbol, median"),
        (X, None, {"cells": {"medians": "symbol"}}, "holds no numbers"),
        (X, None, {"cells": {"medians": "bad"}}, "not above 0; mend it"),
        (X, None, {"labels": {"y": "q"}}, "row 1: no column 'q'.*type, age: write one"),
        (X * 0, None, {}, "row 1: none of 3 records is left"),
    ],
)
def test_cells_that_cannot_be_ranked_are_refused(cells: Cells, x: Any, genes: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        cells(x, genes, **options)
