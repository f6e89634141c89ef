"""The one sentence that a reader takes away, composed from which intervals exclude zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from biollm.classify.compare import (
    ADAPTED_AGAINST_BASE,
    BEST_AGAINST_BASELINE,
    BEST_AGAINST_KMERS,
    BEST_AGAINST_TRACKS,
    Comparison,
    Difference,
)
from biollm.classify.measures import primary
from biollm.classify.rows import ScoredRow

Outcome = Literal["better", "worse", "unclear", "not tested"]


@dataclass(frozen=True)
class Verdict:
    """`adaptation`: adapted against untouched base model. `against_baselines`: best adapted row against best baseline; `against_tracks`
    and `against_kmers`: against each single source, where there are tracks."""

    sentence: str
    adaptation: Outcome
    against_baselines: Outcome
    against_tracks: Outcome = "not tested"
    against_kmers: Outcome = "not tested"

    def parts(self) -> dict[str, Outcome]:
        """The outcomes of the comparisons that were made, and of the two that every recipe should make."""
        always: dict[str, Outcome] = {"adaptation": self.adaptation, "against_baselines": self.against_baselines}
        single: dict[str, Outcome] = {"against_tracks": self.against_tracks, "against_kmers": self.against_kmers}
        return always | {name: outcome for name, outcome in single.items() if outcome != "not tested"}


def judge(comparisons: list[Comparison]) -> Verdict:
    """Judge differences of the task's first measure by their 95 % intervals: an interval that holds zero claims nothing."""
    by_name = {comparison.name: comparison for comparison in comparisons}
    overall, adaptation = by_name.get(BEST_AGAINST_BASELINE), by_name.get(ADAPTED_AGAINST_BASE)
    if overall is None:
        return Verdict("No adapted model was scored, so there is nothing to judge.", "not tested", "not tested")
    against_baselines = _outcome(overall.difference)
    single = {name: by_name[name] for name in (BEST_AGAINST_TRACKS, BEST_AGAINST_KMERS) if name in by_name}
    said = overall.reference.plan.name  # what the first sentence tells already
    more = "".join(f" {_single(comparison)}." for comparison in single.values() if comparison.reference.plan.name != said)
    outcomes = {name.removeprefix("best_"): _outcome(comparison.difference) for name, comparison in single.items()}
    if adaptation is None:
        sentence = f"{_capital(_against_baselines(overall))}; the untouched base model was not scored."
        return Verdict(sentence + more, "not tested", against_baselines, **outcomes)
    helped = _outcome(adaptation.difference)
    joint = "and" if (helped == "better") == (against_baselines == "better") else "but"
    return Verdict(f"{_adaptation(adaptation)}; {joint} {_against_baselines(overall)}.{more}", helped, against_baselines, **outcomes)


def _outcome(difference: Difference) -> Outcome:
    if difference.low > 0:
        return "better"
    return "worse" if difference.high < 0 else "unclear"


def _adaptation(comparison: Comparison) -> str:
    row, reference, difference = comparison.row.plan.title, comparison.reference.plan.title, comparison.difference
    measure = primary(comparison.row.task).title
    match _outcome(difference):
        case "better":
            claim = f"Adaptation helped: {row} raises {measure} over {reference} by"
        case "worse":
            claim = f"Adaptation hurt: {row} lowers {measure} below {reference} by"
        case _:
            claim = f"No clear effect of the adaptation: {row} differs from {reference} in {measure} by"
    return f"{claim} {_size(difference)}"


def _against_baselines(comparison: Comparison) -> str:
    row, reference, difference = _scored(comparison.row), _scored(comparison.reference), comparison.difference
    # The score table may hold rows with a better score on the scored records, which decide nothing.
    best = f"{row}, the adapted row that was best {'on inner folds' if comparison.row.folds else 'in validation'},"
    match _outcome(difference):
        case "better":
            claim = f"{best} beats the baseline that was best there, {reference}, by"
        case "worse":
            claim = f"the baseline {reference} still beats {best} by"
        case _:
            claim = f"{best} is not clearly apart from the baseline that was best there, {reference}:"
    return f"{claim} {_size(difference)}"


def _single(comparison: Comparison) -> str:
    """The best adapted row against one source alone: a sentence of its own, after one that may have ended with a baseline."""
    reference = _scored(comparison.reference)
    match _outcome(comparison.difference):
        case "better":
            claim = f"The best adapted row beats {reference} by"
        case "worse":
            claim = f"The best adapted row falls short of {reference} by"
        case _:
            claim = f"The best adapted row is not clearly apart from {reference}:"
    return f"{claim} {_size(comparison.difference)}"


def _scored(row: ScoredRow) -> str:
    return f"{row.plan.title} ({_plain(row.score)})"


def _size(difference: Difference) -> str:
    """A difference and its interval. Where the words say which side is better, without sign."""
    match _outcome(difference):
        case "better":
            return f"{_plain(difference.value)} (95 % interval {_plain(difference.low)} to {_plain(difference.high)})"
        case "worse":
            return f"{_plain(-difference.value)} (95 % interval {_plain(-difference.high)} to {_plain(-difference.low)})"
        case _:
            low, high = _signed(difference.low), _signed(difference.high)
            return f"{_signed(difference.value)} (95 % interval {low} to {high}, which includes zero)"


def _plain(value: float) -> str:
    return f"{value:.3f}".replace("-", "−")


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]
