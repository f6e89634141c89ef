"""Resize a model's vocabulary: input table, output table (tied or not) and output bias together.

Legend: V base tokens, N new tokens, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from biollm.core.errors import ConfigError


@dataclass(frozen=True)
class Tables:
    """The parameters of a model that have one row per token. `output` is None if it is tied to `input` or absent."""

    input: nn.Parameter
    output: nn.Parameter | None
    bias: nn.Parameter | None


def tables_of(model: nn.Module) -> Tables:
    """The vocabulary tables of a top-level Hugging Face model. Raises ConfigError if they disagree about the vocabulary."""
    inputs: nn.Parameter = model.get_input_embeddings().weight  # type: ignore[operator]
    head = model.get_output_embeddings()  # type: ignore[operator]
    output = None if head is None or head.weight is inputs else head.weight
    bias = getattr(head, "bias", None)
    sizes = {len(table) for table in (inputs, output, bias) if table is not None}
    if len(sizes) > 1:
        raise ConfigError(f"the model's vocabulary tables disagree: sizes {sorted(sizes)}; it was resized in part: restore the original")
    return Tables(inputs, output, bias)


def resize(model: nn.Module, vocab_size: int, new_rows_ND: Tensor) -> None:
    """Grow the vocabulary in place: old rows stay bit for bit, new rows are `new_rows_ND`.

    An untied output table gets the same new rows; a bias gets the mean of the old biases. config.vocab_size follows.
    transformers' own initialiser is switched off: it makes all new rows practically equal, and is 20 times slower.
    Raises ConfigError if the model has other than vocab_size - N rows.
    """
    before = tables_of(model)
    first_new = len(before.input)
    if first_new + len(new_rows_ND) != vocab_size:
        raise ConfigError(
            f"the model has {first_new} rows; with {len(new_rows_ND)} new tokens that is {first_new + len(new_rows_ND)}, "
            f"but the merged tokenizer has {vocab_size} tokens; model and tokenizer do not belong together"
        )
    kept = [None if table is None else table.detach().clone() for table in (before.input, before.output, before.bias)]
    model.resize_token_embeddings(vocab_size, mean_resizing=False)  # type: ignore[operator]
    model.tie_weights()  # type: ignore[operator]
    if before.output is not None and before.bias is not None:
        # resizing makes the output bias and the head's own bias one parameter, which save_pretrained then drops as a duplicate
        head = model.get_output_embeddings()  # type: ignore[operator]
        head.bias = nn.Parameter(head.bias.detach().clone())
    after = tables_of(model)
    with torch.no_grad():
        for old, new in zip(kept, (after.input, after.output, after.bias), strict=True):
            assert (old is None) == (new is None), "resizing changed which tables are tied"
            if old is None or new is None:
                continue
            new[:first_new] = old
            new[first_new:] = old.mean() if old.ndim == 1 else new_rows_ND.to(new.dtype)
