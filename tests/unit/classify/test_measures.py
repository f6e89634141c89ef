from __future__ import annotations

import warnings

import numpy as np
import polars as pl
import pytest
from scipy.stats import spearmanr
from sklearn import metrics

from biollm.classify.calibration import abstention_facts, calibration_curve, choose_abstention, confidence_and_right, fit_calibrator
from biollm.classify.data import Dataset
from biollm.classify.folds import Fold
from biollm.classify.measures import bootstrap_all, measure_all, measure_plain, unlearned, without_fold_levels
from biollm.classify.metrics import interval, pr_points, resample_groups
from biollm.classify.scoring import majority_outcome
from biollm.classify.targets import Targets, resolve_task
from biollm.core.errors import DataError


def _two(rows: int, seed: int) -> tuple[Targets, np.ndarray]:
    rng = np.random.default_rng(seed)
    values = (rng.random(rows) < 0.4).astype(float)
    return Targets("binary", ("0", "1"), values), np.clip(0.3 * values + 0.6 * rng.random(rows), 0, 1).round(2)


def test_measures_of_two_classes_equal_scikit_learn_on_repeated_rows() -> None:
    targets, output = _two(80, 0)
    weights = np.random.default_rng(1).integers(0, 4, (3, 80)).astype(float)
    found = measure_all(targets, output, weights)
    for b in range(3):
        rows = np.repeat(np.arange(80), weights[b].astype(int))
        y, p = targets.values[rows], output[rows]
        assert found["auroc"][b] == pytest.approx(metrics.roc_auc_score(y, p))
        assert found["mcc"][b] == pytest.approx(metrics.matthews_corrcoef(y, p >= 0.5))
        assert found["f1"][b] == pytest.approx(metrics.f1_score(y, p >= 0.5))
        assert found["accuracy"][b] == pytest.approx(metrics.accuracy_score(y, p >= 0.5))
        assert found["brier"][b] == pytest.approx(metrics.brier_score_loss(y, p))


def test_measures_of_several_classes_equal_scikit_learn() -> None:
    rng = np.random.default_rng(2)
    values = rng.integers(0, 3, 90)
    output = rng.dirichlet(np.ones(3), 90) * 0.5 + 0.5 * np.eye(3)[values]
    found = measure_plain(Targets("multiclass", ("a", "b", "c"), values.astype(float)), output)
    called = output.argmax(axis=1)
    assert found["auroc"] == pytest.approx(metrics.roc_auc_score(values, output, multi_class="ovr"))
    assert found["mcc"] == pytest.approx(metrics.matthews_corrcoef(values, called))
    assert found["f1"] == pytest.approx(metrics.f1_score(values, called, average="macro"))
    assert found["brier"] == pytest.approx(((output - np.eye(3)[values]) ** 2).sum(axis=1).mean())


def test_a_class_without_scored_rows_is_left_out_of_the_mean() -> None:
    output = np.array([[0.7, 0.2, 0.1], [0.4, 0.5, 0.1], [0.3, 0.6, 0.1]])
    assert measure_plain(Targets("multiclass", ("a", "b", "c"), np.array([0.0, 1, 1])), output)["auroc"] == 1
    assert np.isnan(measure_plain(Targets("binary", ("0", "1"), np.ones(3)), output[:, 0])["auroc"])


def test_measures_of_quantities_equal_scikit_learn_and_scipy_with_ties() -> None:
    rng = np.random.default_rng(3)
    values, output = rng.integers(0, 6, 60).astype(float), rng.integers(0, 5, 60).astype(float)
    weights = rng.integers(0, 3, (2, 60)).astype(float)
    found = measure_all(Targets("regression", (), values), output, weights)
    for b in range(2):
        rows = np.repeat(np.arange(60), weights[b].astype(int))
        assert found["r2"][b] == pytest.approx(metrics.r2_score(values[rows], output[rows]))
        assert found["spearman"][b] == pytest.approx(spearmanr(values[rows], output[rows]).statistic)
        assert found["rmse"][b] == pytest.approx(metrics.root_mean_squared_error(values[rows], output[rows]))


