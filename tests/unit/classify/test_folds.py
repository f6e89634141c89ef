"""Which records reach which fold, and what is refused before anything is fitted: torn lists, labels that are NaN."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from biollm.classify.config import Config, SplitOptions
from biollm.classify.data import check_given_splits, load_dataset
from biollm.classify.folds import inner_folds, outer_folds
from biollm.classify.targets import Targets
from biollm.core.errors import DataError

_IDS = [f"r{i}" for i in range(24)]
_RELEVANCE = np.tile([0.0, 1.0], 12)
_PAIRS, _SINGLE = [f"g{i // 2}" for i in range(24)], [f"g{i}" for i in range(24)]


def _ranking(lists: list[int]) -> Targets:
    return Targets("ranking", (), _RELEVANCE, np.array(lists))


def test_folds_that_hold_whole_lists_are_made() -> None:
    targets = _ranking([i // 2 for i in range(24)])
    for scheme in ("group_kfold", "nested", "leave_one_group_out"):
        folds = outer_folds(SplitOptions(scheme=scheme, folds=3), targets, _IDS, _PAIRS, 0)
        assert sorted(np.concatenate([fold.test for fold in folds])) == list(range(24))


@pytest.mark.parametrize("scheme", ["group_kfold", "nested", "leave_one_group_out"])
def test_a_list_that_folds_would_tear_is_refused(scheme: Any) -> None:
    lists = [0, 1, 2, 3] * 6
    with pytest.raises(DataError) as caught:
        outer_folds(SplitOptions(scheme=scheme, folds=3), _ranking(lists), _IDS, _SINGLE, 0)
    message = str(caught.value)
    assert message.startswith("4 lists lie in more than one fold: that of r0 (")
    assert "set classify.split.by to the column of classify.query" in message


def test_a_list_that_inner_folds_would_tear_is_refused() -> None:
    with pytest.raises(DataError, match=r"2 lists lie in more than one inner fold: that of row 0 \(inner fold \d\) and row \d+ \(inner"):
        inner_folds(_ranking([0, 1] * 12), np.arange(24), 3, 0)


def _corpus(path: Path, **columns: list[Any]) -> Path:
    table = {"id": _IDS, "sequence": ["ACGT"] * 24, "split": ["train"] * 8 + ["validation"] * 8 + ["test"] * 8, "group": _PAIRS}
    pl.DataFrame(table | columns, strict=False).write_parquet(path)
    return path


def test_a_list_in_several_splits_is_refused_by_its_name(tmp_path: Path) -> None:
    lists = ["apart" if i in (1, 9, 17) else f"l{i // 2}" for i in range(24)]
    path = _corpus(tmp_path / "r.parquet", label_rel=_RELEVANCE.astype(int).tolist(), list=lists)
    torn = load_dataset(path, Config(label="rel", task="ranking", query="list"), "corpus")
    with pytest.raises(
        DataError,
        match=r"corpus: 1 lists by 'list' lie in more than one split: apart \(r1 in train, r9 in validation\); .* ingest.split.by",
    ):
        check_given_splits(torn, "label_rel")
    check_given_splits(load_dataset(path, Config(label="rel", task="ranking"), "corpus"), "label_rel")


def test_labels_with_a_point_are_0_and_1_too_and_a_fraction_is_named(tmp_path: Path) -> None:
    whole, half = [float(i % 2) for i in range(24)], [0.5 if i == 4 else float(i % 2) for i in range(24)]
    dataset = load_dataset(_corpus(tmp_path / "r.parquet", label_a=whole, label_b=whole[::-1]), Config(labels=["a", "b"]), "corpus")
    assert dataset.targets.values[:2].tolist() == [[0, 1], [1, 0]]
    with pytest.raises(DataError, match="corpus: 1 records have no 0 or 1 in 'label_b': r4; expected 0, 1 or nothing for each"):
        load_dataset(_corpus(tmp_path / "r.parquet", label_a=whole, label_b=half), Config(labels=["a", "b"]), "corpus")


def test_a_list_in_several_groups_is_refused_where_groups_go_into_folds(tmp_path: Path) -> None:
    path = _corpus(tmp_path / "r.parquet", label_rel=[0, 0, 1, 1] * 6, list=["a", "b"] * 4 + ["c", "d"] * 8)
    options = {"label": "rel", "task": "ranking", "query": "list"}
    with pytest.raises(
        DataError,
        match=r"corpus: 4 lists by 'list' lie in more than one 'group': a \(r0 in g0, r2 in g1\), b .*; set classify.split.by to 'list'",
    ):
        load_dataset(path, Config(**options, split={"scheme": "group_kfold"}), "corpus")
    for whole in ({"scheme": "group_kfold", "by": "list"}, {}):
        assert len(load_dataset(path, Config(**options, split=whole), "corpus")) == 24


def test_a_record_without_a_list_is_named(tmp_path: Path) -> None:
    path = _corpus(tmp_path / "r.parquet", label_rel=_RELEVANCE.astype(int).tolist(), list=[None, None, *_PAIRS[2:]])
    with pytest.raises(DataError, match=r"corpus: 2 records have no 'list': r0, r1; .* classify.query"):
        load_dataset(path, Config(label="rel", task="ranking", query="list"), "corpus")


@pytest.mark.parametrize("labels", [{"label": "y"}, {"label": "y", "task": "regression"}, {"labels": ["y", "other"]}])
def test_a_label_that_is_null_is_left_out_and_one_that_is_nan_is_refused_by_id(tmp_path: Path, labels: dict[str, Any]) -> None:
    values: list[float | None] = [float(i % 2) for i in range(24)]
    values[3] = None
    other = [i // 2 % 2 for i in range(24)]
    dataset = load_dataset(_corpus(tmp_path / "null.parquet", label_y=values, label_other=other), Config(**labels), "corpus")
    assert (len(dataset), dataset.unlabelled) == (23, {"r3"})
    values[7] = float("nan")
    path = _corpus(tmp_path / "nan.parquet", label_y=values, label_other=other)
    with pytest.raises(DataError, match=r"corpus: 1 records have .* in 'label_y': r7; expected .* or nothing"):
        load_dataset(path, Config(**labels), "corpus")
