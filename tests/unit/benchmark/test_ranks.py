"""Means, spreads and ranks: worked out by hand."""

from __future__ import annotations

import math

import pytest

from biollm.benchmark.scoring import Entry
from biollm.benchmark.summary import mean_ranks, summarise
from biollm.classify.measures import Measure

AUROC, RMSE = Measure("auroc", "AUROC"), Measure("rmse", "RMSE", higher_is_better=False)


def _entries(measure: str, **values: list[float]) -> list[Entry]:
    return [Entry(name, "baseline" if name == "kmers" else "model", [{measure: v} for v in column]) for name, column in values.items()]


def test_the_mean_and_the_standard_deviation_of_a_sample() -> None:
    a, b = summarise(_entries("auroc", kmers=[0.5], a=[0.6, 0.8]), AUROC)
    assert (a.name, a.rank, b.rank) == ("a", 1, 2)
    assert a.mean == pytest.approx(0.7)
    assert a.sd == pytest.approx(math.sqrt(0.02))
    assert b.sd is None, "one seed has no spread"


def test_equal_means_share_a_rank_and_lower_is_better_where_it_is() -> None:
    found = summarise(_entries("rmse", a=[2.0], b=[1.0], c=[2.0]), RMSE)
    assert [(one.name, one.rank) for one in found] == [("b", 1), ("a", 2.5), ("c", 2.5)]


def test_what_could_not_be_measured_is_last_and_has_no_rank() -> None:
    found = summarise(_entries("auroc", a=[float("nan")], b=[0.5], c=[float("nan"), 0.9]), AUROC)
    assert [(one.name, one.mean, one.rank) for one in found] == [("c", 0.9, 1), ("b", 0.5, 2), ("a", None, None)]
    assert found[0].values == [None, 0.9]


def test_ranks_are_meant_over_the_tables_that_an_entry_stands_in() -> None:
    one = summarise(_entries("auroc", a=[0.9], kmers=[0.8], b=[0.7]), AUROC)
    two = summarise(_entries("auroc", b=[0.9], kmers=[0.8]), AUROC)
    found = {rank.name: rank for rank in mean_ranks([one, two])}
    assert [rank.name for rank in mean_ranks([one, two])] == ["b", "kmers", "a"], "one table says less than two"
    assert (found["a"].mean_rank, found["a"].tables, found["a"].wins) == (1, 1, 1)
    assert (found["b"].mean_rank, found["b"].tables, found["b"].wins) == (2, 2, 1)
    assert (found["kmers"].mean_rank, found["kmers"].kind) == (2, "baseline")


def test_equals_at_the_top_are_all_first() -> None:
    found = {rank.name: rank for rank in mean_ranks([summarise(_entries("auroc", a=[0.9], b=[0.9], kmers=[0.5]), AUROC)])}
    assert (found["a"].mean_rank, found["a"].wins, found["b"].wins, found["kmers"].wins) == (1.5, 1, 1, 0)


def test_a_baseline_of_tasks_with_unlike_heads_is_one_entry() -> None:
    one = summarise([Entry("m", "model", [{"auroc": 0.9}]), Entry("k-mers", "baseline", [{"auroc": 0.8}], "logistic")], AUROC)
    two = summarise([Entry("m", "model", [{"rmse": 2.0}]), Entry("k-mers", "baseline", [{"rmse": 1.0}], "ridge")], RMSE)
    assert [(rank.name, rank.mean_rank, rank.tables) for rank in mean_ranks([one, two])] == [("k-mers", 1.5, 2), ("m", 1.5, 2)]
