"""Values reach the base that they belong to, window by window."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biollm.core.errors import DataError
from biollm.ingest.sites.join import join_windows, sites_to_array, window_means
from biollm.ingest.sites.read import SCHEMA


def frame(values: dict[int, tuple[float | None, float | None]], strand: str = "+") -> pl.DataFrame:
    rows = [("c", position, strand, None, "5mC", level, coverage) for position, (level, coverage) in values.items()]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


SITES = st.dictionaries(st.integers(0, 60), st.tuples(st.none() | st.floats(0, 1, width=32), st.none() | st.integers(0, 50).map(float)))
WINDOWS = st.lists(st.tuples(st.integers(0, 70), st.integers(0, 20)).map(lambda w: (w[0], w[0] + w[1])), max_size=12)


@settings(deadline=None, max_examples=150)
@given(values=SITES, windows=WINDOWS, chunk=st.integers(1, 50))
def test_every_window_has_its_bases_and_no_others(values, windows, chunk) -> None:
    sites = frame(values)
    starts, ends = (np.array([w[i] for w in windows], dtype=np.int64) for i in (0, 1))
    chunks = list(join_windows(sites, starts, ends, chunk_bases=chunk))
    for column in (0, 1):
        found = [values for part in chunks for values in part[column].to_list()]
        assert found == [[values.get(i, (None, None))[column] for i in range(*window)] for window in windows]
        assert all(part[column].dtype == pl.List(pl.Float32) for part in chunks)
    means, counts = window_means(sites, starts, ends)
    for (start, end), mean, count in zip(windows, means.tolist(), counts.tolist(), strict=True):
        levels = [level for i in range(start, end) if (level := values.get(i, (None, None))[0]) is not None]
        assert count == len(levels)
        assert math.isnan(mean) if not levels else mean == pytest.approx(sum(levels) / len(levels), abs=1e-12)


@given(values=SITES, start=st.integers(0, 60), length=st.integers(0, 30))
def test_one_stretch_is_dense_with_nan_where_nothing_is_known(values, start, length) -> None:
    levels, coverages = sites_to_array(frame(values), start, start + length)
    for array, column in ((levels, 0), (coverages, 1)):
        assert array.dtype == np.float32
        wanted = [values.get(i, (None, None))[column] for i in range(start, start + length)]
        assert [None if math.isnan(x) else x for x in array.tolist()] == wanted


def test_two_sites_on_one_base_are_refused() -> None:
    sites = pl.concat([frame({3: (0.5, 1.0), 9: (1.0, 1.0)}), frame({9: (0.0, 1.0)}).with_columns(modification=pl.lit("5hmC"))])
    for ask in (lambda: sites_to_array(sites, 0, 5), lambda: next(join_windows(sites, np.array([0]), np.array([5])))):
        with pytest.raises(
            DataError, match=r"c position 9 \(from 0\) has two sites: 5mC on strand \+ and 5hmC on strand \+; .*choose with"
        ):
            ask()


def test_memory_is_that_of_a_chunk_not_of_the_contig() -> None:
    """A contig of 3 Gb with sites and windows at both ends, beyond 2**31."""
    far = 3_000_000_000
    sites = frame({5: (0.25, 2.0), far + 7: (0.75, 4.0)})
    starts = np.concatenate([np.arange(0, 2_000_000, 100), [far]])
    tracemalloc.start()
    last = None
    for levels, _ in join_windows(sites, starts, starts + 100, chunk_bases=50_000):
        assert len(levels) <= 500
        last = levels
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert last is not None
    assert last[-1].to_list()[7] == 0.75
    assert peak < 8_000_000  # 2 M bases x 2 columns x 4 bytes would be 16 MB, the contig 24 GB
    assert window_means(sites, starts, starts + 100)[1][[0, -1]].tolist() == [1, 1]


def test_means_of_a_signal_of_mixed_sizes_keep_their_digits() -> None:
    sites = frame({0: (1e30, None), 10: (1.5, None), 11: (2.5, None)})
    assert window_means(sites, np.array([10]), np.array([12]))[0].tolist() == [2.0]
