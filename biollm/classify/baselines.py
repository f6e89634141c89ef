"""Features and scores that need no language model: what every adapted model has to beat."""

from __future__ import annotations

import numpy as np

from biollm.classify.metrics import BoolArray, FloatArray, IntArray

_NOT_A_BASE = 255
_CODES = np.full(256, _NOT_A_BASE, dtype=np.uint8)
_CODES[np.frombuffer(b"ACGT", dtype=np.uint8)] = np.arange(4)


def kmer_frequencies(sequences: list[str], k: int) -> FloatArray:
    """Share of each canonical k-mer in each sequence.

    A k-mer and its reverse complement share a column (136 columns for k = 4), because a window may be read from either strand.
    k-mers with any letter but ACGT are not counted; a sequence without a countable k-mer gives a row of zeros.
    Returns (sequences, columns) in float64.
    """
    column_of_code, columns = _canonical_columns(k)
    place_values = 4 ** np.arange(k - 1, -1, -1)
    table = np.zeros((len(sequences), columns))
    for row, sequence in zip(table, sequences, strict=True):
        codes = _CODES[np.frombuffer(sequence.encode("ascii"), dtype=np.uint8)]
        if len(codes) < k:
            continue
        windows = np.lib.stride_tricks.sliding_window_view(codes, k)
        countable = windows[(windows != _NOT_A_BASE).all(axis=1)]
        counts = np.bincount(column_of_code[countable @ place_values], minlength=columns)
        row[:] = counts / max(1, counts.sum())
    return table


def majority_scores(train_positive: BoolArray, rows: int) -> FloatArray:
    """The same score for every row, the share of positives in train: what a model knows that looks at nothing."""
    return np.full(rows, float(train_positive.mean()))


def _canonical_columns(k: int) -> tuple[IntArray, int]:
    """The column of each of the 4^k codes (base-4 numbers, A = 0 … T = 3), and the number of columns."""
    codes = np.arange(4**k)
    reverse = np.zeros_like(codes)
    rest = codes
    for _ in range(k):
        rest, base = np.divmod(rest, 4)
        reverse = reverse * 4 + (3 - base)
    kept, columns = np.unique(np.minimum(codes, reverse), return_inverse=True)
    return columns.astype(np.int64), len(kept)
