"""Every measure of every task, on many weightings of the rows at once: the rows of `weights_Bn` are bootstrap resamples.

Axes: B resamples, n rows, C classes or labels, Q lists (queries), K distinct scores. `output` is what a head says: (n,) the probability
of the positive class, a value or a rank score; (n, C) probabilities of classes or labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import logit

from biollm.classify.config import Task
from biollm.classify.metrics import BoolArray, FloatArray, IntArray, Resamples, measure
from biollm.classify.targets import Targets

ECE_BINS = 10
_CHUNK_WEIGHTS = 4_000_000
_TINY = 1e-12


@dataclass(frozen=True)
class Measure:
    """A measure's key in the facts and its name for people. The first of a task is the one that choices and verdicts go by."""

    name: str
    title: str
    higher_is_better: bool = True


_AUROC, _AUPRC = Measure("auroc", "AUROC"), Measure("auprc", "AUPRC")
_OF_CLASSES = (
    _AUROC, _AUPRC, Measure("mcc", "MCC"), Measure("f1", "F1"), Measure("accuracy", "accuracy"),
    Measure("brier", "Brier score", False), Measure("ece", "calibration error (ECE)", False),
)  # fmt: skip
MEASURES: dict[Task, tuple[Measure, ...]] = {
    "binary": _OF_CLASSES,
    "multiclass": _OF_CLASSES,
    "multilabel": _OF_CLASSES,
    "regression": (Measure("r2", "R²"), Measure("spearman", "Spearman's ρ"), Measure("rmse", "RMSE", False)),
    "ranking": (Measure("ndcg", "NDCG"),),
}


def primary(task: Task) -> Measure:
    return MEASURES[task][0]


def measure_all(targets: Targets, output: FloatArray, weights_Bn: FloatArray, ranked: FloatArray | None = None) -> dict[str, FloatArray]:
    """Each measure of the task, (B,), by name. NaN where a weighting leaves nothing to measure (one class only).

    AUROC and AUPRC of several classes or labels are means over those that have members and others (one against the rest); F1 of several
    likewise. MCC of several classes is Gorodkin's R_K (Comput. Biol. Chem. 28:367, 2004). Brier score: squared error summed over the
    classes of a record (binary: of the positive class). ranked: what AUROC, AUPRC and Spearman's rho go by instead of `output`, see
    `without_fold_levels`. ECE: of the called class, in 10 equally wide bins of confidence
    (Guo et al. 2017); of binary tasks of the probability of the positive class. A record is called positive from probability 0.5 on.
    """
    function = {"regression": _regression, "ranking": _ranking}.get(targets.task, _classes)
    return function(targets, output, weights_Bn, output if ranked is None else ranked)


