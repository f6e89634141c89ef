"""Sites onto windows: dense values per base, and means.

Everything here takes the sites of one contig, at most one at each position: choose a modification, and merge strands or not, before.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from biollm.core.errors import DataError

_CHUNK_BASES = 1 << 22


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


def sites_to_array(sites: pl.DataFrame, start: int, end: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Level and coverage of each base from start to end (0-based, half open): two (end - start,) arrays, NaN where missing."""
    sites = sort_sites(sites)
    starts, ends = np.array([start], dtype=np.int64), np.array([end], dtype=np.int64)
    levels, coverages, _ = dense_values(site_columns(sites), starts, ends)
    return levels, coverages


def join_windows(
    sites: pl.DataFrame, starts: NDArray[np.int64], ends: NDArray[np.int64], chunk_bases: int = _CHUNK_BASES
) -> Iterator[tuple[pl.Series, pl.Series]]:
    """Level and coverage of each base of each window as two List(Float32) series, null where missing; the windows in order, in chunks.

    starts, ends: (windows,) 0-based, half open, in any order, overlapping or not. A chunk has about `chunk_bases` bases (at least one
    window), which bounds the memory. Raises DataError as `sort_sites`.
    """
    columns = site_columns(sort_sites(sites))
    assert (starts <= ends).all()
    totals = np.cumsum(ends - starts)
    first = 0
    while first < len(starts):
        done = totals[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(totals, done + chunk_bases, side="right")))
        levels, coverages, offsets = dense_values(columns, starts[first:last], ends[first:last])
        yield _lists(levels, offsets, "level"), _lists(coverages, offsets, "coverage")
        first = last


def window_means(sites: pl.DataFrame, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Mean level of each window (NaN without a site) and the number of sites with a level in it: two (windows,) arrays.

    starts, ends as in `join_windows`. Raises DataError as `sort_sites`.
    """
    sites = sort_sites(sites)
    if sites["level"].null_count():
        sites = sites.filter(pl.col("level").is_not_null())
    position, level = sites["position_0based"].to_numpy(), sites["level"].to_numpy()
    low, high = np.searchsorted(position, starts), np.searchsorted(position, ends)
    counts = high - low
    # Sums of slices, not differences of running sums: those lose digits where a signal's values differ by orders of magnitude.
    means = np.full(len(starts), np.nan)
    if len(starts) and len(level):
        last = len(level) - 1  # reduceat takes no bound behind the last site: a slice that ends there has that site added by hand
        sums = np.add.reduceat(level, np.minimum(np.stack([low, high], axis=1).ravel(), last), dtype=np.float64)[::2]
        sums[(high > last) & (low < last)] += level[last]
        np.divide(sums, counts, out=means, where=counts > 0)
    return means, counts


Columns = tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]


def site_columns(sites: pl.DataFrame) -> Columns:
    """Position (Int64), level and coverage (Float32, NaN where missing) of some sites: three (sites,) arrays."""
    level, coverage = (sites[name].cast(pl.Float32).fill_null(np.nan).to_numpy() for name in ("level", "coverage"))
    return sites["position_0based"].to_numpy(), level, coverage


def dense_values(
    columns: Columns, starts: NDArray[np.int64], ends: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """Level and coverage of all bases of the windows, one window behind the other, and where each begins.

    columns: of sites in rising order of position, see `sort_sites`. Returns (bases,), (bases,) with NaN where missing, (windows + 1,).
    """
    position, level, coverage = columns
    offsets = np.concatenate([[0], np.cumsum(ends - starts)]).astype(np.int64)
    low, high = np.searchsorted(position, starts), np.searchsorted(position, ends)
    counts = high - low
    # The sites of window w are low[w] … high[w]; all of them in one index, and the distance from a site to its place in the output.
    site = np.arange(counts.sum()) + np.repeat(low - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts)
    place = position[site] + np.repeat(offsets[:-1] - starts, counts)
    dense = []
    for values in (level, coverage):
        array = np.full(offsets[-1], np.nan, dtype=np.float32)
        array[place] = values[site]
        dense.append(array)
    return dense[0], dense[1], offsets


def _lists(values: NDArray[np.float32], offsets: NDArray[np.int64], name: str) -> pl.Series:
    array = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values, mask=np.isnan(values)))
    series = pl.from_arrow(array)
    assert isinstance(series, pl.Series)
    return series.alias(name)
