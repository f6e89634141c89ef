from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from biollm.classify.metrics import bootstrap, interval, measure, measure_once, resample_groups, roc_points, two_sided_p


@given(st.integers(0, 2**32), st.integers(4, 60), st.integers(1, 6))
def test_measures_equal_scikit_learn_with_ties_and_weights(seed: int, rows: int, distinct: int) -> None:
    rng = np.random.default_rng(seed)
    positive = np.arange(rows) % 3 == 0
    scores = rng.integers(0, distinct, rows) / distinct
    weights = rng.integers(0, 4, (5, rows)).astype(np.float64)
    weights[:, :2] += 1  # both classes keep weight
    found = measure(positive, scores, weights)
    for b in range(5):
        assert found.auroc[b] == pytest.approx(roc_auc_score(positive, scores, sample_weight=weights[b]), abs=1e-12)
        assert found.auprc[b] == pytest.approx(average_precision_score(positive, scores, sample_weight=weights[b]), abs=1e-12)


def test_a_weight_of_two_is_the_row_standing_twice() -> None:
    positive, scores = np.array([True, False, True, False]), np.array([0.9, 0.8, 0.4, 0.1])
    weighted = measure(positive, scores, np.array([[1.0, 2.0, 1.0, 1.0]]))
    twice = measure_once(np.append(positive, False), np.append(scores, 0.8))
    assert (weighted.auroc[0], weighted.auprc[0]) == pytest.approx(twice)


def test_rows_of_one_group_are_drawn_together() -> None:
    groups = ["a", "a", "b", "b", "c", "c"]
    resamples = resample_groups(groups, np.array([True, False] * 3), 50, np.random.default_rng(0))
    weights = resamples.counts_BG[:, resamples.group_of_row]
    assert (weights[:, 0::2] == weights[:, 1::2]).all()
    assert (weights.sum(axis=1) == 6).all()
    assert resamples.groups == 3


def test_resamples_without_both_classes_are_left_out_and_counted() -> None:
    resamples = resample_groups(["a", "b"], np.array([True, False]), 1000, np.random.default_rng(0))
    assert len(resamples.counts_BG) + resamples.skipped == 1000
    assert 400 < resamples.skipped < 600  # half of the draws of two groups take one of them twice
    assert (resamples.counts_BG == 1).all()


def test_intervals_are_wider_when_errors_come_in_groups() -> None:
    rng = np.random.default_rng(3)
    labels = np.tile([True, False], 100)
    offsets = np.repeat(rng.normal(size=20), 10)
    # a group whose scores all point the wrong way spoils its ten rows at once
    scores = np.where(labels, 1.0, -1.0) * np.sign(offsets + 0.7) + rng.normal(size=200)
    widths = []
    for groups in ([f"g{i // 10}" for i in range(200)], [f"g{i}" for i in range(200)]):
        low, high = interval(bootstrap(labels, scores, resample_groups(groups, labels, 400, np.random.default_rng(0))).auroc)
        widths.append(high - low)
    assert widths[0] > 1.5 * widths[1]


def test_bootstrap_gives_the_same_numbers_in_small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, scores = np.tile([True, False], 20), np.random.default_rng(0).normal(size=40)
    resamples = resample_groups([f"g{i // 4}" for i in range(40)], labels, 100, np.random.default_rng(0))
    whole = bootstrap(labels, scores, resamples)
    monkeypatch.setattr(bootstrap.__globals__["__name__"] + "._CHUNK_WEIGHTS", 120)
    parts = bootstrap(labels, scores, resamples)
    assert (whole.auroc == parts.auroc).all()
    assert (whole.auprc == parts.auprc).all()


def test_p_is_small_only_when_one_side_is_rare() -> None:
    assert two_sided_p(np.full(999, 0.1)) == pytest.approx(0.002)
    assert two_sided_p(np.zeros(100)) == 1.0
    assert two_sided_p(np.array([-1.0, 1.0] * 50)) == 1.0


def test_thinned_roc_keeps_its_ends_and_lies_on_the_curve() -> None:
    rng = np.random.default_rng(1)
    labels, scores = rng.random(3000) < 0.3, rng.normal(size=3000)
    fpr, tpr = roc_points(labels, scores, 200)
    assert len(fpr) == 200
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    full = {(round(x, 5), round(y, 5)) for x, y in zip(*roc_curve(labels, scores, drop_intermediate=False)[:2], strict=True)}
    assert set(zip(fpr, tpr, strict=True)) <= full
    assert roc_points(np.array([True, False]), np.array([0.5, 0.5]), 200) == ([0.0, 1.0], [0.0, 1.0])