def bootstrap_all(targets: Targets, output: FloatArray, resamples: Resamples, ranked: FloatArray | None = None) -> dict[str, FloatArray]:
    """Each measure on every resample, (B,), in their order; 4 million weights (32 MB) are held at once."""
    step = max(1, _CHUNK_WEIGHTS // len(targets))
    parts = [
        measure_all(targets, output, resamples.counts_BG[start : start + step][:, resamples.group_of_row].astype(np.float64), ranked)
        for start in range(0, len(resamples.counts_BG), step)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def measure_plain(targets: Targets, output: FloatArray, ranked: FloatArray | None = None) -> dict[str, float]:
    """Each measure with every row counted once."""
    return {name: float(values[0]) for name, values in measure_all(targets, output, np.ones((1, len(targets))), ranked).items()}


def primary_score(targets: Targets, output: FloatArray) -> float:
    """The measure that choices go by, NaN if these rows have one class only."""
    ones = np.ones((1, len(targets)))
    if targets.task in ("regression", "ranking"):
        return measure_plain(targets, output)[primary(targets.task).name]
    return float(_macro(targets.of_class(), _by_class(output), ones)[0][0])


def without_fold_levels(targets: Targets, output: FloatArray, folds: Sequence[tuple[IntArray, IntArray]]) -> FloatArray:
    """Outputs of several folds' heads on one level, for measures of order over all of them together.

    folds: (train rows, scored rows) each. A head's output lies around the level of its own train rows, and where a fold holds more
    positives its train rows hold fewer: over folds taken together a head that knows nothing would score below chance (Parker, Gunter &
    Bedo, BMC Bioinformatics 8:326, 2007). Each fold's logits are taken relative to the frequencies in its train rows (quantities: to
    their mean). Orders within a fold stay as they are. A class that all or none of a fold's train rows belong to cannot be learned there:
    what the head says of it in that fold is no decision, and is NaN (see `unlearned`).
    """
    if len(folds) < 2 or targets.task == "ranking":
        return output
    levelled = np.array(output)
    for train, scored in folds:
        if targets.task == "regression":
            levelled[scored] -= targets.values[train].mean()
            continue
        share = targets.take(train).of_class().mean(axis=0)
        level = logit(np.clip(share, _TINY, 1 - _TINY))
        level[(share == 0) | (share == 1)] = np.nan
        levelled[scored] = logit(np.clip(output[scored], _TINY, 1 - _TINY)) - (level if output.ndim == 2 else level[0])
    return levelled


def unlearned(targets: Targets, folds: Sequence[tuple[IntArray, IntArray]]) -> dict[str, list[int]]:
    """By class (or label): the numbers of the folds whose train rows all or none belong to it. The other classes are left out."""
    found: dict[str, list[int]] = {}
    for number, (train, _) in enumerate(folds):
        shares = targets.take(train).of_class().mean(axis=0)
        for name, share in zip(targets.classes[-len(shares) :], shares, strict=True):
            if share in (0, 1):
                found.setdefault(name, []).append(number)
    return found


def _classes(targets: Targets, output: FloatArray, weights_Bn: FloatArray, ranked: FloatArray) -> dict[str, FloatArray]:
    member, probability = targets.of_class(), _by_class(output)
    auroc, auprc = _macro(member, _by_class(ranked), weights_Bn)
    total = weights_Bn.sum(axis=1)
    squared = weights_Bn @ ((probability - member) ** 2).sum(axis=1) / total
    if targets.task == "multiclass":
        called = probability.argmax(axis=1)
        right = called == targets.values
        confusion = _confusion(targets.values.astype(np.int64), called, weights_Bn, member.shape[1])
        return {
            "auroc": auroc, "auprc": auprc, "mcc": _mcc_of_confusion(confusion), "f1": _f1_of_confusion(confusion),
            "accuracy": weights_Bn @ right / total, "brier": squared,
            "ece": _ece(probability.max(axis=1), right, weights_Bn),
        }  # fmt: skip
    positive = called_positive(probability)
    labels = [_two_by_two(member[:, c], positive[:, c], weights_Bn) for c in range(member.shape[1])]
    return {
        "auroc": auroc,
        "auprc": auprc,
        "mcc": np.mean([_mcc_of_confusion(table) for table in labels], axis=0),
        "f1": np.mean([_f1(table) for table in labels], axis=0),
        "accuracy": weights_Bn @ (positive == member).mean(axis=1) / total,
        "brier": squared / member.shape[1],
        "ece": np.mean([_ece(probability[:, c], member[:, c], weights_Bn) for c in range(member.shape[1])], axis=0),
    }


def called_positive(probabilities: FloatArray) -> BoolArray:
    """Which probabilities, of any shape, are a yes: from 0.5 on.

    >>> called_positive(np.array([0.49, 0.5])).tolist()
    [False, True]
    """
    return np.asarray(probabilities >= 0.5)


def _by_class(output: FloatArray) -> FloatArray:
    return output[:, None] if output.ndim == 1 else output


def _macro(member: BoolArray, scores: FloatArray, weights_Bn: FloatArray) -> tuple[FloatArray, FloatArray]:
    """AUROC and AUPRC, (B,) each: means over the classes that a weighting leaves members and others of; NaN if none. Decisions without a
    score (NaN) are passed over."""
    aurocs, auprcs = np.full((2, member.shape[1], len(weights_Bn)), np.nan)
    for c in range(member.shape[1]):
        known = ~np.isnan(scores[:, c])
        positive, said, weights = member[:, c], scores[:, c], weights_Bn
        if not known.all():
            positive, said, weights = positive[known], said[known], weights_Bn[:, known]
        inside = weights @ positive
        usable = (inside > 0) & (inside < weights.sum(axis=1))
        if usable.any():
            found = measure(positive, said, weights if usable.all() else weights[usable])
            aurocs[c, usable], auprcs[c, usable] = found.auroc, found.auprc
    return _nan_mean(aurocs), _nan_mean(auprcs)


def _nan_mean(values: FloatArray) -> FloatArray:
    """Means over the first axis of what is a number, NaN where nothing is."""
    known = ~np.isnan(values)
    count = known.sum(axis=0)
    return np.asarray(np.divide(np.where(known, values, 0).sum(axis=0), count, out=np.full(values.shape[1], np.nan), where=count > 0))


def _two_by_two(member: BoolArray, positive: BoolArray, weights_Bn: FloatArray) -> FloatArray:
    return _confusion(member.astype(np.int64), positive.astype(np.int64), weights_Bn, 2)


def _confusion(true: IntArray, called: IntArray, weights_Bn: FloatArray, classes: int) -> FloatArray:
    """(B, C, C) weight of each true class (axis 1) called each class (axis 2)."""
    cell = np.zeros((len(true), classes * classes))
    cell[np.arange(len(true)), true * classes + called] = 1
    return (weights_Bn @ cell).reshape(len(weights_Bn), classes, classes)


def _mcc_of_confusion(table: FloatArray) -> FloatArray:
    """0 where all is of, or called, one class, as scikit-learn has it."""
    true, called, total = table.sum(axis=2), table.sum(axis=1), table.sum(axis=(1, 2))
    right = np.trace(table, axis1=1, axis2=2)
    above = right * total - (true * called).sum(axis=1)
    below = np.sqrt(np.maximum(total**2 - (called**2).sum(axis=1), 0) * np.maximum(total**2 - (true**2).sum(axis=1), 0))
    return np.asarray(np.divide(above, below, out=np.zeros_like(above), where=below > 1e-9 * np.maximum(total, 1) ** 2))


def _f1(table: FloatArray) -> FloatArray:
    """Of the positive class; 0 where none is there or called."""
    found, below = table[:, 1, 1], 2 * table[:, 1, 1] + table[:, 0, 1] + table[:, 1, 0]
    return np.divide(2 * found, below, out=np.zeros_like(found), where=below > 0)


def _f1_of_confusion(table: FloatArray) -> FloatArray:
    """Mean over the classes that are there or called."""
    true, called = table.sum(axis=2), table.sum(axis=1)
    below = true + called
    each = np.divide(2 * np.diagonal(table, axis1=1, axis2=2), below, out=np.full_like(below, np.nan), where=below > 0)
    return _nan_mean(each.T)


def _ece(confidence: FloatArray, right: BoolArray, weights_Bn: FloatArray) -> FloatArray:
    cell = np.zeros((len(confidence), ECE_BINS))
    cell[np.arange(len(confidence)), bin_of(confidence)] = confidence - right
    return np.asarray(np.abs(weights_Bn @ cell).sum(axis=1) / weights_Bn.sum(axis=1))


def bin_of(confidence: FloatArray) -> IntArray:
    """(n,) which of the equally wide bins of 0 to 1 a probability is in."""
    return np.minimum((confidence * ECE_BINS).astype(np.int64), ECE_BINS - 1)


def _regression(targets: Targets, output: FloatArray, weights_Bn: FloatArray, ranked: FloatArray) -> dict[str, FloatArray]:
    total = weights_Bn.sum(axis=1)
    residual = weights_Bn @ (targets.values - output) ** 2
    mean = weights_Bn @ targets.values / total
    spread = weights_Bn @ targets.values**2 - total * mean**2
    r2 = np.divide(residual, spread, out=np.full_like(residual, np.nan), where=spread > 1e-12 * total * (1 + mean**2))
    return {"r2": 1 - r2, "spearman": _spearman(targets.values, ranked, weights_Bn), "rmse": np.sqrt(residual / total)}


def _spearman(values: FloatArray, output: FloatArray, weights_Bn: FloatArray) -> FloatArray:
    """Pearson's r of mean ranks; a weight of two is a row standing twice. 0 where either side is constant: it says nothing of the order."""
    first, second = (_ranks(side, weights_Bn) for side in (values, output))
    total = weights_Bn.sum(axis=1, keepdims=True)
    first -= (weights_Bn * first).sum(axis=1, keepdims=True) / total
    second -= (weights_Bn * second).sum(axis=1, keepdims=True) / total
    both = (weights_Bn * first * second).sum(axis=1)
    below = np.sqrt((weights_Bn * first**2).sum(axis=1) * (weights_Bn * second**2).sum(axis=1))
    return np.asarray(np.divide(both, below, out=np.zeros_like(both), where=below > 1e-9))


def _ranks(values: FloatArray, weights_Bn: FloatArray) -> FloatArray:
    """(B, n) mean rank of each row among the weighted rows."""
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.diff(values[order], prepend=-np.inf))
    block_BK = np.add.reduceat(weights_Bn[:, order], starts, axis=1)
    rank_BK = np.cumsum(block_BK, axis=1) - (block_BK - 1) / 2
    of_row = np.empty(len(values), dtype=np.int64)
    of_row[order] = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(values))))
    return np.asarray(rank_BK[:, of_row])


