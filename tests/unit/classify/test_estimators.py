from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.utils.estimator_checks import check_estimator

from biollm.classify import HeadClassifier, HeadRanker, HeadRegressor
from biollm.core.errors import ConfigError


@pytest.mark.parametrize("estimator", [HeadClassifier("logistic"), HeadRegressor("ridge")], ids=["classifier", "regressor"])
def test_the_scikit_learn_contract_is_kept(estimator: HeadClassifier | HeadRegressor) -> None:
    found = check_estimator(estimator, on_fail=None, on_skip=None)
    assert [check["check_name"] for check in found if check["status"] == "failed"] == []
    assert len(found) > 40


def test_importing_the_package_loads_neither_xgboost_nor_scikit_learn() -> None:
    code = "import biollm.classify, sys; print(sorted({'sklearn', 'xgboost', 'optuna', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def _table(rows: int = 90) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(rows, 4))
    return X, X[:, 0] + 0.3 * rng.normal(size=rows)


def test_a_class_set_may_hold_classes_that_y_lacks() -> None:
    X, signal = _table()
    y = np.where(signal > 0, "exon", "intron")
    head = clone(HeadClassifier("xgboost", classes=["exon", "intron", "utr"], calibration="isotonic", abstain=0.9)).fit(X, y)
    table = head.predict_proba(X)
    assert table.shape == (90, 3)
    assert not table[:, 2].any()
    assert (head.predict(X) == y).mean() > 0.8
    assert head.fitted_.abstention.confidence is not None
    with pytest.raises(ValueError, match="y holds exon, which are not among the classes intron, utr"):
        HeadClassifier(classes=["intron", "utr"]).fit(X, y)


def test_validation_rows_choose_and_are_not_fitted() -> None:
    X, signal = _table()
    y = (signal > 0).astype(int)
    given = HeadClassifier("logistic").fit(X[:60], y[:60], validation=(X[60:], y[60:]))
    fixed = HeadClassifier("logistic", settings=given.fitted_.settings).fit(X[:60], y[:60])
    assert np.allclose(given.predict_proba(X), fixed.predict_proba(X))


def test_several_labels_and_ranked_lists() -> None:
    X, signal = _table()
    labels = np.column_stack([signal > 0, signal > 0.5]).astype(int)
    assert (HeadClassifier("logistic").fit(X, labels).predict(X) == labels).mean() > 0.85
    query = np.repeat(np.arange(9), 10)
    ranker = HeadRanker().fit(X, np.digitize(signal, [0, 1]), query)
    assert np.corrcoef(ranker.predict(X), signal)[0, 1] > 0.6
    relevance = np.digitize(signal, [0, 1])
    held_out = (X[60:], relevance[60:], query[60:])
    again = HeadRanker().fit(X[:60], relevance[:60], query[:60], validation=held_out)
    assert again.predict(X).shape == (90,)


def test_a_head_that_cannot_do_the_task_is_refused() -> None:
    X, signal = _table()
    with pytest.raises(ConfigError, match="names logistic, which cannot do regression; expected some of ridge"):
        HeadRegressor("logistic").fit(X, signal)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"calibration": "platt"}, "calibration is 'platt'; expected one of none, isotonic, sigmoid, temperature"),
        ({"abstain": 2}, "abstain is 2; expected the accuracy"),
        ({"tune": 0}, "tune is 0; expected 1 or more"),
        ({"settings": {"foo": 1}}, "the head 'logistic' needs C too, for example"),
        ({"settings": {"C": 1.0, "foo": 1}}, "settings names foo, which the head 'logistic' does not have; expected of C"),
        ({"kind": "forest", "settings": {"foo": 1}}, "settings names foo, which the head 'forest' does not have"),
        ({"kind": "xgboost", "settings": {"foo": 1}}, "settings names foo, which the head 'xgboost' does not have"),
        ({"kind": "xgboost", "settings": {"n_estimators": 5}}, r"settings names n_estimators \(use rounds\), which the head 'xgboost'"),
        ({"kind": "xgboost", "settings": {"objective": "reg:gamma"}}, r"names objective \(use nothing: the task decides\), which"),
        ({"kind": "xgboost", "settings": {"rounds": 0}}, "settings has rounds = 0; expected a whole number of trees, 1 or more"),
    ],
)
def test_options_that_no_head_has_are_refused(options: dict[str, Any], message: str) -> None:
    X, signal = _table()
    with pytest.raises(ValueError, match=message):
        HeadClassifier(**options).fit(X, signal > 0)


