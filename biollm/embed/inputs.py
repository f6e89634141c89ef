"""What can be embedded, read in batches: a list, a FASTA or Parquet file, a data frame, the observations of an AnnData.

A table has its strings in one column and may have names in another. Tracks are the columns track_<channel> (lists of numbers, one for each
base), with coverages in coverage_<channel>, as ingest writes them. Memory holds one batch of a file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import dnaio
import numpy as np
import polars as pl
import pyarrow.parquet as pq

from biollm.core.errors import ConfigError, DataError, ResourceError, first_line
from biollm.core.streams import DAMAGE, suffix_of
from biollm.corpus.columns import COVERAGE, TRACK
from biollm.embed.reading import GivenTracks
from biollm.modeling.sequence_files import read_fasta
from biollm.modeling.tracks import Track, as_numbers

COLUMN, ID_COLUMN = "sequence", "id"
_ALL = 1 << 16  # rows of a batch when all are wanted
_PARQUET = {".parquet", ".pq"}
_BROKEN = (*DAMAGE, dnaio.exceptions.FileFormatError, dnaio.exceptions.UnknownFileFormat, UnicodeDecodeError)


@dataclass(frozen=True)
class Batch:
    """Some records. tracks: None where the source has none of the channels that were asked for."""

    ids: list[str]
    texts: list[str]
    tracks: list[GivenTracks] | None


def is_list(source: Any) -> bool:
    """Whether a source is plain strings, and no file or table."""
    return isinstance(source, (Sequence, np.ndarray))


def is_series(source: Any) -> bool:
    """Whether a source is one column, of polars or pandas."""
    return isinstance(source, pl.Series) or (hasattr(source, "iloc") and hasattr(source, "to_list") and not hasattr(source, "columns"))


def read_batches(
    source: Any, rows: int, *, column: str = COLUMN, id_column: str | None = None, channels: Sequence[str] = (), skip: int = 0
) -> Iterator[Batch]:
    """The records of a source in batches of `rows`, but for the first `skip`.

    Names are the FASTA's, those of `id_column` (by default "id" if there is one), an AnnData's obs_names, or else the number of the row.
    Raises ResourceError for a missing file, ConfigError for a form that is not read or a missing column, DataError for what is damaged
    and for an empty cell, naming the row.
    """
    if isinstance(source, (str, Path)):
        yield from _read_file(Path(source), rows, column, id_column, channels, skip)
        return
    frame = _frame(source, column, id_column)
    yield from (_of_table(frame.slice(i, rows), column, id_column, channels, i) for i in range(skip, frame.height, rows))


def gather(source: Any, *, column: str = COLUMN, id_column: str | None = None, channels: Sequence[str] = ()) -> Batch:
    """All records of a source that is a file or a table. Raises as `read_batches` does."""
    found = list(read_batches(source, _ALL, column=column, id_column=id_column, channels=channels))
    tracks = [of_record for batch in found for of_record in batch.tracks or []] if any(batch.tracks for batch in found) else None
    texts = [text for b in found for text in b.texts]
    return Batch([name for b in found for name in b.ids], texts, tracks)


def is_fasta(source: Any) -> bool:
    """Whether a source is a file that is read as FASTA, which is sequences, and not as Parquet, which may hold text."""
    return isinstance(source, (str, Path)) and not Path(source).is_dir() and suffix_of(Path(source)) not in _PARQUET


def track_columns(source: Any) -> list[str]:
    """The tracks that a table or a Parquet file brings, by name; none of what cannot be read."""
    if isinstance(source, (str, Path)):
        path = Path(source)
        part = next(iter(sorted(path.glob("*.parquet"))), path) if path.is_dir() else path
        try:
            names = [] if is_fasta(path) else pq.read_schema(part).names
        except (OSError, ValueError):
            names = []  # told by who reads it
    else:
        names = [str(name) for name in getattr(getattr(source, "obs", source), "columns", [])]
    return [name.removeprefix(TRACK) for name in names if name.startswith(TRACK)]


def _read_file(path: Path, rows: int, column: str, id_column: str | None, channels: Sequence[str], skip: int) -> Iterator[Batch]:
    if not path.exists():
        raise ResourceError(f"{path}: no such file; give a FASTA or Parquet file")
    parts = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    try:
        if not is_fasta(path):
            yield from _read_parquet(path, parts, rows, column, id_column, channels, skip)
        else:
            records = islice(read_fasta(path), skip, None)
            while batch := list(islice(records, rows)):
                yield Batch([name for name, _ in batch], [sequence for _, sequence in batch], None)
    except _BROKEN as error:
        reason = first_line(error)
        raise DataError(f"{path}: neither a whole FASTA nor a whole Parquet file: {reason}; fetch or export it again") from None


def _read_parquet(
    path: Path, parts: list[Path], rows: int, column: str, id_column: str | None, channels: Sequence[str], skip: int
) -> Iterator[Batch]:
    if not parts:
        raise DataError(f"{path}: a folder without .parquet files; expected the parts of one table")
    done, columns = 0, None
    for part in parts:
        try:
            file = pq.ParquetFile(part)
        except (OSError, ValueError) as error:
            raise DataError(f"{part}: not a whole Parquet file: {first_line(error)}; export it again") from None
        with file:
            names = file.schema_arrow.names
            if sorted(names) != (columns := columns or sorted(names)):
                raise DataError(f"{part}: has other columns than {parts[0].name} beside it; the parts of one table have the same")
            _check_columns(str(part), names, column, id_column)
            wanted = [n for n in names if n in _wanted(column, id_column, channels)]
            if done + file.metadata.num_rows <= skip:
                done += file.metadata.num_rows
                continue
            for found in file.iter_batches(rows, columns=wanted):
                behind = max(skip - done, 0)
                if behind < found.num_rows:
                    yield _of_table(pl.DataFrame(found.slice(behind)), column, id_column, channels, done + behind)
                done += found.num_rows


def _frame(source: Any, column: str, id_column: str | None) -> pl.DataFrame:
    """A data frame of any of the libraries, as polars has it, with the names of its rows as ID_COLUMN where it has them."""
    named = {}
    if hasattr(source, "obs_names") and hasattr(source, "obs"):  # AnnData
        named, source = {ID_COLUMN: [str(name) for name in source.obs_names]}, source.obs.reset_index(drop=True)
    if isinstance(source, pl.DataFrame):
        frame = source
    elif hasattr(source, "iloc") and hasattr(source, "columns"):  # pandas
        frame = pl.DataFrame({str(name): _cells(source[name].to_list()) for name in source.columns}, strict=False)
    else:
        raise ConfigError(
            f"a {type(source).__name__} cannot be embedded; expected a list or Series of strings, the path of a FASTA or Parquet file, "
            "a data frame of polars or pandas, or an AnnData"
        )
    if named and ID_COLUMN not in frame.columns:
        frame = frame.with_columns(pl.Series(ID_COLUMN, named[ID_COLUMN]))
    _check_columns("the table", frame.columns, column, id_column)
    return frame


def _cells(values: list[Any]) -> list[Any]:
    """The cells of a column of pandas. In one of arrays, as it reads Parquet's lists, a cell without one is None or NaN."""
    if not any(isinstance(value, np.ndarray) for value in values):
        return values
    return [value.tolist() if isinstance(value, np.ndarray) else value if isinstance(value, list) else None for value in values]


