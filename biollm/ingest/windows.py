"""Windows of a contig as columns: where they lie, what they hold, what they read. All is arrays; no loop over windows in Python.

Legend: n windows of one contig; L its bases. A window on the minus strand reads the reverse complement of its bases.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from biollm.core.alphabets import COMPLEMENT_CODES
from biollm.core.compiled import compiled
from biollm.ingest.annotation import Intervals, covered_bases
from biollm.ingest.config import Config, FeatureWindows

Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]

_UNKNOWN = ord("N")


@dataclass(frozen=True)
class Windows:
    """starts, ends: (n,) 0-based, half open, in order; minus: (n,) bool."""

    starts: Ints
    ends: Ints
    minus: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.starts)

    def take(self, chosen: NDArray[np.bool_] | Ints) -> Windows:
        return Windows(self.starts[chosen], self.ends[chosen], self.minus[chosen])


def plan_windows(
    sequence: Bytes, config: Config, features: pl.DataFrame | None, regions: Intervals | None
) -> tuple[Windows, dict[str, Windows]]:
    """The windows of one contig that are kept, in the order of their start, and the others by reason.

    features: those of the contig, for windows at features. A window of both strands that is dropped is dropped once, on plus.
    """
    dropped: dict[str, Windows] = {}
    length = len(sequence)
    if config.features is None:
        windows = _tiles(length, config.window_bases, config.stride_bases or config.window_bases)
    else:
        assert features is not None
        windows = _at_features(config.features, features.filter(pl.col("type") == config.features.feature), config)
    inside = (windows.starts >= 0) & (windows.ends <= length)
    beyond = windows.take(~inside)
    if config.features is None:
        dropped["shorter_than_window"] = Windows(beyond.starts, np.minimum(beyond.ends, length), beyond.minus)
    else:
        dropped["beyond_the_contig"] = beyond
    windows = windows.take(inside)
    if regions is not None:
        covered = covered_bases(regions, windows.starts, windows.ends) == windows.ends - windows.starts
        dropped["outside_the_regions"] = windows.take(~covered)
        windows = windows.take(covered)
    unknown = _count(sequence, windows.starts, windows.ends, _UNKNOWN)
    known = unknown / np.maximum(windows.ends - windows.starts, 1) <= config.max_unknown_fraction
    dropped["too_many_unknown_bases"] = windows.take(~known)
    windows = windows.take(known)
    if config.strands == "both":
        twice = windows.take(np.repeat(np.arange(len(windows)), 2))
        windows = Windows(twice.starts, twice.ends, np.tile([False, True], len(windows)))
    return windows, dropped


def _tiles(length: int, width: int, stride: int) -> Windows:
    starts = np.arange(0, length, stride, dtype=np.int64)
    return Windows(starts, starts + width, np.zeros(len(starts), dtype=bool))


def _at_features(config: FeatureWindows, features: pl.DataFrame, whole: Config) -> Windows:
    """Windows at features, each place once, in the order of their starts."""
    starts, ends = (features[name].to_numpy() for name in ("start_0based", "end"))
    minus = (features["strand"] == "-").to_numpy()
    if config.anchor == "whole":
        width, stride = whole.window_bases, whole.stride_bases or whole.window_bases
        number = np.maximum(1, -(-(ends - starts - width) // stride) + 1)  # the last tile may be shorter
        which = np.repeat(np.arange(len(starts)), number)
        step = (np.arange(len(which)) - np.repeat(np.cumsum(number) - number, number)) * stride
        tiles = starts[which] + step
        found = Windows(tiles, np.minimum(tiles + width, ends[which]), minus[which])
    else:
        # the base that the anchor is on, counted along the strand: the first base of a feature is its 5' end
        first, last = np.where(minus, ends - 1, starts), np.where(minus, starts, ends - 1)
        anchor = {"start": first, "end": last, "center": (starts + ends - 1) // 2}[config.anchor]
        low = np.where(minus, anchor - config.after_bases + 1, anchor - config.before_bases)
        found = Windows(low, low + config.before_bases + config.after_bases, minus)
    table = pl.DataFrame({"start": found.starts, "end": found.ends, "minus": found.minus}).unique().sort("start", "end", "minus")
    return Windows(table["start"].to_numpy(), table["end"].to_numpy(), table["minus"].to_numpy())


def read_windows(sequence: Bytes, windows: Windows) -> pa.Array:
    """What each window reads. (n,) strings"""
    offsets = np.concatenate([[0], np.cumsum(windows.ends - windows.starts)])
    flat = np.empty(int(offsets[-1]), dtype=np.uint8)
    _gather(sequence, windows.starts, windows.ends, windows.minus, COMPLEMENT_CODES, flat)
    return pa.LargeStringArray.from_buffers(len(windows), pa.py_buffer(offsets.astype(np.int64)), pa.py_buffer(flat))


def window_hashes(sequence: Bytes, windows: Windows) -> NDArray[np.uint64]:
    """A 64-bit hash of each window's letters that a window and its reverse complement share. (n,)"""
    found = np.empty(len(windows), dtype=np.uint64)
    _hash(sequence, windows.starts, windows.ends, COMPLEMENT_CODES, found)
    return found


@compiled
def _count(sequence, starts, ends, letter):  # type: ignore[no-untyped-def]
    counts = np.zeros(len(starts), dtype=np.int64)
    for i in range(len(starts)):
        total = 0
        for base in sequence[starts[i] : ends[i]]:
            total += base == letter
        counts[i] = total
    return counts


@compiled
def _gather(sequence, starts, ends, minus, complement, flat):  # type: ignore[no-untyped-def]
    at = 0
    for i in range(len(starts)):
        width = ends[i] - starts[i]
        if minus[i]:
            for k in range(width):
                flat[at + k] = complement[sequence[ends[i] - 1 - k]]
        else:
            flat[at : at + width] = sequence[starts[i] : ends[i]]
        at += width


@compiled
def _hash(sequence, starts, ends, complement, found):  # type: ignore[no-untyped-def]
    """Polynomials modulo 2^64 over both strands, mixed (the finaliser of splitmix64); the smaller of the two stands for both."""
    factor = np.uint64(0x9E3779B97F4A7C15)
    for i in range(len(starts)):
        low, high = starts[i], ends[i]
        forward = backward = np.uint64(high - low)
        for k in range(high - low):
            forward = (forward ^ np.uint64(sequence[low + k])) * factor
            forward ^= forward >> np.uint64(29)
            backward = (backward ^ np.uint64(complement[sequence[high - 1 - k]])) * factor
            backward ^= backward >> np.uint64(29)
        found[i] = min(forward, backward)
