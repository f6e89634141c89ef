"""The heads as scikit-learn estimators, for scripts: the same fitting as the stage's."""

from __future__ import annotations

from typing import Any, Self, get_args

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, check_is_fitted, column_or_1d, validate_data

from biollm.classify.config import CLASS_TASKS, Calibration, HeadName, Task, TuneOptions
from biollm.classify.fitting import FittedHead, Method, NothingToChooseBy, fit_head
from biollm.classify.folds import Pair, inner_folds
from biollm.classify.heads import HEADS, check_settings, heads_for
from biollm.classify.measures import called_positive
from biollm.classify.metrics import BoolArray, FloatArray, IntArray
from biollm.classify.models import Examples
from biollm.classify.targets import MAX_RELEVANCE, Targets, odd_relevance, without_choice
from biollm.core.errors import ConfigError, DataError, listed


class _Head(BaseEstimator):  # type: ignore[misc]
    """What the estimators share: settings are chosen on inner folds by group, then the head is fitted on all rows."""

    def _method(self) -> Method:
        tune = None if self.tune is None else TuneOptions(trials=self.tune)
        choices = HEADS[self.kind].choices
        # Where there is one choice only, nothing is chosen, and rows by which nothing could be do no harm.
        settings = choices[0] if self.settings is None and tune is None and len(choices) == 1 else self.settings
        return Method(
            self.kind, tune=tune, calibration=getattr(self, "calibration", "none"), abstain=getattr(self, "abstain", None),
            pca=self.pca, seed=self.seed, settings=settings,
        )  # fmt: skip

    def _fit(self, features: FloatArray, targets: Targets, groups: Any, validation: tuple[FloatArray, Targets] | None) -> Self:
        heads_for(targets.task, [self.kind])
        check_settings(self.kind, targets.task, self.settings)
        if len(targets) < 2:
            raise ValueError(
                f"Found array with {len(targets)} sample; a head needs 2 or more, because settings are chosen on held-out rows"
            )
        if self.pca is not None and self.pca > features.shape[1]:
            raise ValueError(f"pca is {self.pca}, but X has {features.shape[1]} columns; expected at most {features.shape[1]}")
        try:
            self.fitted_: FittedHead = self._fitted(features, targets, groups, validation)
        except NothingToChooseBy as error:
            raise ValueError(self._nothing_to_choose_by(targets, validation, error.why)) from error
        except (ConfigError, DataError) as error:  # scikit-learn's contract
            raise ValueError(str(error).removeprefix("classify.")) from error
        return self

    def _fitted(self, features: FloatArray, targets: Targets, groups: Any, validation: tuple[FloatArray, Targets] | None) -> FittedHead:
        rows = np.arange(len(targets))
        if validation is not None:
            examples = Examples(np.vstack([features, validation[0]]), _joined(targets, validation[1]))
            pair: Pair = (rows, np.arange(len(targets), len(examples.targets)))
            return fit_head(self._method(), examples, [pair], False, rows)
        codes = rows if targets.query is None else targets.query
        if groups is not None:
            codes = _codes(groups, "groups", "the group", len(targets))
            if not codes.any():
                raise ValueError(
                    f"groups holds one value only ({np.asarray(groups)[0]!s}); expected two or more, because settings are chosen on groups "
                    "held out; give the group of each row, None if each row is its own, or rows to choose on as validation="
                )
        inner = inner_folds(targets, codes, self.inner_folds, self.seed)
        return fit_head(self._method(), Examples(features, targets), inner, True, rows)

    def _nothing_to_choose_by(self, targets: Targets, validation: tuple[FloatArray, Targets] | None, why: str) -> str:
        """why: what the rows are that settings should have been chosen on."""
        said = f"so no setting of the head '{self.kind}' is better than another"
        if (targets.values == targets.values[0]).all():
            value = "the same" if targets.values.ndim == 2 else f"{targets.values[0]:g}"
            if targets.task in CLASS_TASKS:
                value = repr(targets.classes[int(targets.values[0])])
            return f"y is {value} for all {len(targets)} rows, {said}; give y that varies, or fix settings= to choose nothing"
        if validation is not None:
            return f"the rows of validation {why}, {said}; give rows that differ, or fix settings= to choose nothing"
        return (
            f"of the {len(targets)} rows those that are held out to choose settings {why}, {said}; give more rows of each kind (or group), "
            "rows to choose on as validation=, or fix settings= to choose nothing"
        )

    def _check_options(self) -> None:
        """Raises ValueError for options that cannot be; scikit-learn's contract leaves these checks to fit."""
        calibration, abstain = getattr(self, "calibration", "none"), getattr(self, "abstain", None)
        if calibration not in get_args(Calibration):
            raise ValueError(f"calibration is {calibration!r}; expected one of {', '.join(get_args(Calibration))} (sigmoid is Platt's)")
        if abstain is not None and not 0 < abstain <= 1:
            raise ValueError(f"abstain is {abstain!r}; expected the accuracy that answered rows must reach, above 0 and up to 1, or None")
        for name, value, least in (("tune", self.tune, 1), ("inner_folds", self.inner_folds, 2), ("pca", self.pca, 1)):
            if value is not None and value < least:
                raise ValueError(f"{name} is {value!r}; expected {least} or more")

    def _held_out(self, X: Any, y: Any) -> tuple[FloatArray, np.ndarray[Any, Any]]:
        """The rows of `validation`. Raises ValueError if they are not as many as their labels, or not as wide as X."""
        table, labels = check_array(X, dtype=np.float64), np.asarray(y)
        if len(table) != len(labels):
            raise ValueError(f"validation has {len(table)} rows of X, but {len(labels)} of y; expected one label for each row")
        if table.shape[1] != self.n_features_in_:
            raise ValueError(f"validation has {table.shape[1]} columns, X has {self.n_features_in_}; expected the same columns")
        return table, labels

    def _output(self, X: Any) -> FloatArray:
        check_is_fitted(self, "fitted_")
        return self.fitted_.output(validate_data(self, X, reset=False, dtype=np.float64))


