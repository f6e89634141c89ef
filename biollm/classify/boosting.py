"""XGBoost: early-stopped rounds, and folds side by side on one quantised matrix."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import xgboost

from biollm.classify.config import Task
from biollm.classify.metrics import FloatArray, IntArray
from biollm.classify.models import Examples, Settings
from biollm.classify.targets import Targets
from biollm.core.machine import granted_cores, usable_cores

MAX_ROUNDS = 1000
PATIENCE_ROUNDS = 30
# Most of a round on the columns of an embedding goes into looking through the bins of each leaf. XGBoost's own 256 take three times as long
# as 64 and rank no better; columns of k-mers have fewer values than either.
BINS = 64
DEFAULT_TREES: Settings = {"max_depth": 4, "eta": 0.1, "subsample": 0.8, "colsample_bytree": 0.5, "max_bin": BINS}
# What may be fixed by hand, under XGBoost's own names; the rest is the task's, the run's or the search's.
TREE_SETTINGS = (
    "rounds", "eta", "max_depth", "max_leaves", "grow_policy", "min_child_weight", "gamma", "lambda", "alpha", "max_delta_step",
    "subsample", "colsample_bytree", "colsample_bylevel", "colsample_bynode", "max_bin", "scale_pos_weight",
)  # fmt: skip
SAID_OTHERWISE = {
    "n_estimators": "rounds", "num_boost_round": "rounds", "early_stopping_rounds": "rounds, or nothing: held-out rows find them",
    "learning_rate": "eta", "reg_lambda": "lambda", "reg_alpha": "alpha", "min_split_loss": "gamma", "seed": "seed of the head",
    "random_state": "seed of the head", "n_jobs": "OMP_NUM_THREADS", "nthread": "OMP_NUM_THREADS",
    "objective": "nothing: the task decides", "eval_metric": "nothing: the task decides", "num_class": "classes of the head",
}  # fmt: skip
_OBJECTIVES: dict[Task, tuple[str, str]] = {
    "binary": ("binary:logistic", "logloss"),
    "multiclass": ("multi:softprob", "mlogloss"),
    "multilabel": ("binary:logistic", "logloss"),
    "regression": ("reg:squarederror", "rmse"),
    "ranking": ("rank:ndcg", "ndcg"),
}


def fit_booster(train: Examples, validation: Examples | None, settings: Settings, classes: int, seed: int) -> xgboost.Booster:
    """Trees, cut where the loss on the validation rows was lowest, so that a saved file scores as the object does.

    Rounds are chosen by log loss (regression: RMSE, ranking: NDCG): on a few hundred rows AUROC jumps from round to round. `settings` may
    say how many rounds instead, and must without validation rows. With shared bins it takes one thread, because folds are fitted side by
    side.
    """
    objective, metric = _OBJECTIVES[train.targets.task]
    trees = {name: value for name, value in settings.items() if name != "rounds"}
    parameters = {
        **DEFAULT_TREES, **trees, "objective": objective, "eval_metric": metric, "tree_method": "hist",
        "seed": seed % 2**31, "nthread": threads() if train.bins is None else 1,
    }  # fmt: skip
    if train.targets.task == "multiclass":
        parameters["num_class"] = classes
    matrix = _matrix(train, train.bins, parameters["nthread"])
    if "rounds" in settings:
        return xgboost.train(parameters, matrix, num_boost_round=settings["rounds"], verbose_eval=False)
    assert validation is not None, "nothing says how many rounds"
    booster = xgboost.train(
        parameters,
        matrix,
        num_boost_round=MAX_ROUNDS,
        evals=[(_matrix(validation, None, parameters["nthread"]), "validation")],  # scored every round, which bins make a tenth slower
        early_stopping_rounds=PATIENCE_ROUNDS,
        verbose_eval=False,
    )
    return booster[: booster.best_iteration + 1]


def _matrix(examples: Examples, bins: xgboost.DMatrix | None, nthread: int) -> xgboost.DMatrix:
    features, values, qid = examples.features, examples.targets.values, examples.targets.query
    if qid is not None:
        order = np.argsort(qid, kind="stable")  # the records of a list must stand together
        features, values, qid = features[order], values[order], qid[order]
    if bins is None:
        return xgboost.DMatrix(features, values, qid=qid, nthread=nthread)
    return xgboost.QuantileDMatrix(features, values, qid=qid, ref=bins, max_bin=BINS, nthread=nthread)


def quantise(features: FloatArray) -> xgboost.QuantileDMatrix:
    """The cut points of a table, once for all folds."""
    return xgboost.QuantileDMatrix(features, max_bin=BINS, nthread=threads())


def threads() -> int:
    """The thread count that the run was given; it decides the last bits of the histogram sums."""
    return granted_cores() if os.environ.get("OMP_NUM_THREADS") else 1


def cross_validate_trees(
    features: FloatArray,
    targets: Targets,
    folds: Sequence[tuple[IntArray, IntArray]],
    settings: Settings,
    rounds: int,
    *,
    workers: int | None = None,
    seed: int = 0,
) -> FloatArray:
    """Out-of-fold output of XGBoost for every row that a fold scores, (n,) or (n, C); NaN for other rows.

    folds: (train rows, scored rows) each. The columns are quantised once, over all rows, and every fold's matrix takes over these bins:
    the cut points see the features of scored rows, never a label. Of `settings`, what is not given is as in XGBoost, but for `max_bin`,
    which is 64: a third of the time on the columns of an embedding. Folds are fitted side by side, one thread each (`workers` at a time,
    default: the usable cores), because on tables of this size XGBoost's own threads wait for each other more than they work.
    The result does not depend on `workers`.
    """
    objective, metric = _OBJECTIVES[targets.task]
    classes = len(targets.classes)
    parameters = {
        "max_bin": BINS, **settings, "objective": objective, "eval_metric": metric, "tree_method": "hist",
        "seed": seed % 2**31, "nthread": 1,
    }  # fmt: skip
    if targets.task == "multiclass":
        parameters["num_class"] = classes
    workers = min(workers or usable_cores(), len(folds))
    table = np.ascontiguousarray(features, dtype=np.float32)
    bins = xgboost.QuantileDMatrix(table, max_bin=parameters["max_bin"], nthread=workers)
    shape = (len(table), classes) if targets.task in ("multiclass", "multilabel") else (len(table),)
    output = np.full(shape, np.nan)

    def fit(fold: tuple[IntArray, IntArray]) -> None:
        train, scored = fold
        matrix = xgboost.QuantileDMatrix(table[train], targets.values[train], ref=bins, max_bin=parameters["max_bin"], nthread=1)
        output[scored] = xgboost.train(parameters, matrix, rounds).inplace_predict(table[scored])

    _side_by_side(fit, folds, workers)
    return output


def _side_by_side(work: Callable[[tuple[IntArray, IntArray]], None], folds: Sequence[tuple[IntArray, IntArray]], workers: int) -> None:
    with ThreadPoolExecutor(workers) as pool:  # XGBoost lets go of the interpreter lock while it works
        list(pool.map(work, folds))
