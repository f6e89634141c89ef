"""Scores of a model on held-out data, with masks that depend on the seed and the record alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from biollm.core.progress import progress
from biollm.core.seeding import derive_seed
from biollm.modeling.encoding import Encoder
from biollm.modeling.fusion import FusionSpec
from biollm.training.examples import IGNORED, Example, collate, mask_tokens
from biollm.training.objectives import MaskedLanguageModel, SequenceClassifier

_MASK_RATE = 0.15
_BATCH = 32


@dataclass(frozen=True)
class MaskedScore:
    """Loss at masked positions, per token (depends on the vocabulary) and per base it stands for.

    A pseudo-likelihood: each token is predicted from both sides, so it is no compression rate.
    """

    nats_per_token: float
    bits_per_base: float


def score_masked(model: MaskedLanguageModel, examples: Sequence[Example], encoder: Encoder, seed: int, what: str) -> MaskedScore:
    """The masked-token loss of a model, in float32. Every model that is scored with one seed predicts the same positions."""
    model.eval()
    masked = _masked(examples, encoder, model.model.spec, seed)
    nats = 0.0
    with torch.no_grad():
        for start in progress(range(0, len(masked), _BATCH), what, unit="batch"):
            batch = _batch(model, masked[start : start + _BATCH], encoder)
            labels = batch.pop("labels")
            logits = model(**batch)["logits"].float()
            nats += float(functional.cross_entropy(logits, labels[labels != IGNORED], reduction="sum"))
    return _score(nats, masked)


def score_token_frequencies(train: Sequence[Example], examples: Sequence[Example], encoder: Encoder, seed: int) -> MaskedScore:
    """The same score for the trivial model that predicts every token by its frequency in the train split (add-one smoothed)."""
    counts = np.bincount(np.concatenate([e.ids[e.residues > 0] for e in train]), minlength=len(encoder.residues_by_id)) + 1.0
    counts[encoder.residues_by_id == 0] = 0.0  # only tokens of the domain can stand there
    log_share = np.log(np.maximum(counts, 1e-300) / counts.sum())
    masked = _masked(examples, encoder, None, seed)
    nats = -sum(float(log_share[labels[labels != IGNORED]].sum()) for labels in (np.asarray(e.labels) for e in masked))
    return _score(nats, masked)


def predict_positive(model: SequenceClassifier, examples: Sequence[Example], encoder: Encoder, what: str) -> list[float]:
    """The probability of class 1 for each example."""
    model.eval()
    scores: list[float] = []
    with torch.no_grad():
        for start in progress(range(0, len(examples), _BATCH), what, unit="batch"):
            batch = _batch(model, examples[start : start + _BATCH], encoder)
            batch.pop("labels", None)
            scores += torch.softmax(model(**batch)["logits"].double(), dim=1)[:, 1].tolist()
    return scores


def _masked(examples: Sequence[Example], encoder: Encoder, spec: FusionSpec | None, seed: int) -> list[Example]:
    """The examples as they are scored: every token to be predicted is hidden, none is left to be read off."""
    return [
        mask_tokens(e, encoder, spec, _MASK_RATE, derive_seed(seed, "evaluation", i), masked=1.0, randomised=0.0)
        for i, e in enumerate(examples)
    ]


def _batch(model: nn.Module, examples: Sequence[Example], encoder: Encoder) -> dict[str, Tensor]:
    device = next(model.parameters()).device
    return {name: tensor.to(device) for name, tensor in collate(examples, encoder).items()}


def _score(nats: float, masked: Sequence[Example]) -> MaskedScore:
    predicted = [np.asarray(e.labels) != IGNORED for e in masked]
    tokens = sum(int(p.sum()) for p in predicted)
    bases = sum(int(e.residues[p].sum()) for e, p in zip(masked, predicted, strict=True))
    return MaskedScore(nats_per_token=nats / tokens, bits_per_base=nats / math.log(2) / bases)
