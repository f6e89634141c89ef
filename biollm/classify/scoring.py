"""A row of the table fitted and scored, fold by fold: what it says of every scored record, and the head that is kept."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from biollm.classify.boosting import quantise, threads
from biollm.classify.calibration import abstention_facts, calibration_curve, confidence_and_right
from biollm.classify.covariates import CovariateEncoder
from biollm.classify.data import Dataset
from biollm.classify.explain import explained_rows, top_features
from biollm.classify.fitting import FittedHead, Method, fit_head
from biollm.classify.folds import Fold
from biollm.classify.heads import HEADS
from biollm.classify.measures import bootstrap_all, measure_plain, primary_score, without_fold_levels
from biollm.classify.metrics import BoolArray, FloatArray, Resamples, pr_points, roc_points
from biollm.classify.models import Examples
from biollm.classify.rows import COVARIATES, RowPlan, ScoredRow
from biollm.classify.tables import Tables
from biollm.classify.targets import Targets
from biollm.core.machine import available_memory_gib, one_blas_thread
from biollm.core.seeding import derive_seed

_CURVE_POINTS = 200
_COPIES_PER_FOLD = 3  # of the table: the train rows, those that settings are tried on, and what the scaler makes of them


@dataclass(frozen=True)
class Kept:
    """The head that is saved for a row, and the encoder of its covariates."""

    head: FittedHead
    encoder: CovariateEncoder | None


@dataclass(frozen=True)
class Outcome:
    """What a row says. output: (n,) or (n, C) over all labelled records, NaN where none was asked for. validation: the mean score on the
    rows that settings were chosen on; of folds these are train rows, which other folds score. choice: the settings of `kept`, which
    with folds is fitted on all records and is not what was scored; the scored heads are in of_fold."""

    output: FloatArray
    validation: float
    choice: str = ""
    kept: Kept | None = None
    of_fold: tuple[FittedHead, ...] = ()
    top: tuple[dict[str, Any], ...] = ()


def majority_outcome(dataset: Dataset, folds: list[Fold]) -> Outcome:
    """The share of each class (or the mean) in the train rows, for every record: what a model knows that looks at nothing."""
    targets = dataset.targets
    output = _empty(targets)
    validation = []
    for fold in folds:
        output[_asked(fold)] = _constant(targets.take(fold.train))
        for fitted, tuned in fold.inner:
            said = _empty(targets)[tuned]
            said[:] = _constant(targets.take(fitted))
            validation.append(primary_score(targets.take(tuned), said))
    known = [score for score in validation if not np.isnan(score)]
    return Outcome(output, float(np.mean(known)) if known else float("nan"))


def finetuned_outcome(dataset: Dataset, scores: FloatArray) -> Outcome:
    """scores: of validation and test records, in corpus order."""
    output = _empty(dataset.targets)
    output[dataset.mask("validation", "test")] = scores
    validation = np.flatnonzero(dataset.mask("validation"))
    return Outcome(output, primary_score(dataset.targets.take(validation), output[validation]))


@one_blas_thread()
def head_outcome(plan: RowPlan, tables: Tables, dataset: Dataset, folds: list[Fold], keep: Fold, method: Method, seed: int) -> Outcome:
    """Fit a row's head on every fold, and on `keep`, whose head is kept (the given splits are one fold, which is both)."""
    output = _empty(dataset.targets)
    all_folds = folds if keep is folds[0] else [keep, *folds]  # the largest first, so that no thread is left with it at the end
    shared = None if COVARIATES in plan.features else tables.features(plan, None)
    bins = None
    if shared is not None and len(all_folds) > 1 and method.kind == "xgboost" and method.pca is None:
        bins = quantise(shared)

    def fit(fold: Fold) -> Kept:
        own = derive_seed(seed, "classify", plan.name, *([] if fold is keep else [fold.name]))
        encoder = tables.encoder(plan, fold.train)
        features = tables.features(plan, encoder) if shared is None else shared
        examples = Examples(features, dataset.targets, bins)
        head = fit_head(Method(**{**method.__dict__, "seed": own}), examples, fold.inner, fold.refit, fold.train)
        if fold is not keep or keep is folds[0]:
            output[_asked(fold)] = head.output(features[_asked(fold)])
        return Kept(head, encoder)

    own_threads = method.kind == "forest" or (method.kind == "xgboost" and bins is None)
    alone = own_threads or method.kind == "mlp"  # whose warnings are silenced for the whole process
    with ThreadPoolExecutor(1 if alone else _folds_at_once(tables.nbytes(plan))) as pool:
        fitted = list(pool.map(fit, all_folds))
    kept, heads = fitted[0], [each.head for each in fitted[-len(folds) :]]
    columns = tables.features(plan, kept.encoder) if shared is None else shared
    kind = HEADS[method.kind]
    shown = explained_rows(columns[keep.train], kind.explained_rows)
    top = top_features(kind.explain(kept.head.model, shown), tables.names(plan, kept.encoder), shown)
    choice = kept.head.choice
    return Outcome(output, float(np.mean([head.inner_score for head in heads])), choice, kept, tuple(heads), tuple(top))