def test_validation_rows_that_do_not_fit_are_refused() -> None:
    X, signal = _table()
    y = (signal > 0).astype(int)
    for validation, message in (
        ((X, y[:10]), "validation has 90 rows of X, but 10 of y"),
        ((X[:, :2], y), "validation has 2 columns, X has 4"),
        ((X, np.column_stack([y, y])), r"validation has y of the shape \(90, 2\), but y is \(90,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            HeadClassifier().fit(X, y, validation=validation)
    with pytest.raises(ValueError, match="with NaN or infinity or several columns"):
        HeadRegressor().fit(X, signal, validation=(X, np.full(90, np.nan)))


def test_relevance_is_a_whole_number_and_some_list_has_an_order() -> None:
    X, signal = _table()
    y, query = np.digitize(signal, [0, 1]), np.repeat(np.arange(9), 10)
    for relevance in (y + 0.5, y - 1, y * 40):
        with pytest.raises(ValueError, match=r"relevance is a whole number of 0 to 31"):
            HeadRanker().fit(X, relevance, query)
    with pytest.raises(ValueError, match=r"none of its 90 lists \(90 records\) holds two records of different relevance"):
        HeadRanker().fit(X, y, np.arange(90))
    with pytest.raises(ValueError, match="validation: query has 4 rows, y 90"):
        HeadRanker().fit(X, y, query, validation=(X, y, query[:4]))


def test_rounds_that_are_fixed_by_hand_are_the_rounds() -> None:
    X, signal = _table()
    head = HeadClassifier("xgboost", settings={"rounds": 5, "max_depth": 2}).fit(X, signal > 0)
    assert head.fitted_.choice == "5 trees, max_depth = 2"
    assert HeadRegressor("xgboost", settings={"rounds": 3}).fit(X, signal).fitted_.model.rounds == 3  # type: ignore[attr-defined]


def test_a_head_that_may_abstain_says_where_it_answers() -> None:
    X, signal = _table(300)
    y = np.where(signal + np.random.default_rng(1).normal(size=300) > 0, "exon", "intron")
    sure = HeadClassifier("logistic", abstain=0.9).fit(X, y)
    answered = sure.answers(X)
    assert 0 < answered.sum() < 300
    assert sure.predict_proba(X)[answered].max(axis=1).min() >= sure.fitted_.abstention.confidence
    assert HeadClassifier("logistic").fit(X, y).answers(X).all()
    noise = np.random.default_rng(2).permutation(y)
    assert not HeadClassifier("logistic", abstain=1.0).fit(X, noise).answers(X).any()
    with pytest.raises(ValueError, match=r"abstain is 0\.9, but y has several labels"):
        HeadClassifier("logistic", abstain=0.9).fit(X, np.column_stack([signal > 0, signal > 1]).astype(int))


def test_a_probability_of_one_half_is_a_yes_as_in_the_measures() -> None:
    X = np.zeros((40, 2))
    y = np.tile(["exon", "intron"], 20)
    head = HeadClassifier("logistic", settings={"C": 1.0}).fit(X, y)
    assert (head.predict_proba(X) == 0.5).all()
    assert (head.predict(X) == "intron").all()


@pytest.mark.parametrize("kind", ["logistic", "ridge", "svm"])
def test_a_label_that_never_varies_has_its_value_as_probability(kind: Any) -> None:
    X, signal = _table()
    labels = np.column_stack([signal > 0, np.zeros(90), np.ones(90)]).astype(int)
    assert HeadClassifier(kind).fit(X, labels).predict_proba(X)[:, 1:].tolist() == [[0, 1]] * 90


def test_a_constant_quantity_is_refused_only_where_settings_are_chosen_by_it() -> None:
    X, _ = _table()
    with pytest.raises(ValueError, match=r"y is 1 for all 90 rows, so no setting of the head 'ridge' is better than another; .* settings="):
        HeadRegressor("ridge").fit(X, np.ones(90))
    with pytest.raises(ValueError, match=r"y is 1 for all 90 rows"):
        HeadRegressor("xgboost", tune=2).fit(X, np.ones(90))
    assert HeadRegressor("ridge", settings={"alpha": 1.0}).fit(X, np.ones(90)).predict(X) == pytest.approx(1)
    assert HeadRegressor("xgboost").fit(X, np.ones(90)).predict(X) == pytest.approx(1), "its only settings are its defaults"
    with pytest.raises(ValueError, match=r"y is the same for all 90 rows"):
        HeadClassifier().fit(X, np.zeros((90, 2), dtype=int))
    with pytest.raises(ValueError, match=r"y is 'exon' for all 90 rows"):
        HeadClassifier(classes=["exon", "intron"]).fit(X, ["exon"] * 90)


def test_too_few_rows_to_choose_by_are_refused_with_a_way_out() -> None:
    X, signal = _table()
    with pytest.raises(
        ValueError, match=r"of the 3 rows .* held out .* all of one class, .*; give more rows of each .*validation=.* settings="
    ):
        HeadClassifier().fit(X[:3], ["a", "b", "a"])
    small = HeadClassifier(settings={"C": 1.0}).fit(X[:3], ["a", "b", "a"])
    assert small.predict_proba(X).shape == (90, 2)
    y = (signal > 0).astype(int)
    with pytest.raises(ValueError, match=r"the rows of validation are all of one class"):
        HeadClassifier().fit(X, y, validation=(X[:9], np.ones(9, dtype=int)))
    with pytest.raises(ValueError, match=r"the rows of validation hold one value only"):
        HeadRegressor("ridge").fit(X, signal, validation=(X[:9], np.ones(9)))
    assert HeadRegressor("ridge", settings={"alpha": 1.0}).fit(X, signal, validation=(X[:9], np.ones(9))).predict(X).shape == (90,)


def test_groups_and_lists_are_one_known_value_a_row() -> None:
    X, signal = _table()
    y = (signal > 0).astype(int)
    for groups, message in (
        ([None] * 90, r"groups has no value in 90 rows \(0, 1, 2, 3, 4 and 85 more\); expected the group of each row"),
        ([1.0] * 88 + [float("nan")] * 2, r"groups has no value in 2 rows \(88, 89\)"),
        (["a"] * 90, r"groups holds one value only \(a\); expected two or more, because settings are chosen on groups held out; .*None"),
        (np.array(["a", 1] * 45, dtype=object), r"groups holds values of kinds that have no common order \(int, str\)"),
        (np.zeros((90, 2)), r"groups has the shape \(90, 2\); expected one value for each of 90 rows"),
        (["a", "b"], r"groups has the shape \(2,\); expected one value for each of 90 rows"),
    ):
        with pytest.raises(ValueError, match=message):
            HeadClassifier().fit(X, y, groups=groups)
    with pytest.raises(ValueError, match=r"query has no value in 90 rows"):
        HeadRanker().fit(X, y, [None] * 90)


def test_more_components_than_columns_or_rows_are_refused() -> None:
    X, signal = _table()
    for pca, rows, message in (
        (5, 90, "pca is 5, but X has 4 columns; expected at most 4"),
        (3, 4, r"pca is 3, but .* \d train rows only"),
    ):
        with pytest.raises(ValueError, match=message):
            HeadRegressor("ridge", pca=pca).fit(X[:rows], signal[:rows])
    assert HeadRegressor("ridge", pca=4).fit(X, signal).predict(X).shape == (90,)