class HeadClassifier(ClassifierMixin, _Head):  # type: ignore[misc]
    """A head for two or more classes, or (y of 0 and 1, two-dimensional) for several labels at once.

    kind: logistic, ridge, svm, forest, xgboost, mlp. classes: the class set in order, of which y may lack some (their probability is
    then 0); None: those of y. settings: fixed by hand; else chosen on `inner_folds` folds, from a short list or (tune: trials) by optuna.
    calibration: none, isotonic, sigmoid, temperature, from out-of-fold scores. abstain: the accuracy that answered rows must reach;
    `answers` says which rows these are.

    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(60, 3))
    >>> head = HeadClassifier("logistic").fit(X, np.where(X[:, 0] > 0, "exon", "intron"))
    >>> head.predict(np.array([[2.0, 0.0, 0.0]])).tolist(), head.classes_.tolist()
    (['exon'], ['exon', 'intron'])
    """

    def __init__(
        self,
        kind: HeadName = "logistic",
        *,
        classes: Any = None,
        settings: dict[str, Any] | None = None,
        tune: int | None = None,
        inner_folds: int = 3,
        calibration: Calibration = "none",
        abstain: float | None = None,
        pca: int | None = None,
        seed: int = 0,
    ) -> None:
        self.kind = kind
        self.classes = classes
        self.settings = settings
        self.tune = tune
        self.inner_folds = inner_folds
        self.calibration = calibration
        self.abstain = abstain
        self.pca = pca
        self.seed = seed

    def fit(self, X: Any, y: Any, groups: Any = None, validation: tuple[Any, Any] | None = None) -> Self:
        """X: (n, columns); y: (n,) or (n, labels); groups: (n,) equal values stay together in the inner folds.

        validation: (X, y) to choose settings on instead of inner folds; the head is then fitted on X, y alone.
        Raises ValueError (scikit-learn's contract) for NaN, unknown classes or one class only, options and settings that the head does
        not have, validation rows that do not fit to each other or to X, groups with gaps, and where settings are to be chosen on rows
        that are all alike (not with `settings`).
        """
        self._check_options()
        table, labels = validate_data(self, X, y, dtype=np.float64, multi_output=True)
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = column_or_1d(labels, warn=True)
        check_classification_targets(labels)
        self.classes_ = self._class_set(labels)
        targets = self._targets(labels)
        if targets.task == "multilabel" and self.abstain is not None:
            raise ValueError(f"abstain is {self.abstain!r}, but y has several labels, which are answered each on its own; leave it out")
        held_out = None
        if validation is not None:
            other, other_labels = self._held_out(*validation)
            if other_labels.shape[1:] != labels.shape[1:]:
                raise ValueError(f"validation has y of the shape {other_labels.shape}, but y is {labels.shape}; expected as many labels")
            held_out = (other, self._targets(other_labels))
        return self._fit(table, targets, groups, held_out)

    def _class_set(self, labels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        if labels.ndim == 2:
            return np.arange(labels.shape[1])
        found = np.unique(labels)
        if self.classes is None:
            if len(found) < 2:
                raise ValueError(f"y holds one class only ({found[0]!r}); HeadClassifier needs two or more classes")
            return found
        return np.asarray(self.classes)

    def _targets(self, labels: np.ndarray[Any, Any]) -> Targets:
        names = tuple(str(name) for name in self.classes_)
        if labels.ndim == 2:
            if not np.isin(labels, (0, 1)).all():
                raise ValueError("y of several labels must hold 0 and 1 only")
            return Targets("multilabel", names, labels.astype(np.float64))
        place = {name: i for i, name in enumerate(self.classes_.tolist())}
        if unknown := sorted({str(value) for value in labels.tolist() if value not in place}):
            raise ValueError(f"y holds {', '.join(unknown[:5])}, which are not among the classes {', '.join(names)}")
        codes = np.array([place[value] for value in labels.tolist()], dtype=np.float64)
        return Targets("binary" if len(names) == 2 else "multiclass", names, codes)

    def predict_proba(self, X: Any) -> FloatArray:
        """(n, classes) in the order of `classes_`; of labels each on its own."""
        output = self._output(X)
        return np.column_stack([1 - output, output]) if output.ndim == 1 else output

    def predict(self, X: Any) -> np.ndarray[Any, Any]:
        """(n,) classes, or (n, labels) 0 and 1."""
        output = self._output(X)
        if self.fitted_.task == "multiclass":
            return np.asarray(self.classes_[output.argmax(axis=1)])
        called = called_positive(output).astype(np.int64)
        return called if self.fitted_.task == "multilabel" else np.asarray(self.classes_[called])

    def answers(self, X: Any) -> BoolArray:
        """(n,) where the head is sure enough to answer; all rows without `abstain`, none if no confidence reaches that accuracy."""
        table = self.predict_proba(X)
        chosen = self.fitted_.abstention
        return np.ones(len(table), dtype=bool) if chosen is None else chosen.answered(table.max(axis=1))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


class _Quantity(_Head):
    """What regression and ranking share."""

    def __init__(
        self,
        kind: HeadName = "xgboost",
        *,
        settings: dict[str, Any] | None = None,
        tune: int | None = None,
        inner_folds: int = 3,
        pca: int | None = None,
        seed: int = 0,
    ) -> None:
        self.kind = kind
        self.settings = settings
        self.tune = tune
        self.inner_folds = inner_folds
        self.pca = pca
        self.seed = seed

    def predict(self, X: Any) -> FloatArray:
        """(n,) quantities, or rank scores: higher comes first."""
        return self._output(X)

    def _fit_values(self, task: Task, X: Any, y: Any, groups: Any, query: IntArray | None, validation: Any, other_query: Any) -> Self:
        self._check_options()
        table, values = validate_data(self, X, y, dtype=np.float64, y_numeric=True)
        targets = Targets(task, (), values.astype(np.float64), query)
        held_out = None
        if validation is not None:
            other, other_values = self._held_out(validation[0], validation[1])
            held_out = (other, Targets(task, (), _finite(other_values), other_query))
        if task == "ranking":
            _check_ranking(targets, "")
            if held_out is not None:
                _check_ranking(held_out[1], "validation: ")
        return self._fit(table, targets, groups, held_out)


class HeadRegressor(RegressorMixin, _Quantity):  # type: ignore[misc]
    """A head for a quantity: ridge, svm, forest, xgboost, mlp. The options are those of HeadClassifier."""

    def fit(self, X: Any, y: Any, groups: Any = None, validation: tuple[Any, Any] | None = None) -> Self:
        """X: (n, columns); y: (n,) numbers; groups, validation: see HeadClassifier.fit."""
        return self._fit_values("regression", X, y, groups, None, validation, None)


class HeadRanker(_Quantity):
    """A head that ranks records within lists (XGBoost, rank:ndcg)."""

    def fit(self, X: Any, y: Any, query: Any, validation: tuple[Any, Any, Any] | None = None) -> Self:
        """X: (n, columns); y: (n,) relevance, whole numbers of 0 to 31; query: (n,) the list of each; validation: (X, y, query).

        Raises ValueError for another relevance, naming rows, and where no list holds two rows of different relevance.
        """
        lists = _codes(query, "query", "the list")
        other = None
        if validation is not None:
            # Lists of the validation rows are numbered on, so that none is taken for one of the train rows.
            other = lists.max() + 1 + _codes(validation[2], "validation: query", "the list")
        return self._fit_values("ranking", X, y, None, lists, validation, other)


def _codes(values: Any, name: str, what: str, rows: int | None = None) -> IntArray:
    """(n,) a number for each distinct value. Raises ValueError for missing values, naming rows, and for another number of rows."""
    array = np.asarray(values)
    if array.ndim != 1 or (rows is not None and len(array) != rows):
        raise ValueError(f"{name} has the shape {array.shape}; expected one value for each of {rows or 'the'} rows")
    if gaps := [str(i) for i, value in enumerate(values) if _is_missing(value)]:
        raise ValueError(f"{name} has no value in {len(gaps)} rows ({listed(gaps, 5)}); expected {what} of each row")
    try:
        return np.unique(array, return_inverse=True)[1].astype(np.int64)
    except TypeError:
        kinds = sorted({type(value).__name__ for value in array})
        raise ValueError(f"{name} holds values of kinds that have no common order ({', '.join(kinds)}); expected one kind") from None


def _is_missing(value: Any) -> bool:
    """None, NaN, NaT, and what pandas writes for them: no value that equals itself."""
    same = value == value
    return value is None or not isinstance(same, bool | np.bool_) or not same


def _finite(values: np.ndarray[Any, Any]) -> FloatArray:
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or not np.isfinite(numbers).all():
        raise ValueError(f"validation has y of the shape {numbers.shape} with NaN or infinity or several columns; expected a number a row")
    return numbers


def _check_ranking(targets: Targets, place: str) -> None:
    assert targets.query is not None
    if len(targets.query) != len(targets):
        raise ValueError(f"{place}query has {len(targets.query)} rows, y {len(targets)}; expected the list of each row")
    if odd := odd_relevance(targets.values):
        raise ValueError(
            f"{place}y holds {targets.values[odd[0]]:g} in row {odd[0]} (rows {listed([str(i) for i in odd], 5)} in all); "
            f"relevance is a whole number of 0 to {MAX_RELEVANCE}"
        )
    if why := without_choice(targets):
        raise ValueError(f"{place}{why}, so there is no order to learn; give the list of each row as query")


def _joined(first: Targets, second: Targets) -> Targets:
    query = None if first.query is None or second.query is None else np.concatenate([first.query, second.query])
    return Targets(first.task, first.classes, np.concatenate([first.values, second.values]), query)
