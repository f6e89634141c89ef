"""The corpus table as every stage reads it, and its leak audit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from biollm.corpus.audit import audit, enforce
from biollm.corpus.columns import COVARIATE, COVERAGE, TRACK
from biollm.corpus.options import AuditOptions

# The audit compares sequences with each other; of a larger corpus it sees a sample of rows, and the facts say so.
_AUDITED_ROWS = 200_000


def column_names(records: Path) -> list[str]:
    """The columns of a corpus table, a file or a folder of parts."""
    return pl.scan_parquet(records).collect_schema().names()


def audit_records(records: Path, options: AuditOptions, label: str | None = None) -> dict[str, Any]:
    """What the audit finds in a corpus table, as facts. label: a column; only the records that have a value there are looked at.

    Raises DataError for leaks beyond the tolerances, unless the options allow them with a reason.
    """
    parts = sorted(records.glob("*.parquet")) if records.is_dir() else [records]
    heights = [int(pq.read_metadata(part).num_rows) for part in parts]
    wanted = [name for name in column_names(records) if not name.startswith((TRACK, COVERAGE, COVARIATE))]
    step, begin, samples = -(-sum(heights) // _AUDITED_ROWS), 0, []
    for part, height in zip(parts, heights, strict=True):
        samples.append(pl.read_parquet(part, columns=wanted).gather_every(step, -begin % step))
        begin += height
    table = pl.concat(samples)
    del samples
    found = audit(table.drop_nulls(label) if label else table, options)
    enforce(found, options)
    allowed = {} if options.leakage == "refuse" else {"allowed": options.leakage.allow}
    return found.to_facts() | {"rows_audited": table.height, "rows_of_corpus": sum(heights)} | allowed
