"""Methylation onto windows: 666,413 cytosines of Arabidopsis chromosome 1 (Dowen et al. 2012) joined to windows of 500 bases.

The output is what ingest writes: level and coverage of each base of each window as two list columns, null where there is none. It is
asserted to be equal before it is timed. All start from tables in memory.
"""

from __future__ import annotations

import sys
from pathlib import Path

import bioframe
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
from harness import compare

from biollm.ingest.sites.config import SiteOptions
from biollm.ingest.sites.join import site_columns, sort_sites, window_lists
from biollm.ingest.sites.read import read_sites

FILE = Path(__file__).parents[2] / "shared/data/arabidopsis_methylqc_chr1/dowen2012_chr1_1-2050000.CGmap.gz"
WIDTH, BASES = 500, 2_050_000
if not FILE.is_file():
    sys.exit(f"{FILE}: not here; it is methylQC's data/methylome.rda (github timoast/methylQC) written as CGmap")

sites = pl.concat(read_sites(FILE, "auto", SiteOptions()), rechunk=True)  # as the data frames of the peers are
starts = np.arange(0, BASES, WIDTH)
ends = starts + WIDTH
minus = np.zeros(len(starts), dtype=bool)
VALUES = ["level", "coverage"]
place = sites["position_0based"].to_numpy()
pandas_sites = pd.DataFrame({"chrom": "chr1", "start": place, "end": place + 1} | {name: sites[name].to_numpy() for name in VALUES})
pandas_windows = pd.DataFrame({"chrom": "chr1", "start": starts, "end": ends})


def ours() -> list[pa.Array]:
    position, *columns = site_columns(sort_sites(sites))
    return window_lists(position, columns, starts, ends, minus)


def _lists(window: pd.Series, offset: pd.Series, values: pd.DataFrame) -> list[pa.Array]:
    """Of each column one row of WIDTH values per window, with nulls, as a corpus stores it."""
    found = []
    for name in values:
        table = pd.DataFrame({"window": window, "offset": offset, "value": values[name]}).set_index(["window", "offset"])["value"]
        dense = table.unstack().reindex(index=range(len(starts)), columns=range(WIDTH)).to_numpy().ravel()
        offsets = pa.array(np.arange(0, dense.size + 1, WIDTH))
        found.append(pa.LargeListArray.from_arrays(offsets, pa.array(dense, mask=np.isnan(dense))))
    return found


def pandas_join() -> list[pa.Array]:
    window = pd.IntervalIndex.from_arrays(starts, ends, closed="left").get_indexer(pandas_sites["start"])
    inside = pandas_sites.assign(window=window).query("window >= 0")
    return _lists(inside["window"], inside["start"] - inside["window"] * WIDTH, inside[VALUES])


def bioframe_join() -> list[pa.Array]:
    pairs = bioframe.overlap(pandas_windows, pandas_sites, how="inner", return_index=True)
    return _lists(pairs["index"], pairs["start_"] - pairs["start"], pairs[[f"{name}_" for name in VALUES]].rename(columns=lambda n: n[:-1]))


for peer in (pandas_join, bioframe_join):
    for own, other in zip(ours(), peer(), strict=True):
        assert own.equals(other)

if __name__ == "__main__":
    compare(
        "tracks",
        ours,
        {"pandas IntervalIndex + unstack": pandas_join, "bioframe overlap + unstack": bioframe_join},
        f"seconds for lists of level and coverage; {len(sites):,} sites, {len(starts):,} windows of {WIDTH}",
        rounds=5,
    )
