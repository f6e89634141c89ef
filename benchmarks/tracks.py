"""Methylation onto windows: 666,413 cytosines of Arabidopsis chromosome 1 (Dowen et al. 2012) joined to windows of 500 bases.

Two outputs, each asserted to be equal before it is timed: mean level and number of sites of each window ("tracks"), and the level of each
base of each window, null where there is none ("tracks_lists"). All start from tables in memory.
"""

from __future__ import annotations

import sys
from pathlib import Path

import bioframe
import numpy as np
import pandas as pd
import polars as pl
from harness import compare

from biollm.ingest.sites.config import SiteOptions
from biollm.ingest.sites.join import join_windows, window_means
from biollm.ingest.sites.read import read_sites

FILE = Path(__file__).parents[2] / "shared/data/arabidopsis_methylqc_chr1/dowen2012_chr1_1-2050000.CGmap.gz"
WIDTH, BASES = 500, 2_050_000
if not FILE.is_file():
    sys.exit(f"{FILE}: not here; it is methylQC's data/methylome.rda (github timoast/methylQC) written as CGmap")

sites = pl.concat(read_sites(FILE, "auto", SiteOptions()))
starts = np.arange(0, BASES, WIDTH)
ends = starts + WIDTH
position = sites["position_0based"].to_numpy()
pandas_sites = pd.DataFrame({"chrom": "chr1", "start": position, "end": position + 1, "level": sites["level"].to_numpy()})
pandas_windows = pd.DataFrame({"chrom": "chr1", "start": starts, "end": ends})


def our_means() -> tuple[np.ndarray, np.ndarray]:
    return window_means(sites, starts, ends)


def _of_groups(groups: pd.core.groupby.SeriesGroupBy) -> tuple[np.ndarray, np.ndarray]:
    found = groups.agg(["mean", "count"]).reindex(range(len(starts)))
    return found["mean"].to_numpy(), found["count"].fillna(0).to_numpy()


def pandas_means() -> tuple[np.ndarray, np.ndarray]:
    window = pd.IntervalIndex.from_arrays(starts, ends, closed="left").get_indexer(pandas_sites["start"])
    inside = pandas_sites.assign(window=window).query("window >= 0")
    return _of_groups(inside.groupby("window")["level"])


def bioframe_pairs() -> pd.DataFrame:
    return bioframe.overlap(pandas_windows, pandas_sites, how="inner", return_index=True)


def bioframe_means() -> tuple[np.ndarray, np.ndarray]:
    return _of_groups(bioframe_pairs().groupby("index")["level_"])


def our_lists() -> pl.Series:
    return pl.concat([levels for levels, _ in join_windows(sites, starts, ends)])


def _unstacked(window: pd.Series, offset: pd.Series, level: pd.Series) -> pl.Series:
    """One row of WIDTH values per window, with nulls, as a corpus stores it."""
    table = pd.DataFrame({"window": window, "offset": offset, "level": level}).set_index(["window", "offset"])["level"].unstack()
    dense = table.reindex(index=range(len(starts)), columns=range(WIDTH)).to_numpy()
    return pl.Series(dense).arr.to_list().list.eval(pl.element().fill_nan(None))


def pandas_lists() -> pl.Series:
    window = pd.IntervalIndex.from_arrays(starts, ends, closed="left").get_indexer(pandas_sites["start"])
    inside = pandas_sites.assign(window=window).query("window >= 0")
    return _unstacked(inside["window"], inside["start"] - inside["window"] * WIDTH, inside["level"])


def bioframe_lists() -> pl.Series:
    pairs = bioframe_pairs()
    return _unstacked(pairs["index"], pairs["start_"] - pairs["start"], pairs["level_"])


means, counts = our_means()
for peer in (pandas_means, bioframe_means):
    np.testing.assert_array_equal(peer()[1], counts)
    np.testing.assert_allclose(peer()[0], means, rtol=1e-5)  # pandas sums in float32
for lists in (pandas_lists, bioframe_lists):
    assert our_lists().equals(lists(), check_names=False)

PEERS = "pandas IntervalIndex + groupby", "bioframe overlap + groupby"
SIZE = f"{len(sites):,} sites, {len(starts):,} windows of {WIDTH}"
compare("tracks", our_means, {PEERS[0]: pandas_means, PEERS[1]: bioframe_means}, f"seconds for mean and count; {SIZE}", rounds=5)
PEERS = "pandas IntervalIndex + unstack", "bioframe overlap + unstack"
compare("tracks_lists", our_lists, {PEERS[0]: pandas_lists, PEERS[1]: bioframe_lists}, f"seconds for lists of levels; {SIZE}", rounds=5)
