"""What is learnt: modules whose forward gives logits, and losses summed over tokens and divided once by the whole batch's count.

transformers 5.23 multiplies BERT's own masked loss by accumulation steps x processes in silence; these losses do not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from biollm.modeling.fusion import FusedModel
from biollm.training.examples import IGNORED


class MaskedLanguageModel(nn.Module):
    """A masked-language model whose output head is computed only where a token is to be predicted.

    The head costs width x vocabulary per position, as much as several layers; 85 % of the positions need none of it.
    The encoder's output is thinned by a hook before the model's own head sees it, so any head that works per position is right.
    """

    def __init__(self, model: FusedModel) -> None:
        super().__init__()
        self.model = model
        self._predicted: Tensor | None = None
        encoder: nn.Module = model.stock.base_model  # type: ignore[assignment]
        encoder.register_forward_hook(self._thin)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, predicted: Tensor, features: Tensor | None = None) -> dict[str, Tensor]:
        """logits: (M, V) for the M true positions of `predicted` (B, T), in row order."""
        self._predicted = predicted
        try:
            logits = self.model(features=features, input_ids=input_ids, attention_mask=attention_mask).logits
        finally:
            self._predicted = None
        return {"logits": logits[0]}

    def _thin(self, module: nn.Module, args: Any, output: Any) -> Any:
        if self._predicted is not None:
            output.last_hidden_state = output.last_hidden_state[self._predicted][None]
        return output


class SequenceClassifier(nn.Module):
    """A sequence-classification model, fused or not, with the forward that training needs."""

    def __init__(self, model: FusedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, features: Tensor | None = None) -> dict[str, Tensor]:
        """logits: (B, classes)."""
        return {"logits": self.model(features=features, input_ids=input_ids, attention_mask=attention_mask).logits}


def cross_entropy(outputs: dict[str, Tensor], labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
    """Cross-entropy in float32 per counted label of the whole accumulated batch.

    outputs["logits"]: (M, C) for exactly the M labels that are not IGNORED, in row order.
    """
    counted = labels[labels != IGNORED]
    total = functional.cross_entropy(outputs["logits"].float(), counted, reduction="sum")
    return total / (num_items_in_batch if num_items_in_batch is not None else torch.tensor(len(counted)))
