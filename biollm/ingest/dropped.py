"""What an ingest leaves out: counted by reason, and listed in a Parquet file that is written as it goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA = {"id": pl.String, "reason": pl.String, "kept_id": pl.String}
_ARROW = pa.schema([(name, pa.large_string()) for name in SCHEMA])
_ROWS = 65_536  # held before they are written as a row group
_FEW = 64  # so many are held one by one: a genome has 100,000 scaffolds, and a frame for each would take longer than to read them


class Dropped:
    """The table of dropped records, id, reason and kept_id, and their counts. Use it as a context; memory holds one row group.

    counts: what `add` was given, and what `count` was.
    """

    def __init__(self, path: Path) -> None:
        self.counts: Counter[str] = Counter()
        self._writer = pq.ParquetWriter(path, _ARROW, compression="zstd", write_statistics=False)
        self._frames: list[pl.DataFrame] = []
        self._single: list[tuple[str, str, str | None]] = []
        self._held = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self._write()
        self._writer.close()

    def add(self, ids: pl.Series, reason: str, instead: pl.Series | None = None) -> None:
        """Count and list records. instead: ids of those that are kept in their place, for duplicates."""
        if len(ids):
            self.counts[reason] += len(ids)
            self.list(ids, pl.repeat(reason, len(ids), dtype=pl.String, eager=True), instead)

    def count(self, counts: Mapping[str, int]) -> None:
        """Count records that `list` and `list_one` are given; reasons of which there is none are kept, as 0."""
        self.counts.update(counts)

    def list(self, ids: pl.Series, reasons: pl.Series, instead: pl.Series | None = None) -> None:
        kept = instead if instead is not None else pl.repeat(None, len(ids), dtype=pl.String, eager=True)
        if len(ids) <= _FEW:
            self._single += zip(ids.to_list(), reasons.to_list(), kept.to_list(), strict=True)
        else:
            self._gather()
            self._frames.append(pl.DataFrame({"id": ids, "reason": reasons, "kept_id": kept}, schema=SCHEMA))
        self._count_held(len(ids))

    def list_one(self, identity: str, reason: str) -> None:
        self._single.append((identity, reason, None))
        self._count_held(1)

    def _count_held(self, rows: int) -> None:
        self._held += rows
        if self._held >= _ROWS:
            self._write()

    def _gather(self) -> None:
        """Single rows into a frame behind those that came before them."""
        if self._single:
            self._frames.append(pl.DataFrame(self._single, schema=SCHEMA, orient="row"))
            self._single = []

    def _write(self) -> None:
        self._gather()
        if self._frames:
            self._writer.write_table(pl.concat(self._frames).to_arrow().cast(_ARROW), row_group_size=_ROWS)
        self._frames, self._held = [], 0
