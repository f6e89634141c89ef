"""Scores into probabilities that mean what they say, fitted on rows that the head was not fitted on; and when to say nothing.

isotonic: a monotone step function; sigmoid: Platt's two parameters; temperature: one number that divides the logits (Guo et al. 2017).
Several classes: each against the rest, then normalised to sum 1 (temperature: one number for all). Labels: each on its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_expit, log_softmax, logit, softmax
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from biollm.classify.config import Calibration
from biollm.classify.measures import ECE_BINS, bin_of, called_positive
from biollm.classify.metrics import BoolArray, FloatArray
from biollm.classify.targets import Targets
from biollm.core.recipe import Section

_TINY = 1e-7
_LOG_TEMPERATURES = (-6.0, 6.0)  # of logits, or of distances in their standard deviations
# With fewer answers an accuracy says nothing.
_MIN_ANSWERED = 20


class Steps(Section):
    """Isotonic: probabilities at scores, straight lines between them."""

    scores: list[float]
    probabilities: list[float]

    def apply(self, scores: FloatArray) -> FloatArray:
        return np.interp(scores, self.scores, self.probabilities)


class Sigmoid(Section):
    """1 / (1 + exp(-(slope * score + offset))); the score is a logit where the head gives probabilities."""

    slope: float
    offset: float

    def apply(self, scores: FloatArray) -> FloatArray:
        return np.asarray(expit(self.slope * scores + self.offset))


class Calibrator(Section):
    """columns: one for each score column (isotonic, sigmoid); None leaves a column that held one class as it is. temperature: divides the
    logits, or the distances as the head gives them."""

    method: Calibration
    of_probabilities: bool
    normalised: bool
    columns: list[Steps | Sigmoid | None] = []
    temperature: float | None = None

    def apply(self, output: FloatArray) -> FloatArray:
        """Calibrated (n,) or (n, C), the shape of the head's output."""
        if self.temperature is not None:
            return _at_temperature(_logits(output, self.of_probabilities, self.normalised), self.temperature, self.normalised)
        table = output[:, None] if output.ndim == 1 else output
        parts = []
        for values, column in zip(table.T, self.columns, strict=True):
            if column is None:
                parts.append(values if self.of_probabilities else expit(values))
            else:
                as_logit = isinstance(column, Sigmoid) and self.of_probabilities
                parts.append(column.apply(logit(np.clip(values, _TINY, 1 - _TINY)) if as_logit else values))
        calibrated = np.column_stack(parts)
        if self.normalised:
            total = calibrated.sum(axis=1, keepdims=True)
            calibrated = np.divide(calibrated, total, out=np.full_like(calibrated, 1 / calibrated.shape[1]), where=total > 0)
        return calibrated[:, 0] if output.ndim == 1 else calibrated


def fit_calibrator(
    method: Calibration, targets: Targets, output: FloatArray, of_probabilities: bool, varies: BoolArray | None = None
) -> Calibrator:
    """output: what the head says of these rows, on which it was not fitted; of_probabilities: or of distances (svm, ridge).

    varies: (C,) the labels that the head decides; the one temperature of all labels is theirs. Default: all.
    """
    normalised = targets.task == "multiclass"
    if method == "temperature":
        logits, member = _logits(output, of_probabilities, normalised), targets.of_class()
        if varies is not None and output.ndim == 2 and varies.any():
            logits, member = logits[:, varies], member[:, varies]
        temperature = _best_temperature(logits, member, of_probabilities, normalised)
        return Calibrator(method=method, of_probabilities=of_probabilities, normalised=normalised, temperature=temperature)
    table = output[:, None] if output.ndim == 1 else output
    columns = [_fit_column(method, values, member, of_probabilities) for values, member in zip(table.T, targets.of_class().T, strict=True)]
    return Calibrator(method=method, of_probabilities=of_probabilities, normalised=normalised, columns=columns)


def _fit_column(method: Calibration, scores: FloatArray, member: BoolArray, of_probabilities: bool) -> Steps | Sigmoid | None:
    if member.all() or not member.any():
        return None
    if method == "isotonic":
        fitted = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(scores, member)
        return Steps(scores=fitted.X_thresholds_.tolist(), probabilities=fitted.y_thresholds_.tolist())
    values = logit(np.clip(scores, _TINY, 1 - _TINY)) if of_probabilities else scores
    # Platt's targets keep the fit finite where the classes are apart.
    positives, negatives = member.sum(), (~member).sum()
    high, low = (positives + 1) / (positives + 2), 1 / (negatives + 2)
    soft = np.where(member, high, low)
    model = LogisticRegression(C=np.inf, max_iter=1000).fit(
        np.tile(values, 2)[:, None], np.repeat([1, 0], len(values)), sample_weight=np.concatenate([soft, 1 - soft])
    )
    return Sigmoid(slope=float(model.coef_[0, 0]), offset=float(model.intercept_[0]))