def test_ndcg_equals_scikit_learn_with_ties_and_without_empty_lists() -> None:
    relevance, scores = np.array([3.0, 0, 1, 2, 0, 0]), np.array([0.5, 0.5, 0.1, 0.9, 0.3, 0.2])
    found = measure_plain(Targets("ranking", (), relevance, np.array([0, 0, 0, 0, 1, 1])), scores)
    linear = metrics.ndcg_score([relevance[:4]], [scores[:4]])
    assert found["ndcg"] == pytest.approx(linear)


def test_a_head_that_knows_nothing_is_at_chance_over_all_folds_together() -> None:
    """Its output is the share of positives of its train rows, which is low where the fold's own share is high."""
    values = np.repeat([1.0, 0.0], 50)
    folds = [(np.arange(50, 100), np.arange(50)), (np.arange(50), np.arange(50, 100))]
    targets = Targets("binary", ("0", "1"), np.where(np.arange(100) % 5 == 0, 1 - values, values))
    output = np.empty(100)
    for train, scored in folds:
        output[scored] = targets.values[train].mean()
    assert measure_plain(targets, output)["auroc"] < 0.3
    ranked = without_fold_levels(targets, output, folds)
    assert measure_plain(targets, output, ranked)["auroc"] == 0.5
    assert without_fold_levels(targets, output, folds[:1]) is output


def test_resamples_of_several_classes_and_of_quantities() -> None:
    member = np.eye(3, dtype=bool)[np.array([0, 0, 1, 1, 2, 2])]
    resamples = resample_groups(list("aabbcc"), member, 200, np.random.default_rng(0))
    assert 0 < resamples.skipped < 60, "three draws of one group have one class only"
    anything = resample_groups(list("aabbcc"), None, 200, np.random.default_rng(0))
    assert anything.skipped == 0
    targets = Targets("multiclass", ("a", "b", "c"), np.array([0.0, 0, 1, 1, 2, 2]))
    assert not np.isnan(bootstrap_all(targets, np.full((6, 3), 1 / 3), resamples)["auroc"]).any()


def test_pr_points_lie_on_the_curve() -> None:
    targets, output = _two(300, 5)
    recall, precision = pr_points(targets.positive, output, 200)
    full = {(round(r, 5), round(p, 5)) for p, r, _ in zip(*metrics.precision_recall_curve(targets.positive, output), strict=False)}
    assert set(zip(recall, precision, strict=True)) <= full
    assert recall[-1] == 1


@pytest.mark.parametrize("method", ["isotonic", "sigmoid", "temperature"])
def test_calibration_mends_overconfident_probabilities(method: str) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=4000)
    values = (rng.random(4000) < 1 / (1 + np.exp(-logits))).astype(float)
    sure = 1 / (1 + np.exp(-4 * logits))
    targets = Targets("binary", ("0", "1"), values)
    half, rest = np.arange(2000), np.arange(2000, 4000)
    calibrator = fit_calibrator(method, targets.take(half), sure[half], True)  # type: ignore[arg-type]
    mended = type(calibrator).model_validate_json(calibrator.model_dump_json()).apply(sure[rest])
    before, after = measure_plain(targets.take(rest), sure[rest])["ece"], measure_plain(targets.take(rest), mended)["ece"]
    assert after < 0.05 < before


@pytest.mark.parametrize("unit", [1e-4, 1.0, 1e4])
def test_temperature_suits_distances_of_any_unit(unit: float) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=2000) * 2
    targets = Targets("binary", ("0", "1"), (rng.random(2000) < 1 / (1 + np.exp(-logits))).astype(float))
    calibrator = fit_calibrator("temperature", targets, logits * unit, False)
    assert calibrator.temperature == pytest.approx(unit, rel=0.1)
    assert measure_plain(targets, calibrator.apply(logits * unit))["ece"] < 0.03


