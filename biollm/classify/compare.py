"""Paired comparisons between score rows: which are made, and what they say.

Every choice (best row, head) is made on validation scores, so that the test split decides nothing but the result.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from biollm.classify.metrics import FloatArray, interval, two_sided_p
from biollm.classify.rows import BASE, EXPAND, KMERS, PRETRAIN, ScoredRow, adapted_set

BEST_AGAINST_BASELINE = "best_against_baseline"
ADAPTED_AGAINST_BASE = "adapted_against_base"
_WITHOUT_TRACKS = "pretrain_without_tracks"


@dataclass(frozen=True)
class Difference:
    """Row minus reference on the test split, its 95 % interval and two-sided bootstrap p."""

    value: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Comparison:
    """One question, answered by a row and the reference it is held against."""

    name: str
    question: str
    row: ScoredRow
    reference: ScoredRow
    auroc: Difference
    auprc: Difference

    def facts(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "question": self.question,
            "row": self.row.plan.name,
            "row_title": self.row.plan.title,
            "reference": self.reference.plan.name,
            "reference_title": self.reference.plan.title,
            "auroc_difference": asdict(self.auroc),
            "auprc_difference": asdict(self.auprc),
        }


def compare_rows(rows: list[ScoredRow]) -> list[Comparison]:
    """The comparisons that the rows allow, the overall one first."""
    adapted = adapted_set([feature for row in rows if row.plan.head != "none" for feature in row.plan.features])
    found: list[Comparison] = []
    candidates = [row for row in rows if not row.plan.is_baseline]
    baselines = [row for row in rows if row.plan.is_baseline]
    if candidates:
        question = "Does the best adapted row beat the best baseline?"
        found.append(_compare(BEST_AGAINST_BASELINE, question, _best(candidates), _best(baselines)))
    if adapted is None:
        return found
    questions: list[tuple[str, str, tuple[str, ...], tuple[str, ...]]] = [
        (ADAPTED_AGAINST_BASE, "Did the adaptation help over the untouched base model?", (adapted,), (BASE,)),
        ("adapted_against_expanded", "Did pretraining help beyond the new vocabulary?", (PRETRAIN,), (EXPAND,)),
        ("tracks", "Did the track channel help in pretraining?", (PRETRAIN,), (_WITHOUT_TRACKS,)),
        ("added_to_kmers", "Do the embeddings know more than the k-mers?", (adapted, KMERS), (KMERS,)),
    ]
    for name, question, features, reference_features in questions:
        pairs = _pairs_by_head(rows, features, reference_features)
        if pairs:
            # The head that suits either side best: to go by the row's side alone would favour it.
            row, reference = max(pairs, key=lambda pair: max(pair[0].validation_auroc, pair[1].validation_auroc))
            found.append(_compare(name, question, row, reference))
    return found


def _pairs_by_head(rows: list[ScoredRow], features: tuple[str, ...], reference: tuple[str, ...]) -> list[tuple[ScoredRow, ScoredRow]]:
    by_head = {row.plan.head: row for row in rows if row.plan.features == reference}
    return [(row, by_head[row.plan.head]) for row in rows if row.plan.features == features and row.plan.head in by_head]


def _best(rows: list[ScoredRow]) -> ScoredRow:
    return max(rows, key=lambda row: row.validation_auroc)


def _compare(name: str, question: str, row: ScoredRow, reference: ScoredRow) -> Comparison:
    return Comparison(
        name,
        question,
        row,
        reference,
        auroc=_difference(row.auroc - reference.auroc, row.resampled.auroc - reference.resampled.auroc),
        auprc=_difference(row.auprc - reference.auprc, row.resampled.auprc - reference.resampled.auprc),
    )


def _difference(value: float, resampled: FloatArray) -> Difference:
    low, high = interval(resampled)
    return Difference(value, low, high, two_sided_p(resampled))
