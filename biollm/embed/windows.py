"""Records into windows that fit the model, and back. Legend: T tokens of a record, L letters, F track features, D width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from biollm.modeling.encoding import IntArray
from biollm.modeling.pooling import FloatArray, PoolingName, overlap_weights, token_weights

# Consecutive windows of a long sequence share this part of the context, so that no token is seen only at a border.
OVERLAP = 0.25


@dataclass(frozen=True)
class Tokens:
    """One record without special tokens.

    ids: (T,) int64; residues: (T,) int64, residues behind each token, 0 for text; spans: (T, 2) int64, the letters [start, end) of the
    record's string that each token stands for.
    """

    ids: IntArray
    residues: IntArray
    spans: IntArray

    @property
    def is_sequence(self) -> bool:
        return int(self.residues.sum()) > 0

    def at_base(self, base: int) -> int:
        """The number of the token over a letter; the last one before it where no token has it (white space)."""
        return max(int(np.searchsorted(self.spans[:, 0], base, side="right")) - 1, 0)


@dataclass(frozen=True)
class Window:
    """A stretch of one record that fits the model. ids without special tokens; share: its tokens' part in the record, 1/n where n
    windows see a token; weights: for each pooling, see modeling.pooling.token_weights."""

    record: int
    start: int
    ids: IntArray
    share: FloatArray
    weights: tuple[FloatArray, ...]
    features: FloatArray | None


def window_starts(length: int, width: int, stride: int) -> list[int]:
    """Where windows of `width` tokens begin, `stride` apart, so that the last reaches the end and none lies within another.

    >>> window_starts(10, 4, 3)
    [0, 3, 6]
    >>> window_starts(4, 4, 3)
    [0]
    """
    return list(range(0, max(1, length - width + stride), stride)) if length > width else [0]


def cut_windows(
    record: int,
    tokens: Tokens,
    features: FloatArray | None,
    *,
    width: int,
    stride: int,
    poolings: Sequence[PoolingName],
    centre: int,
) -> list[Window]:
    """The windows of one record. centre: number of its middle token."""
    starts = window_starts(len(tokens.ids), width, stride)
    shares = [share.numpy() for share in overlap_weights(len(tokens.ids), starts, width)]
    weights = [token_weights(pooling, shares, starts, centre) for pooling in poolings]
    return [
        Window(
            record,
            start,
            tokens.ids[start : start + width],
            shares[i],
            tuple(of_pooling[i] for of_pooling in weights),
            features[start : start + width] if features is not None else None,
        )
        for i, start in enumerate(starts)
    ]


def spans_of_residues(residues: IntArray) -> IntArray:
    """(T, 2) spans of tokens that stand side by side."""
    ends = np.cumsum(residues)
    return np.stack([ends - residues, ends], axis=1)


def spread(vectors_TD: FloatArray, spans: IntArray, length: int) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Token vectors over their letters: (L, D), and which letters (L,) belong to a token."""
    token = np.full(length, -1, dtype=np.int64)
    for number, (start, end) in enumerate(spans):
        token[start:end] = number
    return vectors_TD[token], token >= 0
