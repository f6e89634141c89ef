"""The corpus as every later stage reads it: `records.parquet` of an ingest artifact."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from biollm.core.errors import DataError
from biollm.corpus.columns import COVERAGE, RECORDS, TRACK
from biollm.modeling.tracks import FloatArray, RecordTracks, Track

ROW = "row"  # where a record stands in the file, by which its tracks are found
_ROWS_PER_BATCH = 1024
_RANGE_PART = 1 << 24  # residues looked at in one go


def read_records(ingest_folder: Path, split: str | None = None) -> pl.DataFrame:
    """The records of a corpus, of one split or of all, in the order of the file, with a column `row`. Tracks are left on the disk."""
    path = ingest_folder / RECORDS
    table = pl.scan_parquet(path).select(pl.exclude(f"^{TRACK}.*$", f"^{COVERAGE}.*$")).with_row_index(ROW)
    return (table if split is None else table.filter(pl.col("split") == split)).collect()


def evenly(records: pl.DataFrame, most: int) -> pl.DataFrame:
    """At most so many records, evenly spread over all, in their order."""
    number = min(most, records.height)
    return records[np.arange(number) * records.height // number]


class TrackTable:
    """The tracks of a corpus by row, on the disk: memory holds what is being looked at. The file is gone when the table is.

    On disk, for each channel: (all residues,) float32 levels, then coverages if the corpus has them; NaN = missing.
    """

    def __init__(self, ingest_folder: Path, channels: Sequence[str]) -> None:
        """channels: of these, tracks are read. Raises DataError naming a channel that the corpus does not have."""
        path = ingest_folder / RECORDS
        existing = pl.scan_parquet(path).collect_schema().names()
        tracks = [name.removeprefix(TRACK) for name in existing if name.startswith(TRACK)]
        if absent := [channel for channel in channels if channel not in tracks]:
            raise DataError(
                f"{RECORDS}: no track is called '{absent[0]}'; the tracks of this corpus are: {', '.join(tracks) or 'none'}; "
                "name one of them, or add it under ingest.tracks"
            )
        self.channels = list(channels)
        columns = [name for c in channels for name in (TRACK + c, COVERAGE + c) if name in existing]
        self._arrays, self._offsets = _spill(path, columns)

    def __getitem__(self, row: int) -> RowTracks:
        return RowTracks(self, int(self._offsets[row]), int(self._offsets[row + 1]))

    def between(self, channel: str, start: int, stop: int) -> Track:
        """The track of a stretch of all residues, records one behind the other. Raises KeyError for a channel that is not read."""
        coverage = self._arrays.get(COVERAGE + channel)
        return Track(self._arrays[TRACK + channel][start:stop], None if coverage is None else coverage[start:stop])

    def sample(
        self, rows: Sequence[int], channel: str, most: int = 2_000_000, seen: Callable[[int, Track], Track] = lambda _, track: track
    ) -> tuple[FloatArray, FloatArray | None]:
        """Levels and coverages of the residues of some records that have a value: all, or those of evenly spread records.

        seen: (place in rows, track) to what the channel sees of it.
        """
        step = max(1, int(self._offsets[-1] // most))
        tracks = [seen(i, self[rows[i]][channel]) for i in range(0, len(rows), step)]
        levels = np.concatenate([track.level for track in tracks]) if tracks else np.zeros(0, dtype=np.float32)
        present = ~np.isnan(levels)
        coverages = [track.coverage for track in tracks if track.coverage is not None]
        return levels[present], np.concatenate(coverages)[present] if coverages else None

    def range_of(self, channel: str) -> tuple[float, float]:
        """The smallest and the largest level of all records; NaN if there is none."""
        levels = self._arrays[TRACK + channel]
        parts = [levels[i : i + _RANGE_PART] for i in range(0, len(levels), _RANGE_PART)]
        lows, highs = ([float(end.reduce(part)) for part in parts] for end in (np.fmin, np.fmax))
        return float(np.fmin.reduce(lows, initial=np.nan)), float(np.fmax.reduce(highs, initial=np.nan))


class RowTracks(Mapping[str, Track]):
    """The tracks of a record, or of a stretch of it, in a table: only where they lie. Each track is made when it is asked for, so that
    a document of every record takes no memory for them."""

    __slots__ = ("_table", "start", "stop")

    def __init__(self, table: TrackTable, start: int, stop: int) -> None:
        """start, stop: residues of the table, 0-based."""
        self._table, self.start, self.stop = table, start, stop

    def __getitem__(self, channel: str) -> Track:
        return self._table.between(channel, self.start, self.stop)

    def __iter__(self) -> Iterator[str]:
        return iter(self._table.channels)

    def __len__(self) -> int:
        return len(self._table.channels)

    def part(self, residues: slice) -> RowTracks:
        """The tracks of a stretch of the sequence."""
        start, stop, _ = residues.indices(self.stop - self.start)
        return RowTracks(self._table, self.start + start, self.start + stop)


def part_of(tracks: RecordTracks, residues: slice) -> RecordTracks:
    """The tracks of a stretch of a record's sequence."""
    return tracks.part(residues) if isinstance(tracks, RowTracks) else {name: track.part(residues) for name, track in tracks.items()}


def _spill(path: Path, columns: list[str]) -> tuple[dict[str, FloatArray], np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Each column of lists as one memory-mapped array, and where each row begins (and the last ends)."""
    parts = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    lengths: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = []
    files = {name: tempfile.TemporaryFile() for name in columns}  # noqa: SIM115 (a memory map keeps it)
    for part in parts:
        for batch in pq.ParquetFile(part).iter_batches(_ROWS_PER_BATCH, columns=columns):
            for name, file in files.items():
                lists = batch.column(name)
                values = lists.flatten().to_numpy(zero_copy_only=False)
                file.write(np.ascontiguousarray(values, dtype=np.float32).tobytes())
            if columns:
                lengths.append(pa.compute.list_value_length(batch.column(columns[0])).fill_null(0).to_numpy(zero_copy_only=False))
    pa.default_memory_pool().release_unused()
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]) if lengths else np.zeros(1, dtype=np.int64)
    arrays: dict[str, FloatArray] = {}
    for name, file in files.items():
        size = file.seek(0, 2) // 4
        assert size == offsets[-1], (name, size, offsets[-1])
        # seen as a plain array: slices of a np.memmap carry a dictionary each and take longer to make
        arrays[name] = np.asarray(np.memmap(file, dtype=np.float32, mode="r")) if size else np.zeros(0, dtype=np.float32)
    return arrays, offsets.astype(np.int64)