def _best_temperature(logits: FloatArray, member: BoolArray, of_probabilities: bool, normalised: bool) -> float:
    """The temperature of the lowest log loss. A distance has no unit of its own (ridge's are near 0.01), so it is looked for in standard
    deviations of the distances."""
    unit = 1.0 if of_probabilities else float(logits.std()) or 1.0
    table = logits[:, None] if logits.ndim == 1 else logits

    def loss(log_temperature: float) -> float:
        at = table / (unit * np.exp(log_temperature))
        return -float((log_softmax(at, axis=1) * member if normalised else log_expit(np.where(member, at, -at))).sum())

    return unit * float(np.exp(minimize_scalar(loss, bounds=_LOG_TEMPERATURES, method="bounded").x))


def _logits(output: FloatArray, of_probabilities: bool, normalised: bool) -> FloatArray:
    if not of_probabilities:
        return output
    clipped = np.clip(output, _TINY, 1 - _TINY)
    return np.asarray(np.log(clipped) if normalised else logit(clipped))


def _at_temperature(logits: FloatArray, temperature: float, normalised: bool) -> FloatArray:
    return np.asarray(softmax(logits / temperature, axis=1) if normalised else expit(logits / temperature))


def calibration_curve(targets: Targets, output: FloatArray) -> dict[str, list[float]]:
    """For ten equally wide bins, those that hold rows: mean predicted probability, share that is so, rows. Binary: of the positive class;
    several classes: of the called one; labels: all labels together."""
    if targets.task == "multiclass":
        confidence, right = output.max(axis=1), output.argmax(axis=1) == targets.values
    else:
        confidence, right = output.ravel(), targets.of_class().ravel()
    bins = bin_of(confidence)
    rows = np.bincount(bins, minlength=ECE_BINS)
    kept = rows > 0
    means = [np.bincount(bins, weights=values, minlength=ECE_BINS)[kept] / rows[kept] for values in (confidence, right.astype(np.float64))]
    return {
        "predicted": [round(float(v), 5) for v in means[0]],
        "observed": [round(float(v), 5) for v in means[1]],
        "records": [int(v) for v in rows[kept]],
    }


class Abstention(Section):
    """confidence: the least at which an answer is given; None if no confidence reaches the wanted accuracy (then nothing is answered)."""

    target_accuracy: float
    confidence: float | None
    validation_coverage: float
    validation_accuracy: float | None

    def answered(self, confidence: FloatArray) -> BoolArray:
        """(n,) which of these probabilities of the called class are enough for an answer."""
        return np.zeros(len(confidence), dtype=bool) if self.confidence is None else np.asarray(confidence >= self.confidence)


def choose_abstention(target_accuracy: float, targets: Targets, output: FloatArray) -> Abstention:
    """The lowest confidence at which the answered of these rows reach the accuracy, with at least 20 answers."""
    confidence, right = confidence_and_right(targets, output)
    order = np.argsort(-confidence, kind="stable")
    answered = np.arange(1, len(order) + 1)
    accuracy = np.cumsum(right[order]) / answered
    last_of_ties = np.append(np.diff(confidence[order]) != 0, True)
    usable = np.flatnonzero(last_of_ties & (accuracy >= target_accuracy) & (answered >= min(_MIN_ANSWERED, len(order))))
    if not len(usable):
        return Abstention(target_accuracy=target_accuracy, confidence=None, validation_coverage=0.0, validation_accuracy=None)
    i = int(usable[-1])
    return Abstention(
        target_accuracy=target_accuracy,
        confidence=float(confidence[order[i]]),
        validation_coverage=float(answered[i] / len(order)),
        validation_accuracy=float(accuracy[i]),
    )


def abstention_facts(chosen: Abstention, targets: Targets, output: FloatArray) -> dict[str, Any]:
    """What the choice gives on the scored rows: the share that is answered, and how much of that is right."""
    confidence, right = confidence_and_right(targets, output)
    answered = chosen.answered(confidence)
    return chosen.model_dump() | {
        "coverage": float(answered.mean()),
        "accuracy": float(right[answered].mean()) if answered.any() else None,
    }


def confidence_and_right(targets: Targets, output: FloatArray) -> tuple[FloatArray, BoolArray]:
    """(n,) probability of the called class, and whether it is the true one."""
    if output.ndim == 1:
        return np.maximum(output, 1 - output), np.asarray(called_positive(output) == (targets.values == 1))
    return output.max(axis=1), np.asarray(output.argmax(axis=1) == targets.values)
