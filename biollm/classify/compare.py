"""Paired comparisons between score rows: which are made, and what they say.

Every choice (best row, head) is made on validation scores. Of the given splits these are of other records than the scored ones, which
decide nothing but the result. Of folds they are of train rows held out within each fold: its own scored rows have no part in them, but
other folds score those rows, so the best of many rows can look a little too good.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from biollm.classify.measures import MEASURES, primary
from biollm.classify.metrics import FloatArray, interval, two_sided_p
from biollm.classify.rows import (
    BASE,
    COVARIATES,
    EXPAND,
    FUSED,
    KMERS,
    MAJORITY,
    PRETRAIN,
    SHUFFLED,
    TRACKS,
    ScoredRow,
    adapted_set,
    no_nan,
)

BEST_AGAINST_BASELINE = "best_against_baseline"
ADAPTED_AGAINST_BASE = "adapted_against_base"
BEST_AGAINST_TRACKS = "best_against_tracks"
BEST_AGAINST_KMERS = "best_against_kmers"
_WITHOUT_TRACKS = "pretrain_without_tracks"


@dataclass(frozen=True)
class Difference:
    """Row minus reference on the scored rows, its 95 % interval and two-sided bootstrap p."""

    value: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Comparison:
    """One question, answered by a row and the reference it is held against. differences: of every measure of the task, by name."""

    name: str
    question: str
    row: ScoredRow
    reference: ScoredRow
    differences: dict[str, Difference]

    @property
    def difference(self) -> Difference:
        """Of the measure that verdicts go by; higher is better for each of these."""
        return self.differences[primary(self.row.task).name]

    def facts(self) -> dict[str, Any]:
        found = {
            "name": self.name,
            "question": self.question,
            "row": self.row.plan.name,
            "row_title": self.row.plan.title,
            "reference": self.reference.plan.name,
            "reference_title": self.reference.plan.title,
            "differences": {name: asdict(difference) for name, difference in self.differences.items()},
        }
        for name in [measure.name for measure in MEASURES[self.row.task]][:2]:
            found[f"{name}_difference"] = asdict(self.differences[name])
        return dict(no_nan(found))


def compare_rows(rows: list[ScoredRow]) -> list[Comparison]:
    """The comparisons that the rows allow, the overall one first."""
    features = [feature for row in rows if row.plan.head != "none" for feature in row.plan.features]
    adapted = adapted_set(dict.fromkeys(features))
    found: list[Comparison] = []
    candidates = [row for row in rows if not row.plan.is_baseline and row.plan.features != (SHUFFLED,)]
    baselines = [row for row in rows if row.plan.is_baseline]
    if candidates:
        best = _best(candidates)
        question = "Does the best adapted row beat the best baseline?"
        found.append(_compare(BEST_AGAINST_BASELINE, question, best, _best(baselines)))
        if TRACKS in features:
            for name, source, question in (
                (BEST_AGAINST_TRACKS, TRACKS, "Does the best adapted row beat the tracks alone?"),
                (BEST_AGAINST_KMERS, KMERS, "Does the best adapted row beat the k-mers alone?"),
            ):
                if alone := [row for row in baselines if row.plan.features == (source,)]:
                    found.append(_compare(name, question, best, _best(alone)))
    if adapted is None:
        return found
    fused = sorted({feature for feature in features if feature.startswith(FUSED)})
    questions: list[tuple[str, str, tuple[str, ...], tuple[str, ...]]] = [
        (ADAPTED_AGAINST_BASE, "Did the adaptation help over the untouched base model?", (adapted,), (BASE,)),
        ("adapted_against_expanded", "Did pretraining help beyond the new vocabulary?", (PRETRAIN,), (EXPAND,)),
        ("tracks", "Did the track channel help in pretraining?", (PRETRAIN,), (_WITHOUT_TRACKS,)),
        ("shuffled_tracks", "Do the tracks say more than shuffled ones?", (PRETRAIN,), (SHUFFLED,)),
        *(
            (f"{name}_against_base", f"Does fusion by {name.removeprefix(FUSED)} help over the base model?", (name,), (BASE,))
            for name in fused
        ),
        ("added_to_kmers", "Do the embeddings know more than the k-mers?", (adapted, KMERS), (KMERS,)),
        ("added_to_tracks", "Do the embeddings know more than the tracks?", (adapted, TRACKS), (TRACKS,)),
        ("added_to_covariates", "Do the embeddings know more than the covariates?", (adapted, COVARIATES), (COVARIATES,)),
    ]
    for name, question, of_row, of_reference in questions:
        pairs = _pairs_by_head(rows, of_row, of_reference)
        if pairs:
            # The head that suits either side best: to go by the row's side alone would favour it.
            row, reference = max(pairs, key=lambda pair: max(pair[0].validation, pair[1].validation))
            found.append(_compare(name, question, row, reference))
    if TRACKS in features:
        for source, title in ((TRACKS, "tracks"), (KMERS, "k-mers")):
            question = f"Does the adapted model beat the {title} alone under the same head?"
            found += [
                _compare(f"adapted_against_{source}_{row.plan.head}", question, row, reference)
                for row, reference in _pairs_by_head(rows, (adapted,), (source,))
            ]
    return found


def _pairs_by_head(rows: list[ScoredRow], features: tuple[str, ...], reference: tuple[str, ...]) -> list[tuple[ScoredRow, ScoredRow]]:
    by_head = {row.plan.head: row for row in rows if row.plan.features == reference and row.plan.name != MAJORITY}
    return [(row, by_head[row.plan.head]) for row in rows if row.plan.features == features and row.plan.head in by_head]


def _best(rows: list[ScoredRow]) -> ScoredRow:
    return max(rows, key=lambda row: row.validation)


def _compare(name: str, question: str, row: ScoredRow, reference: ScoredRow) -> Comparison:
    differences = {
        measure: _difference(row.measures[measure] - reference.measures[measure], row.resampled[measure] - reference.resampled[measure])
        for measure in row.measures
    }
    return Comparison(name, question, row, reference, differences)


def _difference(value: float, resampled: FloatArray) -> Difference:
    low, high = interval(resampled)
    return Difference(value, low, high, two_sided_p(resampled))
