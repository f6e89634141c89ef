"""Sites onto windows: a list of values for each window, one value a base.

Everything here takes the sites of one contig, at most one at each position: choose a modification, and merge strands or not, before.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from biollm.core.compiled import compiled
from biollm.core.errors import DataError

Columns = tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]


def sort_sites(sites: pl.DataFrame) -> pl.DataFrame:
    """The sites of one contig by position. Raises DataError if two lie on one position."""
    values = sites["position_0based"].to_numpy()
    if (values[1:] > values[:-1]).all():
        return sites
    sites = sites.sort("position_0based")
    values = sites["position_0based"].to_numpy()
    if (twice := np.flatnonzero(values[1:] == values[:-1])).size:
        rows = sites[int(twice[0]) : int(twice[0]) + 2]
        kinds = " and ".join(f"{row['modification']} on strand {row['strand']}" for row in rows.iter_rows(named=True))
        raise DataError(
            f"{sites['contig'][0]} position {values[twice[0]]} (from 0) has two sites: {kinds}; a track holds one value a base: "
            "choose with modifications, contexts or strands"
        )
    return sites


def site_columns(sites: pl.DataFrame) -> Columns:
    """Position (Int64), level and coverage (Float32, NaN where missing) of some sites: three (sites,) arrays."""
    level, coverage = (sites[name].cast(pl.Float32).fill_null(np.nan).to_numpy() for name in ("level", "coverage"))
    return sites["position_0based"].to_numpy(), level, coverage


def window_lists(
    position: NDArray[np.int64],
    columns: Sequence[NDArray[np.float32]],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    minus: NDArray[np.bool_],
) -> list[pa.LargeListArray]:
    """Of each column the values of each base of each window, in the direction of its strand: (windows,) lists, null where missing.

    position: (sites,) rising, see `sort_sites`; columns: (sites,) each, NaN where missing; starts, ends, minus: (windows,) 0-based, half
    open, in any order, overlapping or not. Memory: that of the lists.
    """
    offsets = np.concatenate([[0], np.cumsum(ends - starts)]).astype(np.int64)
    first, last = np.searchsorted(position, starts), np.searchsorted(position, ends)
    bases, found = int(offsets[-1]), []
    for values in columns:
        flat, known = np.zeros(bases, dtype=np.float32), np.zeros(-(-bases // 8), dtype=np.uint8)
        missing = bases - int(_fill(position, values, first, last, starts, minus, offsets, flat, known))
        inner = pa.Array.from_buffers(pa.float32(), bases, [pa.py_buffer(known), pa.py_buffer(flat)], null_count=missing)
        found.append(pa.LargeListArray.from_arrays(pa.array(offsets), inner))
    return found


def missing_lists(starts: NDArray[np.int64], ends: NDArray[np.int64]) -> pa.LargeListArray:
    """The lists of windows without any site."""
    none = np.zeros(0, dtype=np.int64), [np.zeros(0, dtype=np.float32)]
    return window_lists(*none, starts, ends, np.zeros(len(starts), dtype=np.bool_))[0]


def flat_values(lists: pa.LargeListArray) -> NDArray[np.float32]:
    """The values of all lists, one behind the other, NaN where missing."""
    flat: NDArray[np.float32] = lists.values.to_numpy(zero_copy_only=False)
    return flat


@compiled
def _fill(position, values, first, last, starts, minus, offsets, flat, known):  # type: ignore[no-untyped-def]
    """Writes the values that are not missing to their places, and their bits (Arrow's, lowest first); how many."""
    written = 0
    for i in range(len(starts)):
        # the place of a base: from the window's first on, or backwards from its last
        sign = -1 if minus[i] else 1
        base = offsets[i + 1] - 1 + starts[i] if minus[i] else offsets[i] - starts[i]
        for site in range(first[i], last[i]):
            value = values[site]
            if not np.isnan(value):
                place = base + sign * position[site]
                flat[place] = value
                known[place >> 3] |= np.uint8(1 << (place & 7))
                written += 1
    return written