def _check_columns(where: str, names: Sequence[str], column: str, id_column: str | None) -> None:
    for wanted in filter(None, (column, id_column)):
        if wanted not in names:
            raise ConfigError(f"{where}: has no column '{wanted}'; it has {', '.join(names)}; name the right one")


def _wanted(column: str, id_column: str | None, channels: Sequence[str]) -> set[str]:
    return {column, id_column or ID_COLUMN, *(prefix + channel for channel in channels for prefix in (TRACK, COVERAGE))}


def _of_table(table: pl.DataFrame, column: str, id_column: str | None, channels: Sequence[str], first: int) -> Batch:
    if table.schema[column] not in (pl.String, pl.Categorical):
        raise DataError(f"column '{column}' holds {table.schema[column]}, not text; name another column")
    texts = table[column].cast(pl.String).to_list()
    names = table[id_column or ID_COLUMN].cast(pl.String).to_list() if (id_column or ID_COLUMN) in table.columns else [None] * len(texts)
    ids = [f"{first + i}" if name is None else name for i, name in enumerate(names)]
    if missing := [i for i, text in enumerate(texts) if text is None]:
        raise DataError(f"row {first + missing[0] + 1} ({ids[missing[0]]}): column '{column}' is empty; remove the row or fill it")
    present = [channel for channel in channels if TRACK + channel in table.columns]
    return Batch(ids, texts, _tracks(table, present, ids) if present else None)


def _tracks(table: pl.DataFrame, channels: Sequence[str], ids: Sequence[str]) -> list[GivenTracks]:
    """Of each row its tracks; None where all its channels are null. Raises DataError naming the record whose values are no numbers."""
    levels = {c: table[TRACK + c].to_list() for c in channels}
    coverages = {c: table[COVERAGE + c].to_list() if COVERAGE + c in table.columns else [None] * table.height for c in channels}
    rows: list[GivenTracks] = []
    for i, name in enumerate(ids):
        given = {}
        for c in channels:
            if (level := levels[c][i]) is not None:
                counted = coverages[c][i]
                coverage = None if counted is None else as_numbers(counted, f"record {name}: the coverage of track '{c}'")
                given[c] = Track(as_numbers(level, f"record {name}: track '{c}'"), coverage)
        rows.append(given or None)
    return rows