def _ranking(targets: Targets, output: FloatArray, weights_Bn: FloatArray, ranked: FloatArray) -> dict[str, FloatArray]:
    """Mean NDCG over lists; a list weighs what its first row weighs. Lists without a relevant record are left out."""
    assert targets.query is not None
    lists, first = np.unique(targets.query, return_index=True)
    gains = np.array([_ndcg(targets.values[rows], output[rows]) for rows in (targets.query == q for q in lists)])
    known = ~np.isnan(gains)
    weights = weights_Bn[:, first[known]]
    total = weights.sum(axis=1)
    return {"ndcg": np.divide(weights @ gains[known], total, out=np.full(len(total), np.nan), where=total > 0)}


def _ndcg(relevance: FloatArray, scores: FloatArray) -> float:
    """Discounted gain over the best possible; tied records share the mean of their places' discounts. NaN without a relevant record."""
    discount = 1 / np.log2(np.arange(len(scores)) + 2)
    best = float(np.sort(relevance)[::-1] @ discount)
    if best == 0:
        return float("nan")
    _, block = np.unique(-scores, return_inverse=True)
    counts = np.bincount(block)
    shared = np.add.reduceat(discount, np.append(0, np.cumsum(counts)[:-1])) / counts
    return float((relevance * shared[block]).sum() / best)
