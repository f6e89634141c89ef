"""Intervals of ratios over groups."""

from __future__ import annotations

import numpy as np

from biollm.core.bootstrap import FloatArray, ratio_interval


def interval(parts: FloatArray, whole: FloatArray, groups: list[str]) -> tuple[float, float]:
    found = ratio_interval(parts, whole, groups, np.random.default_rng(7))
    assert found is not None
    return found


def test_records_of_one_group_are_drawn_together() -> None:
    """Ten copies of a record in one group say no more than one: the interval of 20 groups stays as wide as that of 20 records."""
    right = np.random.default_rng(1).integers(0, 2, 20).astype(float)
    alone = interval(right, np.ones(20), [str(i) for i in range(20)])
    copies = interval(np.repeat(right, 10), np.ones(200), [str(i // 10) for i in range(200)])
    single = interval(np.repeat(right, 10), np.ones(200), [str(i) for i in range(200)])
    assert copies == alone
    assert single[1] - single[0] < 0.6 * (alone[1] - alone[0])


def test_a_ratio_of_sums_lies_inside_its_interval_and_far_groups_widen_it() -> None:
    rng = np.random.default_rng(3)
    whole = rng.integers(50, 100, 200).astype(float)
    alike, apart = whole * rng.normal(2, 0.1, 200), whole * np.repeat(rng.normal(2, 0.5, 20), 10)
    groups = [str(i // 10) for i in range(200)]
    (low, high), wide = (interval(parts, whole, groups) for parts in (alike, apart))
    assert low < alike.sum() / whole.sum() < high
    assert wide[1] - wide[0] > 5 * (high - low)


def test_groups_that_are_nothing_of_the_whole_change_nothing() -> None:
    parts, whole, groups = np.arange(1.0, 6), np.ones(5), list("abcde")
    more = interval(np.append(parts, [0.0, 0.0]), np.append(whole, [0.0, 0.0]), [*groups, "x", "y"])
    assert more == interval(parts, whole, groups)
    assert ratio_interval(np.zeros(2), np.array([3.0, 0.0]), ["a", "b"], np.random.default_rng(7)) is None


def test_one_group_says_nothing_of_others() -> None:
    assert ratio_interval(np.arange(5.0), np.ones(5), ["a"] * 5, np.random.default_rng(7)) is None
