"""The heads: one entry in HEADS each, with what it can do, what is tried on it, how it is fitted, loaded and explained."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC, LinearSVR

from biollm.classify.boosting import SAID_OTHERWISE, TREE_SETTINGS, fit_booster, threads
from biollm.classify.config import HeadName, Task
from biollm.classify.explain import explain_forest, explain_linear, explain_trees
from biollm.classify.metrics import FloatArray
from biollm.classify.models import BoostedModel, Examples, Model, Settings, fit_sklearn, load_boosted, load_sklearn, mark_constant
from biollm.core.errors import ConfigError, listed

_CLASSES: tuple[Task, ...] = ("binary", "multiclass", "multilabel")
_MAX_ITERATIONS = 2000
_LINEAR_SHAP = "mean |coefficient × distance from the mean|"
_TREE_SHAP = "mean |SHAP value|"
_FOREST_TREES = 300


@dataclass(frozen=True)
class HeadKind:
    """A kind of head.

    choices: settings that are tried when optuna is not asked for, strongest regularisation first: of equally good ones the first wins.
    space: one draw of settings from an optuna trial. fit(train, validation or None, settings, classes, pca, seed): with validation rows
    the rounds of boosting stop early unless `settings` says how many; without them it must. explain(model, features): (n, columns)
    contributions, None where columns are mixed; explained_by: what these are, for people; explained_rows: of how many rows at most; draws:
    whether another seed fits another model.
    """

    title: str
    tasks: tuple[Task, ...]
    choices: list[Settings]
    space: Callable[[Any], Settings]
    fit: Callable[[Examples, Examples | None, Settings, int, int | None, int], Model]
    load: Callable[[Path, Task, int], Model]
    describe: Callable[[Settings, Model], str]
    explain: Callable[[Any, FloatArray], FloatArray | None]
    explained_by: str
    explained_rows: int = 500
    draws: bool = False


def _linear(make_estimator: Callable[[Settings, Task, int], Any]) -> Callable[..., Model]:
    """`fit` of a scikit-learn estimator behind a scaler (and PCA). The validation rows are not used: nothing stops early."""

    def fit(train: Examples, validation: Examples | None, settings: Settings, classes: int, pca: int | None, seed: int) -> Model:
        def make() -> Pipeline:
            return make_pipeline(*reduction(pca, train, seed), make_estimator(settings, train.targets.task, seed))

        return fit_sklearn(make, train, classes)

    return fit


def reduction(pca: int | None, train: Examples, seed: int) -> list[Any]:
    """A scaler, and PCA where it is asked for and the table has more columns than components (see `check_pca`).

    Raises ConfigError if there are fewer rows than components.
    """
    rows, columns = train.features.shape
    if pca is None or columns <= pca:
        return [StandardScaler()]
    if pca > rows:
        raise ConfigError(
            f"classify.pca is {pca}, but a head is fitted on {rows} train rows only; expected at most that many components; lower it"
        )
    return [StandardScaler(), PCA(pca, random_state=seed % 2**32, svd_solver="full")]


def check_pca(pca: int | None, columns: dict[str, int]) -> None:
    """Raises ConfigError if all rows of the score table have fewer columns than components: some may go without PCA, all must not.

    columns: how many each row has, by its name.

    >>> check_pca(50, {"covariates": 2, "k-mers": 136})
    """
    if pca is not None and columns and pca > max(columns.values()):
        told = [f"{name} ({count})" for name, count in columns.items()]
        raise ConfigError(
            f"classify.pca is {pca}, but no row of the table has as many columns: {listed(told, 5)}; lower it, or leave it out"
        )


def _logistic(settings: Settings, task: Task, seed: int) -> Any:
    return LogisticRegression(C=settings["C"], max_iter=_MAX_ITERATIONS)


def _ridge(settings: Settings, task: Task, seed: int) -> Any:
    return Ridge(alpha=settings["alpha"]) if task == "regression" else RidgeClassifier(alpha=settings["alpha"])


def _svm(settings: Settings, task: Task, seed: int) -> Any:
    if task == "regression":
        return LinearSVR(C=settings["C"], dual=False, loss="squared_epsilon_insensitive", max_iter=_MAX_ITERATIONS)
    return LinearSVC(C=settings["C"], dual=False, max_iter=_MAX_ITERATIONS)


def _forest(settings: Settings, task: Task, seed: int) -> Any:
    make = RandomForestRegressor if task == "regression" else RandomForestClassifier
    return make(n_estimators=_FOREST_TREES, n_jobs=threads(), random_state=seed % 2**32, **settings)


def _mlp(settings: Settings, task: Task, seed: int) -> Any:
    make = MLPRegressor if task == "regression" else MLPClassifier
    return make(hidden_layer_sizes=(settings["width"],), alpha=settings["alpha"], max_iter=200, tol=1e-3, random_state=seed % 2**32)


def _fit_mlp(*arguments: Any) -> Model:
    with warnings.catch_warnings():  # its epochs are a budget: to use it up is no fault
        warnings.filterwarnings("ignore", message="Stochastic Optimizer: Maximum iterations", category=ConvergenceWarning)
        return _linear(_mlp)(*arguments)


def _fit_trees(train: Examples, validation: Examples | None, settings: Settings, classes: int, pca: int | None, seed: int) -> Model:
    steps = reduction(pca, train, seed)
    if len(steps) == 1:  # trees need no scaler
        return BoostedModel(mark_constant(fit_booster(train, validation, settings, classes, seed), train.targets))
    reduce = make_pipeline(*steps).fit(train.features)
    inside = [None if part is None else Examples(reduce.transform(part.features), part.targets) for part in (train, validation)]
    assert inside[0] is not None
    return BoostedModel(mark_constant(fit_booster(inside[0], inside[1], settings, classes, seed), train.targets), reduce)


def _penalty(name: str, low: float, high: float) -> Callable[[Any], Settings]:
    return lambda trial: {name: trial.suggest_float(name, low, high, log=True)}


def _forest_space(trial: Any) -> Settings:
    return {
        "min_samples_leaf": trial.suggest_int("min_samples_leaf", 1, 20, log=True),
        "max_features": trial.suggest_float("max_features", 0.02, 0.5, log=True),
    }


def _tree_space(trial: Any) -> Settings:
    return {
        "max_depth": trial.suggest_int("max_depth", 2, 8),
        "eta": trial.suggest_float("eta", 0.02, 0.3, log=True),
        "subsample": trial.suggest_float("subsample", 0.5, 1.0),
        "colsample_bytree": trial.suggest_float("colsample_bytree", 0.2, 1.0),
        "min_child_weight": trial.suggest_float("min_child_weight", 0.5, 20.0, log=True),
        "lambda": trial.suggest_float("lambda", 0.1, 20.0, log=True),
    }


def _mlp_space(trial: Any) -> Settings:
    return {
        "width": trial.suggest_categorical("width", [16, 32, 64, 128]),
        "alpha": trial.suggest_float("alpha", 1e-3, 30.0, log=True),
    }


def _told(settings: Settings, model: Model) -> str:
    return ", ".join(f"{name} = {value:.4g}" if isinstance(value, float) else f"{name} = {value}" for name, value in settings.items())


def _told_trees(settings: Settings, model: Model) -> str:
    assert isinstance(model, BoostedModel)
    tuned = {name: value for name, value in settings.items() if name != "rounds"}
    return ", ".join(filter(None, [f"{model.rounds} trees", _told(tuned, model)]))


HEADS: dict[HeadName, HeadKind] = {
    "logistic": HeadKind(
        "logistic", _CLASSES, [{"C": C} for C in (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)], _penalty("C", 1e-5, 100.0),
        _linear(_logistic), load_sklearn, lambda settings, model: f"C = {settings['C']:g}", explain_linear, _LINEAR_SHAP,
    ),
    "ridge": HeadKind(
        "ridge", (*_CLASSES, "regression"), [{"alpha": a} for a in (1e5, 1e4, 1e3, 1e2, 10.0, 1.0)], _penalty("alpha", 0.1, 1e6),
        _linear(_ridge), load_sklearn, _told, explain_linear, _LINEAR_SHAP,
    ),
    "svm": HeadKind(
        "linear SVM", (*_CLASSES, "regression"), [{"C": C} for C in (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)], _penalty("C", 1e-6, 10.0),
        _linear(_svm), load_sklearn, _told, explain_linear, _LINEAR_SHAP,
    ),
    "forest": HeadKind(
        "random forest", (*_CLASSES, "regression"),
        [{"min_samples_leaf": 5, "max_features": "sqrt"}, {"min_samples_leaf": 1, "max_features": "sqrt"}], _forest_space,
        _linear(_forest), load_sklearn, _told, explain_forest, _TREE_SHAP, explained_rows=100, draws=True,  # a tenth of a second each
    ),
    "xgboost": HeadKind(
        "XGBoost", (*_CLASSES, "regression", "ranking"), [{}], _tree_space, _fit_trees,
        lambda path, task, classes: load_boosted(path), _told_trees, explain_trees, _TREE_SHAP, draws=True,
    ),
    "mlp": HeadKind(
        "MLP", (*_CLASSES, "regression"), [{"width": 64, "alpha": a} for a in (10.0, 1.0, 0.1)], _mlp_space,
        _fit_mlp, load_sklearn, _told, lambda model, features: None, "", draws=True,
    ),
}  # fmt: skip
HEAD_TITLES: dict[HeadName, str] = {name: kind.title for name, kind in HEADS.items()}


def heads_for(task: Task, wanted: list[HeadName]) -> list[HeadName]:
    """The heads of a recipe, or the usual ones of the task. Raises ConfigError for one that cannot do the task."""
    able: list[HeadName] = [name for name, kind in HEADS.items() if task in kind.tasks]
    if unable := [name for name in wanted if name not in able]:
        raise ConfigError(
            f"classify.heads names {', '.join(unable)}, which cannot do {task}; expected some of {', '.join(able)}; leave it out"
        )
    return wanted or [name for name in ("logistic", "ridge", "xgboost") if name in able and (name != "ridge" or task == "regression")]


def check_settings(kind: HeadName, task: Task, settings: Settings | None) -> None:
    """Raises ValueError for settings fixed by hand that the head does not know, or without one that it needs.

    logistic, ridge, svm and mlp: all those of their `choices`. forest, xgboost: some of the library's own names; xgboost: `rounds` too.
    """
    if settings is None:
        return
    if kind == "forest":
        known = set((RandomForestRegressor if task == "regression" else RandomForestClassifier)().get_params())
        known -= {"n_estimators", "n_jobs", "random_state"}  # set by biollm
    elif kind == "xgboost":
        known = set(TREE_SETTINGS)
        rounds = settings.get("rounds", 1)
        if not isinstance(rounds, Integral) or rounds < 1:
            raise ValueError(f"settings has rounds = {rounds!r}; expected a whole number of trees, 1 or more")
    else:
        known = set(HEADS[kind].choices[0])
        if lacking := sorted(known - settings.keys()):
            raise ValueError(
                f"settings is {settings}; the head '{kind}' needs {', '.join(lacking)} too, for example {HEADS[kind].choices[0]}"
            )
    if unknown := sorted(settings.keys() - known):
        instead = SAID_OTHERWISE if kind == "xgboost" else {}
        told = [f"{name} (use {instead[name]})" if name in instead else name for name in unknown]
        raise ValueError(f"settings names {', '.join(told)}, which the head '{kind}' does not have; expected of {', '.join(sorted(known))}")


def plain_head(task: Task) -> HeadName:
    """The head that every baseline gets whatever the recipe says."""
    return heads_for(task, [])[0]
