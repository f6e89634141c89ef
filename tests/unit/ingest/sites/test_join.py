"""Values reach the base that they belong to, window by window."""

from __future__ import annotations

import tracemalloc

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biollm.core.errors import DataError
from biollm.ingest.sites.join import missing_lists, site_columns, sort_sites, window_lists
from biollm.ingest.sites.read import SCHEMA


def frame(values: dict[int, tuple[float | None, float | None]], strand: str = "+") -> pl.DataFrame:
    rows = [("c", position, strand, None, "5mC", level, coverage) for position, (level, coverage) in values.items()]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


SITES = st.dictionaries(st.integers(0, 60), st.tuples(st.none() | st.floats(0, 1, width=32), st.none() | st.integers(0, 50).map(float)))
WINDOWS = st.lists(st.tuples(st.integers(0, 70), st.integers(0, 20), st.booleans()).map(lambda w: (w[0], w[0] + w[1], w[2])), max_size=12)


@settings(deadline=None, max_examples=150)
@given(values=SITES, windows=WINDOWS)
def test_every_window_has_its_bases_in_its_direction_and_no_others(values, windows) -> None:
    position, *columns = site_columns(sort_sites(frame(values)))
    starts, ends = (np.array([w[i] for w in windows], dtype=np.int64) for i in (0, 1))
    minus = np.array([w[2] for w in windows], dtype=bool)
    lists = window_lists(position, columns, starts, ends, minus)
    for number in range(len(columns)):
        found = lists[number]
        found.validate(full=True)
        wanted = [[values.get(i, (None, None))[number] for i in range(start, end)] for start, end, _ in windows]
        wanted = [row[::-1] if turned else row for row, turned in zip(wanted, minus, strict=True)]
        assert found.to_pylist() == wanted
        assert found.type == pa.large_list(pa.float32())
        assert found.values.null_count == sum(value is None for row in wanted for value in row)
    assert missing_lists(starts, ends).to_pylist() == [[None] * (end - start) for start, end, _ in windows]


def test_two_sites_on_one_base_are_refused() -> None:
    sites = pl.concat([frame({3: (0.5, 1.0), 9: (1.0, 1.0)}), frame({9: (0.0, 1.0)}).with_columns(modification=pl.lit("5hmC"))])
    with pytest.raises(DataError, match=r"c position 9 \(from 0\) has two sites: 5mC on strand \+ and 5hmC on strand \+; .*choose with"):
        sort_sites(sites)


def test_memory_is_that_of_the_windows_not_of_the_contig() -> None:
    """A contig of 3 Gb with sites and windows at both ends, beyond 2**31."""
    far = 3_000_000_000
    position, level, _ = site_columns(frame({5: (0.25, 2.0), far + 7: (0.75, 4.0)}))
    starts = np.concatenate([np.arange(0, 200_000, 100), [far]])
    tracemalloc.start()
    (found,) = window_lists(position, [level], starts, starts + 100, np.zeros(len(starts), dtype=bool))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found[-1].as_py()[7] == 0.75
    assert found.values.null_count == 100 * len(starts) - 2
    assert peak < 2_000_000  # 0.2 M bases x 4 bytes, and their bits; the contig would be 12 GB
