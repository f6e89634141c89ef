from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import skops.io
import xgboost
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from biollm.classify.boosting import cross_validate_trees, threads
from biollm.classify.config import Calibration, HeadName, Task, TuneOptions
from biollm.classify.explain import explained_rows, top_features
from biollm.classify.fitting import Method, fit_head
from biollm.classify.heads import HEADS, check_pca, heads_for
from biollm.classify.measures import primary_score
from biollm.classify.models import Examples
from biollm.classify.skops_file import dump_stable, renumber
from biollm.classify.targets import Targets
from biollm.core.errors import ArtifactError, ConfigError


def _examples(rows: int, seed: int, task: Task) -> Examples:
    """Five columns of unlike scale, of which the first tells."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(rows, 5)) * [1, 10, 100, 1, 1] + 3
    signal = features[:, 0] - 3 + 0.7 * rng.normal(size=rows)
    if task == "binary":
        return Examples(features, Targets(task, ("0", "1"), (signal > 0).astype(float)))
    if task == "multiclass":
        return Examples(features, Targets(task, ("a", "b", "c"), np.digitize(signal, [-0.5, 0.5]).astype(float)))
    if task == "multilabel":
        return Examples(features, Targets(task, ("x", "y"), np.column_stack([signal > 0, signal < 0.5]).astype(float)))
    if task == "regression":
        return Examples(features, Targets(task, (), signal))
    return Examples(features, Targets(task, (), np.digitize(signal, [-0.5, 0.5]).astype(float), np.arange(rows) // 8))


def test_two_dumps_of_one_model_are_byte_equal_and_load_without_trusting_anything(tmp_path: Path) -> None:
    train = _examples(100, 0, "binary")
    paths = [tmp_path / "a.skops", tmp_path / "b.skops"]
    models = [make_pipeline(StandardScaler(), LogisticRegression()).fit(train.features, train.targets.positive) for _ in paths]
    assert skops.io.dumps(models[0]) != skops.io.dumps(models[1]), "skops is stable by itself now: skops_file.py can go"
    for model, path in zip(models, paths, strict=True):
        dump_stable(model, path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert skops.io.get_untrusted_types(file=paths[0]) == []
    loaded = skops.io.load(paths[0], trusted=[])
    assert (loaded.predict_proba(train.features) == models[0].predict_proba(train.features)).all()


def test_renumbering_keeps_values_and_objects_that_are_shared() -> None:
    shared = np.arange(3.0)
    archive = renumber(skops.io.dumps({"file": "123.txt", "one": shared, "two": shared, "other": np.zeros(2)}))
    loaded = skops.io.loads(archive)
    assert loaded["file"] == "123.txt"
    assert loaded["one"].tolist() == [0, 1, 2]
    assert loaded["other"].tolist() == [0, 0]
    names = zipfile.ZipFile(BytesIO(archive)).namelist()
    assert len(names) == 3, "the shared array is stored once"
    assert json.loads(zipfile.ZipFile(BytesIO(archive)).read("schema.json"))["protocol"] == 2


@pytest.fixture(autouse=True)
def _small_forests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("biollm.classify.heads._FOREST_TREES", 20)


@pytest.mark.parametrize("name", list(HEADS))
@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel", "regression", "ranking"])
def test_heads_learn_and_the_same_seed_writes_the_same_bytes_which_load_again(name: HeadName, task: Task, tmp_path: Path) -> None:
    kind = HEADS[name]
    if task not in kind.tasks:
        with pytest.raises(ConfigError, match=f"names {name}, which cannot do {task}; expected some of .*xgboost"):
            heads_for(task, [name])
        return
    train, validation, other = (_examples(rows, seed, task) for rows, seed in ((240, 0), (80, 1), (80, 2)))
    classes, settings = len(train.targets.classes), kind.choices[-1]
    models = [kind.fit(train, validation, settings, classes, None, 2**62) for _ in range(2)]
    files = [tmp_path / f"{i}{model.suffix}" for i, model in enumerate(models)]
    for model, file in zip(models, files, strict=True):
        model.save(file)
    assert files[0].read_bytes() == files[1].read_bytes()
    output = models[0].output(other.features)
    assert np.array_equal(kind.load(files[0], task, classes).output(other.features), output)
    assert primary_score(other.targets, output) > (0.15 if task == "regression" else 0.65)


def test_of_equally_good_regularisations_the_strongest_is_chosen() -> None:
    features = np.array([[-2.0], [-1.0], [1.0], [2.0]] * 2)
    separable = Examples(features, Targets("binary", ("0", "1"), (features[:, 0] > 0).astype(float)))
    head = fit_head(Method("logistic"), separable, [(np.arange(4), np.arange(4, 8))], False, np.arange(4))
    assert head.choice == "C = 0.0001"


def test_labels_of_the_tuning_rows_do_not_reach_the_coefficients() -> None:
    both = _examples(250, 0, "binary")
    head = fit_head(Method("logistic"), both, [(np.arange(200), np.arange(200, 250))], False, np.arange(200))
    same_C = make_pipeline(StandardScaler(), LogisticRegression(C=head.settings["C"], max_iter=2000))
    same_C.fit(both.features[:200], both.targets.values[:200])
    assert np.array_equal(head.model.parts[0][-1].coef_, same_C[-1].coef_)


def test_a_damaged_forest_is_refused_before_it_is_asked(tmp_path: Path) -> None:
    train = _examples(100, 0, "binary")
    model = HEADS["forest"].fit(train, None, {"min_samples_leaf": 5}, 2, None, 0)
    tree = model.parts[0][-1].estimators_[3].tree_
    tree.children_left[0] = 10**6
    model.save(tmp_path / "forest.skops")
    with pytest.raises(ArtifactError, match=r"forest.skops: a tree of this forest points outside itself"):
        HEADS["forest"].load(tmp_path / "forest.skops", "binary", 2)
    (tmp_path / "cut.skops").write_bytes((tmp_path / "forest.skops").read_bytes()[:2000])
    with pytest.raises(ArtifactError, match=r"cut.skops: not a head that biollm wrote"):
        HEADS["forest"].load(tmp_path / "cut.skops", "binary", 2)


def test_a_class_that_the_train_rows_lack_has_probability_zero() -> None:
    train = _examples(120, 0, "multiclass")
    lacking = Examples(train.features, Targets("multiclass", ("a", "b", "c", "d"), train.targets.values))
    for name in ("logistic", "svm", "xgboost", "forest"):
        head = fit_head(Method(name), lacking, [(np.arange(80), np.arange(80, 120))], True, np.arange(120))
        output = head.output(train.features)
        assert not output[:, 3].any()
        assert output.sum(axis=1) == pytest.approx(1)


def _with_constant_labels(values: np.ndarray) -> Examples:
    """A label that varies, one that no row has, one that every row has."""
    features = np.random.default_rng(0).normal(size=(len(values), 4))
    features[:, 0] += 2 * values
    labels = np.column_stack([values, np.zeros(len(values)), np.ones(len(values))])
    return Examples(features, Targets("multilabel", ("x", "never", "always"), labels))


@pytest.mark.parametrize("calibration", ["none", "isotonic", "sigmoid", "temperature"])
@pytest.mark.parametrize("name", list(HEADS))
def test_a_constant_label_has_its_constant_for_every_head_and_calibrator(name: HeadName, calibration: Calibration, tmp_path: Path) -> None:
    train = _with_constant_labels(np.tile([0.0, 1.0], 30))
    method = Method(name, calibration=calibration, settings={"rounds": 3} if name == "xgboost" else HEADS[name].choices[-1])
    head = fit_head(method, train, [(np.arange(40), np.arange(40, 60))], True, np.arange(60))
    output = head.output(train.features)
    assert np.ptp(output[:, 0]) > 0
    assert output[:, 1:].tolist() == [[0, 1]] * 60
    head.model.save(tmp_path / f"head{head.model.suffix}")
    again = replace(head, model=HEADS[name].load(tmp_path / f"head{head.model.suffix}", "multilabel", 3))
    assert np.array_equal(again.output(train.features), output)


@pytest.mark.parametrize("name", ["ridge", "svm", "xgboost", "logistic"])
def test_train_rows_of_one_class_say_that_class_whatever_the_rows_of_choice_hold(name: HeadName) -> None:
    both = _examples(80, 0, "binary")
    for constant in (0.0, 1.0):
        values = np.append(np.full(50, constant), both.targets.values[50:])
        head = fit_head(
            Method(name, calibration="sigmoid"),
            Examples(both.features, Targets("binary", ("0", "1"), values)),
            [(np.arange(50), np.arange(50, 80))], False, np.arange(50),
        )  # fmt: skip
        assert (head.output(both.features) == constant).all()


def test_labels_that_the_train_rows_lack_do_not_turn_the_temperature_of_the_others() -> None:
    one = _with_constant_labels(np.tile([0.0, 1.0, 1.0, 0.0, 1.0], 20))
    flipped = one.targets.values.copy()
    flipped[60:, 1] = 1
    pair = [(np.arange(60), np.arange(60, 100))]
    temperatures = []
    for values in (one.targets.values, flipped):
        head = fit_head(
            Method("logistic", calibration="temperature"),
            Examples(one.features, Targets("multilabel", one.targets.classes, values)), pair, False, np.arange(60),
        )  # fmt: skip
        assert not head.output(one.features)[:, 1].any()
        assert head.calibrator is not None
        temperatures.append(head.calibrator.temperature)
    assert temperatures[0] == temperatures[1]


@pytest.mark.parametrize("name", ["logistic", "xgboost"])
def test_pca_is_left_out_where_a_row_has_no_more_columns_and_the_choice_says_so(name: HeadName) -> None:
    wide = _examples(100, 0, "binary")
    narrow = Examples(wide.features[:, :2], wide.targets)
    pair, rows = [(np.arange(60), np.arange(60, 100))], np.arange(60)
    told = {columns: fit_head(Method(name, pca=pca), part, pair, False, rows).choice
            for columns, pca, part in ((2, 4, narrow), (5, 5, wide), (0, 4, wide))}  # fmt: skip
    assert told[2].endswith(", no PCA: 2 columns only")
    assert told[5].endswith(", no PCA: 5 columns only")
    assert "PCA" not in told[0]
    plain = fit_head(Method(name), narrow, pair, False, rows)
    assert np.array_equal(fit_head(Method(name, pca=4), narrow, pair, False, rows).output(narrow.features), plain.output(narrow.features))
    few = Examples(np.random.default_rng(0).normal(size=(100, 80)), wide.targets)
    with pytest.raises(ConfigError, match=r"classify.pca is 70, but a head is fitted on 60 train rows only"):
        fit_head(Method(name, pca=70), few, pair, False, rows)


def test_pca_for_which_no_row_is_wide_enough_is_refused() -> None:
    check_pca(None, {"covariates": 2})
    check_pca(136, {"covariates": 2, "k-mers": 136})
    with pytest.raises(ConfigError, match=r"classify.pca is 137, but no row of the table has as many columns: covariates \(2\), k-mers \("):
        check_pca(137, {"covariates": 2, "k-mers": 136})


def test_optuna_sees_inner_rows_only_and_repeats_itself() -> None:
    examples = _examples(120, 0, "binary")
    method, pair = Method("logistic", tune=TuneOptions(trials=4), seed=3), [(np.arange(60), np.arange(60, 90))]
    head = fit_head(method, examples, pair, True, np.arange(90))
    values = examples.targets.values.copy()
    values[90:] = 1 - values[90:]
    flipped = Examples(examples.features, Targets("binary", ("0", "1"), values))
    assert fit_head(method, flipped, pair, True, np.arange(90)).settings == head.settings
    assert head.settings["C"] not in [choice["C"] for choice in HEADS["logistic"].choices]


@pytest.mark.parametrize("task", ["binary", "multiclass"])
@pytest.mark.parametrize("name", ["logistic", "xgboost", "forest"])
def test_shap_values_are_mapped_to_the_columns_that_matter(name: HeadName, task: Task) -> None:
    train = _examples(300, 0, task)
    names = [f"column {i}" for i in range(5)]
    model = HEADS[name].fit(train, train, HEADS[name].choices[-1], len(train.targets.classes), None, 0)
    rows = explained_rows(train.features, HEADS[name].explained_rows)
    top = top_features(HEADS[name].explain(model, rows), names, rows)
    assert (top[0]["feature"], top[0]["direction"]) == ("column 0", 1 if task == "binary" else 0)


def test_shap_values_of_a_forest_add_up_to_its_probabilities() -> None:
    train = _examples(300, 0, "binary")
    model = HEADS["forest"].fit(train, train, HEADS["forest"].choices[0], 2, None, 0)
    contributions = HEADS["forest"].explain(model, train.features[:20])
    assert contributions is not None
    unexplained = model.output(train.features[:20]) - contributions.sum(axis=1)  # the same for all rows: the mean over the train rows
    assert unexplained == pytest.approx(unexplained[0], abs=1e-6)


def test_folds_on_shared_bins_do_not_depend_on_the_workers_and_equal_xgboost_alone() -> None:
    examples = _examples(200, 0, "binary")
    folds = [(np.arange(50, 200), np.arange(50)), (np.arange(100), np.arange(100, 200))]
    ways = [cross_validate_trees(examples.features, examples.targets, folds, {}, 10, workers=workers) for workers in (1, 3)]
    assert np.array_equal(ways[0], ways[1], equal_nan=True)
    assert np.isnan(ways[0][50:100]).all()
    alone = xgboost.XGBClassifier(n_estimators=10).fit(examples.features[:100], examples.targets.values[:100])
    truth = examples.targets.take(folds[1][1])
    theirs = alone.predict_proba(examples.features[100:])[:, 1]
    assert primary_score(truth, ways[0][100:]) == pytest.approx(primary_score(truth, theirs), abs=0.05)


def test_folds_have_as_many_bins_as_the_settings_say() -> None:
    """With two bins a column can be cut at one place, so that trees on it alone say two things."""
    examples = _examples(200, 0, "binary")
    folds = [(np.arange(100), np.arange(100, 200))]
    column = examples.features[:, :1]
    said = [cross_validate_trees(column, examples.targets, folds, settings, 10)[100:] for settings in ({"max_bin": 2}, {})]
    assert [len(np.unique(output)) > 2 for output in said] == [False, True]


@pytest.mark.parametrize(("granted", "expected"), [("", 1), ("4,2", 4), ("3", 3)])
def test_threads_are_those_that_were_granted_also_of_nested_teams(granted: str, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", granted)
    assert threads() == expected
