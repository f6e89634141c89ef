"""What a model says of records as scores and predictions, and what a model that reads nothing would score.

Legend: C classes or labels, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.metrics import f1_score, roc_auc_score

from biollm.finetune.labels import FloatArray
from biollm.modeling.encoding import IntArray
from biollm.training.objectives import IGNORED

Scores = dict[str, float]


def probabilities_of(logits: FloatArray) -> FloatArray:
    """(…, C) softmax."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def yes_of(logits: FloatArray) -> FloatArray:
    """(…) sigmoid."""
    return np.asarray(1 / (1 + np.exp(-logits.astype(np.float64))), dtype=np.float32)


def score_classes(probabilities: FloatArray, answers: IntArray) -> Scores:
    """accuracy; macro_f1 over the classes that occur; auroc for two classes of which both occur. Answers that are IGNORED do not count."""
    known = answers != IGNORED
    probabilities, answers = probabilities[known], answers[known]
    chosen = probabilities.argmax(axis=1)
    scores = {
        "accuracy": float((chosen == answers).mean()),
        "macro_f1": float(f1_score(answers, chosen, average="macro", labels=np.unique(answers), zero_division=0.0)),
    }
    if probabilities.shape[1] == 2 and len(np.unique(answers)) == 2:
        scores["auroc"] = float(roc_auc_score(answers, probabilities[:, 1]))
    return scores


def score_labels(yes: FloatArray, answers: FloatArray) -> Scores:
    """accuracy over all that is known; macro_auroc over the labels of which both values occur."""
    known = np.isfinite(answers)
    scores = {"accuracy": float(((yes >= 0.5) == (answers == 1))[known].mean())}
    areas = [roc_auc_score(answers[k, i], yes[k, i]) for i, k in enumerate(known.T) if {0.0, 1.0} <= set(np.unique(answers[k, i]).tolist())]
    return scores | ({"macro_auroc": float(np.mean(areas))} if areas else {})


def score_values(values: NDArray[np.float64], answers: NDArray[np.float64]) -> Scores:
    """rmse in the units of the label, r2, and spearman where both sides vary."""
    error = float(np.mean((values - answers) ** 2))
    spread = float(np.var(answers))
    scores = {"rmse": error**0.5} | ({"r2": 1 - error / spread} if spread > 0 else {})
    if len(np.unique(values)) > 1 and spread > 0:
        scores["spearman"] = float(spearmanr(values, answers).statistic)
    return scores


def score_answers(losses: Sequence[tuple[float, int, int]]) -> Scores:
    """nats_per_token, perplexity per token and bits_per_byte of answers. losses: (nats, tokens, bytes) of each record."""
    nats, tokens, size = (float(sum(column)) for column in zip(*losses, strict=True))
    return {"nats_per_token": nats / tokens, "perplexity": float(np.exp(nats / tokens)), "bits_per_byte": nats / np.log(2) / size}
