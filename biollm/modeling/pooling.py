"""Token vectors into one vector per record. Legend: B records, N tokens of all records side by side, T tokens of one, D width.

Every pooling but `max` is a weighted mean, so that it is told by the weights of the tokens alone: special tokens and padding weigh
nothing (but for `cls`, which is one), and a token that several overlapping windows see weighs one in all of them together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from biollm.core.errors import DataError

FloatArray = NDArray[np.float32]
PoolingName = Literal["mean", "cls", "last", "max", "weighted", "centre"]
POOLINGS: tuple[PoolingName, ...] = get_args(PoolingName)


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


def token_weights(pooling: PoolingName, shares: Sequence[FloatArray], starts: Sequence[int], centre: int = 0) -> list[FloatArray]:
    """For each window of a record, the weights of its tokens without special ones; of `cls`, the one weight of its first special token.

    shares: what overlap_weights gives; starts: where the windows begin; centre: number of the token that `centre` asks for.
        mean      every token alike
        weighted  token t of T weighs t, as a decoder's later tokens have seen more (Muennighoff 2022, SGPT)
        last      the last token, in the last window
        centre    one token, averaged over the windows that see it
        cls       the first special token of each window, weighing as much as the window's tokens
        max       1 for every token: the largest value of each dimension
    """
    if pooling == "cls":
        return [np.asarray([share.sum()], dtype=np.float32) for share in shares]
    if pooling == "max":
        return [np.ones_like(share) for share in shares]
    length = starts[-1] + len(shares[-1])
    whole = np.zeros(length, dtype=np.float32)
    if pooling == "last":
        whole[-1] = 1
    elif pooling == "centre":
        whole[centre] = 1
    else:
        whole[:] = np.arange(1, length + 1, dtype=np.float32) / length if pooling == "weighted" else 1
    return [whole[start : start + len(share)] * share for start, share in zip(starts, shares, strict=True)]


def sum_segments(hidden_ND: Tensor, weights_N: Tensor, segment_N: Tensor, segments: int) -> Tensor:
    """Weighted sums of consecutive token vectors: (segments, D) float32. segment_N: (N,) int64, ascending."""
    out = torch.zeros(segments, hidden_ND.shape[1], dtype=torch.float32, device=hidden_ND.device)
    return out.index_add_(0, segment_N, hidden_ND.to(torch.float32) * weights_N[:, None])


def max_segments(hidden_ND: Tensor, weights_N: Tensor, lengths_B: Tensor) -> Tensor:
    """Largest values of consecutive token vectors that have a weight: (B, D) float32. lengths_B: tokens of each segment."""
    counted = hidden_ND.to(torch.float32).masked_fill((weights_N == 0)[:, None], -torch.inf)
    return torch.segment_reduce(counted, "max", lengths=lengths_B, axis=0)
