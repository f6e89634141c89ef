"""The corpus as every later stage reads it: `records.parquet` of an ingest artifact."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from biollm.corpus.columns import RECORDS, TRACK
from biollm.modeling.tracks import FloatArray


def read_records(ingest_folder: Path, split: str | None = None) -> pl.DataFrame:
    """The records of a corpus, of one split or of all, in the order of the file."""
    table = pl.read_parquet(ingest_folder / RECORDS)
    return table if split is None else table.filter(pl.col("split") == split)


def read_tracks(records: pl.DataFrame, channels: list[str]) -> list[list[FloatArray]]:
    """The tracks of some records: for each record one (L,) float32 array per channel, NaN = missing."""
    columns = [[np.asarray(v, dtype=np.float32) for v in records[TRACK + channel].to_list()] for channel in channels]
    return [list(row) for row in zip(*columns, strict=True)] if columns else [[] for _ in range(records.height)]
