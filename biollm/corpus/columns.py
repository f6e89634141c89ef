"""The names that a corpus table is written and read with, by every stage."""

from __future__ import annotations

RECORDS = "records.parquet"  # one file, or a folder of parts, which polars, pandas and pyarrow read alike
DROPPED = "dropped.parquet"
SPLITS = ("train", "validation", "test")
LABEL, TRACK, COVERAGE, COVARIATE = "label_", "track_", "coverage_", "covariate_"
