"""AUROC and AUPRC on many resamples at once, and the resampling that respects groups.

Axes: B resamples, n rows, G groups, K distinct scores.

Windows of one group overlap or neighbour each other, so their errors are not independent. Resampling rows would pretend they
are and give intervals that are too narrow; whole groups are resampled instead (the cluster bootstrap: Davison & Hinkley,
Bootstrap Methods and their Application, 1997, section 3.8).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from biollm.core.errors import DataError, listed

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

# Weights held at once: 4 million float64 are 32 MB, whatever the number of rows and resamples.
_CHUNK_WEIGHTS = 4_000_000


@dataclass(frozen=True)
class Measures:
    """AUROC and AUPRC (average precision) under each weighting; both (B,)."""

    auroc: FloatArray
    auprc: FloatArray


@dataclass(frozen=True)
class Resamples:
    """How often each group was drawn in each resample. Shared by all score rows, so that their differences are paired."""

    counts_BG: IntArray
    group_of_row: IntArray
    skipped: int

    @property
    def groups(self) -> int:
        return int(self.counts_BG.shape[1])


def measure(positive: BoolArray, scores: FloatArray, weights_Bn: FloatArray) -> Measures:
    """AUROC and average precision of one score vector under each row of weights.

    Ties are treated as scikit-learn does: tied rows enter together. Every weighting must leave weight on both classes.
    """
    tp_BK, fp_BK = _counts_by_threshold(positive, scores, weights_Bn)
    new_tp, new_fp = np.diff(tp_BK, prepend=0.0), np.diff(fp_BK, prepend=0.0)
    auroc = (new_fp * (tp_BK - new_tp / 2)).sum(axis=1) / (tp_BK[:, -1] * fp_BK[:, -1])
    called_BK = tp_BK + fp_BK
    precision = np.divide(tp_BK, called_BK, out=np.zeros_like(tp_BK), where=called_BK > 0)
    auprc = (new_tp * precision).sum(axis=1) / tp_BK[:, -1]
    return Measures(auroc, auprc)


def measure_once(positive: BoolArray, scores: FloatArray) -> tuple[float, float]:
    """AUROC and AUPRC with every row counted once."""
    measures = measure(positive, scores, np.ones((1, len(scores))))
    return float(measures.auroc[0]), float(measures.auprc[0])


def resample_groups(groups: list[str], member: BoolArray | None, samples: int, rng: np.random.Generator) -> Resamples:
    """Draw as many groups as there are, with replacement, `samples` times.

    member: (n,) which rows are positive, or (n, C) of each class or label: resamples in which none of them has both members and others
    are left out, counted. None: any resample will do (quantities). Raises DataError if no resample is left.
    """
    names, group_of_row = np.unique(np.array(groups, dtype=np.str_), return_inverse=True)
    G = len(names)
    counts_BG = rng.multinomial(G, np.full(G, 1 / G), size=samples).astype(np.int64)
    usable = np.full(samples, member is None)
    for column in () if member is None else member.reshape(len(groups), -1).T:
        members_G = np.bincount(group_of_row, weights=column, minlength=G)
        others_G = np.bincount(group_of_row, weights=~column, minlength=G)
        usable |= (counts_BG @ members_G > 0) & (counts_BG @ others_G > 0)
    if not usable.any():
        raise DataError(
            f"none of {samples} resamples of the {G} groups of the {len(groups)} scored records ({listed(names.tolist(), 5)}) holds a "
            "class and others beside it, so nothing can be measured; bring more data, or groups that hold several classes"
        )
    return Resamples(counts_BG[usable], group_of_row.astype(np.int64), int(samples - usable.sum()))


def bootstrap(positive: BoolArray, scores: FloatArray, resamples: Resamples) -> Measures:
    """The measures on every resample, in the order of `resamples`."""
    step = max(1, _CHUNK_WEIGHTS // len(scores))
    parts = [
        measure(positive, scores, resamples.counts_BG[start : start + step][:, resamples.group_of_row].astype(np.float64))
        for start in range(0, len(resamples.counts_BG), step)
    ]
    return Measures(np.concatenate([part.auroc for part in parts]), np.concatenate([part.auprc for part in parts]))


def interval(values: FloatArray) -> tuple[float, float]:
    """The 95 % percentile interval; resamples that leave nothing to measure (NaN) are passed over. NaN if all of them do."""
    if np.isnan(values).all():
        return float("nan"), float("nan")
    low, high = np.nanquantile(values, [0.025, 0.975])
    return float(low), float(high)


def two_sided_p(differences: FloatArray) -> float:
    """Bootstrap p of "no difference": twice the smaller tail. One is added to each count, so it is never 0."""
    differences = differences[~np.isnan(differences)]
    tail = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return min(1.0, 2 * (tail + 1) / (len(differences) + 1))


def roc_points(positive: BoolArray, scores: FloatArray, limit: int) -> tuple[list[float], list[float]]:
    """False and true positive rates from (0, 0) to (1, 1), thinned evenly to at most `limit` points."""
    tp_BK, fp_BK = _counts_by_threshold(positive, scores, np.ones((1, len(scores))))
    fpr, tpr = np.append(0.0, fp_BK[0] / fp_BK[0, -1]), np.append(0.0, tp_BK[0] / tp_BK[0, -1])
    kept = np.unique(np.linspace(0, len(fpr) - 1, min(limit, len(fpr))).round().astype(np.int64))
    return [round(float(v), 5) for v in fpr[kept]], [round(float(v), 5) for v in tpr[kept]]


def pr_points(positive: BoolArray, scores: FloatArray, limit: int) -> tuple[list[float], list[float]]:
    """Recall and precision from the highest threshold down to that which calls all rows, thinned evenly to at most `limit` points."""
    tp_BK, fp_BK = _counts_by_threshold(positive, scores, np.ones((1, len(scores))))
    recall, precision = tp_BK[0] / tp_BK[0, -1], tp_BK[0] / (tp_BK[0] + fp_BK[0])
    kept = np.unique(np.linspace(0, len(recall) - 1, min(limit, len(recall))).round().astype(np.int64))
    return [round(float(v), 5) for v in recall[kept]], [round(float(v), 5) for v in precision[kept]]


def _counts_by_threshold(positive: BoolArray, scores: FloatArray, weights_Bn: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Weight of true and false positives, (B, K) each, when all rows down to the k-th highest distinct score are called positive."""
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.inf))
    weights = weights_Bn[:, order]
    of_positives = weights * positive[order]
    tp_BK = np.cumsum(np.add.reduceat(of_positives, starts, axis=1), axis=1)
    fp_BK = np.cumsum(np.add.reduceat(weights - of_positives, starts, axis=1), axis=1)
    return tp_BK, fp_BK
