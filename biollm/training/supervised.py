"""Documents with answers, the summed loss of a stock model with an output layer on them, and what it answers.

Legend: B documents, T tokens, C outputs of the model: classes, yes/no labels, or one value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from biollm.modeling.encoding import IntArray, by_length, pad
from biollm.modeling.fusion import FusedModel
from biollm.training.batches import Batch, pad_examples
from biollm.training.examples import Example
from biollm.training.objectives import IGNORED
from biollm.training.processes import shared_out

FloatArray = NDArray[np.float32]
LossName = Literal["classes", "labels", "value"]
_EVALUATION_TOKENS = 4096


@dataclass(frozen=True)
class Labelled(Example):
    """A document with what a model should answer.

    answer: () int64, its class; (T,) int64, a class for each token, IGNORED where none is asked; (C,) float32, 1 or 0 for each label, NaN
    where it is not known; () float32, a value. type_ids: (T,), 1 for tokens of the second of a pair; None for a single document.
    """

    answer: NDArray[Any] = field(kw_only=True)
    type_ids: IntArray | None = None

    @property
    def count(self) -> int:
        """How many answers are asked of it: what its summed loss is divided by."""
        asked = np.isfinite(self.answer) if self.answer.dtype.kind == "f" else self.answer != IGNORED
        return int(np.sum(asked))


class SupervisedModel(nn.Module):
    """A stock model with an output layer, fused or not, whose forward is the summed loss of a batch, in float32.

    classes: cross-entropy in nats over C classes, of documents or of tokens. labels: binary cross-entropy in nats of each known label.
    value: half the squared error, which is in nats for a Gaussian of unit variance, but for a constant.
    weights: (C,) of each class, or (2, C) of each label's no and yes; none for values.
    """

    def __init__(self, model: FusedModel, loss: LossName, weights: FloatArray | None = None) -> None:
        super().__init__()
        self.model, self._loss = model, loss
        # no buffer: DeepSpeed would round it to bfloat16
        self._weights = None if weights is None else torch.from_numpy(weights.astype(np.float32))

    def forward(self, *, labels: Tensor, count: Tensor | None = None, **inputs: Tensor) -> Tensor:
        """The loss summed over answers. `count` belongs to whoever divides by it."""
        return self.loss(self.outputs(**inputs), labels)

    def outputs(self, **inputs: Tensor) -> Tensor:
        """(B, C), or (B, T, C) for tokens."""
        logits: Tensor = self.model(**inputs).logits
        return logits.float()

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The summed loss of outputs (…, C) against answers (…) or, for labels, (…, C)."""
        weights = None if self._weights is None else self._weights.to(logits.device)
        if self._loss == "classes":
            flat = logits.reshape(-1, logits.shape[-1])
            return functional.cross_entropy(flat, labels.reshape(-1), weights, ignore_index=IGNORED, reduction="sum")
        if self._loss == "value":
            return 0.5 * (logits.squeeze(-1) - labels).square().sum()
        known = labels.isfinite()
        answers = labels[known]
        nats = functional.binary_cross_entropy_with_logits(logits[known], answers, reduction="none")
        if weights is not None:
            no, yes = (row.expand_as(labels)[known] for row in weights)
            nats = nats * torch.where(answers > 0.5, yes, no)
        return nats.sum()


def collate_labelled(examples: Sequence[Labelled], pad_id: int) -> Batch:
    """A padded batch: input_ids, attention_mask (B, T), features and token_type_ids if any, labels as the answers are, count."""
    batch = pad_examples(examples, pad_id)
    width = batch["input_ids"].shape[1]
    answers = [example.answer for example in examples]
    per_token = answers[0].ndim == 1 and answers[0].dtype.kind == "i"
    stacked = _padded(answers, IGNORED, width) if per_token else np.stack(answers)
    batch["labels"] = torch.from_numpy(np.ascontiguousarray(stacked))
    if examples[0].type_ids is not None:
        batch["token_type_ids"] = torch.from_numpy(_padded([e.type_ids for e in examples if e.type_ids is not None], 0, width))
    batch["count"] = torch.tensor(sum(example.count for example in examples))
    return batch


def outputs_of(module: SupervisedModel, examples: Sequence[Labelled], pad_id: int, what: str | None = None) -> list[FloatArray]:
    """What a model says of each document, in their order: (C,), or (T, C) for tokens. what: the title of a progress bar, if any.

    Leaves the model in evaluation mode. Batches are of like lengths, and do not change the outputs but for their last bits.
    """
    module.eval()
    device = next(module.parameters()).device
    found: list[FloatArray] = [np.zeros(0, dtype=np.float32)] * len(examples)
    batches = list(by_length([len(example.ids) for example in examples], _EVALUATION_TOKENS))

    def of_batch(indices: list[int]) -> FloatArray:
        batch = collate_labelled([examples[i] for i in indices], pad_id)
        inputs = {name: tensor.to(device) for name, tensor in batch.items() if name not in ("labels", "count")}
        return np.asarray(module.outputs(**inputs).cpu().numpy())

    with torch.no_grad():
        said = shared_out(batches, of_batch, what)
    for indices, rows in zip(batches, said, strict=True):
        for i, row in zip(indices, rows, strict=True):
            found[i] = row[: len(examples[i].ids)] if row.ndim == 2 else row
    return found


def mean_loss(module: SupervisedModel, outputs: Sequence[FloatArray], examples: Sequence[Labelled]) -> float:
    """The loss per answer of what `outputs_of` gave."""
    per_token = outputs[0].ndim == 2
    logits = np.concatenate(outputs) if per_token else np.stack(outputs)
    answers = np.concatenate([e.answer for e in examples]) if per_token else np.stack([e.answer for e in examples])
    total = module.loss(torch.from_numpy(logits), torch.from_numpy(answers))
    return float(total) / sum(example.count for example in examples)


def _padded(rows: Sequence[NDArray[Any]], value: int, width: int) -> IntArray:
    return pad(rows, value, width)[0]
