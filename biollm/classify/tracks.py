"""Per-base tracks summed up over a record: what methylation (or any track) knows without a sequence and without a model."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from biollm.classify.metrics import FloatArray
from biollm.core.alphabets import stands_on
from biollm.corpus.columns import COVERAGE, TRACK


def track_features(table: pl.DataFrame, names: list[str]) -> FloatArray:
    """(records, columns) of `track_feature_names`: mean level over the residues that have one (0 if none has), share of residues that
    have one, log(1 + mean coverage) there if the corpus has it, and a flag for records without any.

    table: track_<name> and maybe coverage_<name>, lists of float32 with NaN for missing. A null list is a record without any.
    """
    columns: list[FloatArray] = []
    for name in names:
        share = _mean(table[TRACK + name], known=True)
        columns += [np.nan_to_num(_mean(table[TRACK + name])), share]
        if COVERAGE + name in table.columns:
            columns.append(np.log1p(np.nan_to_num(_mean(table[COVERAGE + name]))))
        columns.append((share == 0).astype(np.float64))
    return np.column_stack(columns) if columns else np.zeros((table.height, 0))


def track_feature_names(names: list[str], with_coverage: list[str]) -> list[str]:
    """with_coverage: the tracks whose coverage the corpus has."""
    found: list[str] = []
    for name in names:
        found += [f"{name}: mean level", f"{name}: share of residues with a value"]
        if name in with_coverage:
            found.append(f"{name}: log mean coverage")
        found.append(f"{name}: missing")
    return found


def holds_shares(levels: pl.Series) -> bool:
    """Whether all values of a track lie from 0 to 1. levels: lists of numbers, NaN or null where there is none."""
    values = _flat(levels.drop_nulls())
    return bool(((values >= 0) & (values <= 1) | np.isnan(values)).all())


def stands_on_cytosines(levels: pl.Series, sequences: pl.Series) -> bool:
    """Whether no A or T has a value of a track. sequences: as long as the lists of `levels` beside them."""
    given = levels.is_not_null()
    return bool(np.isnan(_flat(levels.filter(given))[stands_on("".join(sequences.filter(given)), "AT")]).all())


def _flat(lists: pl.Series) -> NDArray[np.float32]:
    """All numbers of some lists, one behind the other, NaN for null."""
    return lists.cast(pl.List(pl.Float32)).explode().fill_null(float("nan")).to_numpy()


def _mean(lists: pl.Series, known: bool = False) -> FloatArray:
    """The mean of each list over its numbers (NaN: none), or the share of its places that hold one."""
    element = pl.element()
    lists = lists.cast(pl.List(pl.Float32))  # a table whose records are of one length may hold arrays
    if known:
        each = lists.to_frame("x").select(
            pl.col("x").list.eval((element.is_not_nan() & element.is_not_null()).cast(pl.Float64)).list.mean()
        )
        return each["x"].fill_null(0.0).to_numpy().astype(np.float64)
    each = lists.to_frame("x").select(pl.col("x").list.eval(element.cast(pl.Float64).filter(element.is_not_nan())).list.mean())
    return each["x"].fill_null(float("nan")).to_numpy().astype(np.float64)