def _folds_at_once(nbytes: int) -> int:
    """A fold a thread, since on tables of this size the threads of one fit wait more than they work; as many as find room in memory."""
    room = available_memory_gib() * 2**30 / (_COPIES_PER_FOLD * max(1, nbytes))
    return max(1, min(threads(), int(room)))


def score_row(plan: RowPlan, outcome: Outcome, dataset: Dataset, folds: list[Fold], resamples: Resamples) -> ScoredRow:
    """The measures of a row on all scored records together, their resamples, and each fold's own."""
    scored = scored_rows(folds)
    targets, output = dataset.targets.take(scored), outcome.output[scored]
    levelled = _ranked(outcome, dataset.targets, folds)
    ranked = levelled[scored]
    of_folds = []
    if len(folds) > 1:
        for fold in folds:
            own = outcome.output[fold.test]
            # On the level of their fold, without what its head could not learn.
            values = measure_plain(dataset.targets.take(fold.test), own, np.where(np.isnan(levelled[fold.test]), np.nan, own))
            of_folds.append({"fold": fold.name, "records": len(fold.test), "choice": "", **values})
        for facts, head in zip(of_folds, outcome.of_fold, strict=False):
            facts["choice"] = head.choice
    more: dict[str, Any] = {"top_features": list(outcome.top)}
    if outcome.kept is not None and outcome.top:
        more["top_features_by"] = HEADS[outcome.kept.head.kind].explained_by
    if outcome.kept is not None and outcome.kept.head.abstention is not None:
        more["abstention"] = _abstention(outcome, dataset.targets, folds)
    return ScoredRow(
        plan,
        targets.task,
        outcome.choice,
        outcome.validation,
        measure_plain(targets, output, ranked),
        bootstrap_all(targets, output, resamples, ranked),
        of_folds,
        more,
    )


def scored_rows(folds: list[Fold]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The numbers of the records that scores are of, in corpus order."""
    return np.sort(np.concatenate([fold.test for fold in folds])).astype(np.int64)


def _abstention(outcome: Outcome, targets: Targets, folds: list[Fold]) -> dict[str, Any]:
    assert outcome.kept is not None
    chosen = outcome.kept.head.abstention
    assert chosen is not None
    if len(folds) == 1:
        return abstention_facts(chosen, targets.take(folds[0].test), outcome.output[folds[0].test])
    answered, right = [], []
    for fold, head in zip(folds, outcome.of_fold, strict=True):
        confidence, is_right = confidence_and_right(targets.take(fold.test), outcome.output[fold.test])
        assert head.abstention is not None, "the heads of all folds are made by one method"
        answered.append(head.abstention.answered(confidence))
        right.append(is_right)
    mask, hits = np.concatenate(answered), np.concatenate(right)
    accuracy = float(hits[mask].mean()) if mask.any() else None
    return chosen.model_dump() | {"coverage": float(mask.mean()), "accuracy": accuracy}


def curves(outcome: Outcome, targets: Targets, folds: list[Fold]) -> dict[str, dict[str, list[float]]]:
    """roc, pr and calibration of a row, thinned to 200 points; of several classes or labels all decisions together (micro-average)."""
    scored = scored_rows(folds)
    truth, output = targets.take(scored), outcome.output[scored]
    ranked = _ranked(outcome, targets, folds)[scored].ravel()
    if truth.task in ("regression", "ranking"):
        return {}
    decided = ~np.isnan(ranked)
    member: BoolArray = truth.of_class().ravel()[decided]
    ranked = ranked[decided]
    fpr, tpr = roc_points(member, ranked, _CURVE_POINTS)
    recall, precision = pr_points(member, ranked, _CURVE_POINTS)
    return {
        "roc": {"fpr": fpr, "tpr": tpr},
        "pr": {"recall": recall, "precision": precision},
        "calibration": calibration_curve(truth, output),
    }


def _ranked(outcome: Outcome, targets: Targets, folds: list[Fold]) -> FloatArray:
    return without_fold_levels(targets, outcome.output, [(fold.train, fold.test) for fold in folds])


def _constant(train: Targets) -> FloatArray | float:
    if train.task in ("multiclass", "multilabel"):
        return np.asarray(train.of_class().mean(axis=0))
    return float(train.values.mean())


def _empty(targets: Targets) -> FloatArray:
    wide = targets.task in ("multiclass", "multilabel")
    return np.full((len(targets), len(targets.classes)) if wide else len(targets), np.nan)


def _asked(fold: Fold) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The records that a fold's head is asked about: those it is scored on, and of the given splits the validation records too."""
    return fold.test if fold.refit else np.concatenate([fold.inner[0][1], fold.test])