def test_a_record_at_one_half_is_called_alike_by_measures_and_abstention() -> None:
    targets, output = Targets("binary", ("0", "1"), np.array([1.0, 0.0])), np.array([0.5, 0.5])
    confidence, right = confidence_and_right(targets, output)
    assert (confidence.tolist(), right.tolist()) == ([0.5, 0.5], [True, False])
    assert measure_plain(targets, output)["f1"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("method", ["isotonic", "sigmoid", "temperature"])
def test_calibrated_classes_sum_to_one(method: str) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 3, 300)
    distances = rng.normal(size=(300, 3)) + 2 * np.eye(3)[values]
    targets = Targets("multiclass", ("a", "b", "c"), values.astype(float))
    calibrated = fit_calibrator(method, targets, distances, False).apply(distances)  # type: ignore[arg-type]
    assert calibrated.sum(axis=1) == pytest.approx(1)
    assert measure_plain(targets, calibrated)["accuracy"] > 0.8


def test_the_calibration_curve_by_hand() -> None:
    targets = Targets("binary", ("0", "1"), np.array([0.0, 1, 1, 1]))
    curve = calibration_curve(targets, np.array([0.11, 0.15, 0.95, 1.0]))
    assert curve == {"predicted": [0.13, 0.975], "observed": [0.5, 1.0], "records": [2, 2]}


def test_abstention_reaches_its_accuracy_where_it_was_chosen_and_says_what_it_gives_elsewhere() -> None:
    rng = np.random.default_rng(0)
    probability = rng.random(2000)
    targets = Targets("binary", ("0", "1"), (rng.random(2000) < probability).astype(float))
    half, rest = np.arange(1000), np.arange(1000, 2000)
    chosen = choose_abstention(0.9, targets.take(half), probability[half])
    assert chosen.validation_accuracy is not None
    assert chosen.validation_accuracy >= 0.9
    facts = abstention_facts(chosen, targets.take(rest), probability[rest])
    assert facts["accuracy"] == pytest.approx(0.9, abs=0.04)
    assert 0.2 < facts["coverage"] < 0.6
    hopeless = choose_abstention(0.99, targets.take(half), 1 - probability[half])
    assert hopeless.confidence is None
    assert abstention_facts(hopeless, targets.take(rest), probability[rest])["coverage"] == 0


def test_resamples_none_of_which_can_be_measured_are_refused() -> None:
    with pytest.raises(DataError, match=r"none of 100 resamples of the 3 groups of the 6 scored records \(a, b, c\) holds a class"):
        resample_groups(list("aabbcc"), np.ones(6, dtype=bool), 100, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("values", "task"),
    [([0.0, 1.0, float("nan")], "binary"), ([0.0, 1.0, 2.0], "multiclass"), ([0.5, 1.0], "regression"), (list(range(21)), "regression")],
)
def test_whole_numbers_are_classes_however_they_are_written(values: list[float], task: str) -> None:
    assert resolve_task("auto", [pl.Series(values, dtype=pl.Float64)]) == task


def test_what_cannot_be_measured_is_no_number_and_no_warning() -> None:
    targets = Targets("binary", ("0", "1"), np.array([0.0, 1, 0, 1, 1, 1, 0, 1]))
    train, validation, test = np.arange(4), np.array([4, 5]), np.array([6, 7])
    fold = Fold("given", train, test, [(train, validation)], refit=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(majority_outcome(Dataset(pl.DataFrame(), targets, "corpus"), [fold]).validation)
        assert np.isnan(interval(np.full(3, np.nan))).all()


def test_decisions_that_a_fold_could_not_learn_are_passed_over() -> None:
    targets = Targets("multiclass", ("a", "b", "c"), np.array([0.0, 1, 0, 1, 2, 2]))
    output = np.array([[0.7, 0.2, 0.1], [0.2, 0.7, 0.1], [0.7, 0.2, 0.1], [0.2, 0.7, 0.1], [0.5, 0.5, 0], [0.5, 0.5, 0]])
    folds = [(np.array([2, 3, 4, 5]), np.array([0, 1])), (np.array([0, 1, 4, 5]), np.array([2, 3])), (np.arange(4), np.array([4, 5]))]
    ranked = without_fold_levels(targets, output, folds)
    assert np.isnan(ranked[4:, 2]).all()
    assert np.isnan(ranked).sum() == 2
    assert unlearned(targets, folds) == {"c": [2]}
    of_two = [metrics.roc_auc_score(targets.values == c, ranked[:, c]) for c in (0, 1)]
    assert measure_plain(targets, output, ranked)["auroc"] == pytest.approx(np.mean(of_two))
