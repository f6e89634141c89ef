"""Token vectors into one vector per record. Legend: B records, T tokens, D width."""

from __future__ import annotations

import torch
from torch import Tensor

from biollm.core.errors import DataError


def pool_mean(hidden_BTD: Tensor, weights_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted sums of token vectors and the sums of the weights, for one window of each record.

    hidden: (B, T, D), any float dtype; weights: (B, T), 0 for padding and special tokens, 1 for a token seen in one window,
    1/n for a token seen in n overlapping windows. Returns ((B, D), (B,)) in float32; their quotient is the mean.
    Raises DataError if a row has no real token or a vector is not finite, naming the row.
    """
    weights = weights_BT.to(torch.float32)
    totals = weights.sum(dim=1)
    sums = torch.einsum("btd,bt->bd", hidden_BTD.to(torch.float32), weights)
    if (empty := torch.nonzero(totals == 0)).numel():
        raise DataError(f"row {int(empty[0])} of the batch has no token to average; is the sequence empty?")
    if (broken := torch.nonzero(~torch.isfinite(sums).all(dim=1))).numel():
        raise DataError(f"row {int(broken[0])} of the batch has a vector that is not finite; the model or its weights are broken")
    return sums, totals


def overlap_weights(length: int, starts: list[int], width: int) -> list[Tensor]:
    """For each window of a token sequence, the weight of its tokens: 1 / number of windows that see the token.

    So that recombined windows count every token once. Windows are [start, start + width) cut at `length`.
    """
    seen = torch.zeros(length)
    for start in starts:
        seen[start : start + width] += 1
    return [1 / seen[start : start + width] for start in starts]
