"""`biollm predict`: a saved head scores the records of a file, with all that head.json says of how its features were made.

Files are read, scored and written in batches, so that memory does not grow with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from biollm.classify.covariates import NumberColumn
from biollm.core.errors import ConfigError, DataError, ResourceError, first_line, listed, storage_error
from biollm.core.files import sync
from biollm.core.progress import progress
from biollm.core.streams import DAMAGE, suffix_of
from biollm.corpus.columns import COVERAGE, TRACK
from biollm.embed.inputs import COLUMN, ID_COLUMN, read_batches
from biollm.ingest.records.config import RecordOptions
from biollm.ingest.records.source import Source
from biollm.ingest.records.tables import SEPARATORS, find_separator
from biollm.predictor import Predictor, Records

ROWS = 2048  # as the stage embed reads them
_CSV, _PARQUET = (".csv", ".tsv", ".tab"), (".parquet", ".pq")


@dataclass(frozen=True)
class PredictJob:
    """A file to score, and where to. rows: records held at once; bounds memory and changes no score by more than 1e-6."""

    source: Path
    out: Path
    column: str = COLUMN
    id_column: str | None = None
    rows: int = ROWS


def predict_file(predictor: Predictor, job: PredictJob) -> int:
    """Score every record of a FASTA, Parquet or CSV file into a Parquet or CSV file, whole or not at all. Returns their number.

    Raises ConfigError for another suffix, a missing column, and a folder or the input itself in the place of the output; DataError for a
    record that cannot be read or an input without records; ResourceError if there is no such file, or if the file system refuses a write.
    """
    if job.out.suffix not in (*_PARQUET, ".csv"):
        raise ConfigError(f"{job.out}: predictions are written as Parquet or CSV; give a name that ends in .parquet or .csv")
    if job.out.is_dir():
        raise ConfigError(f"{job.out}: is a folder; give the name of a file to write")
    if job.out.exists() and job.source.exists() and job.out.samefile(job.source):
        raise ConfigError(f"{job.out}: is the input, which the predictions would replace; give another name")
    try:
        job.out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, job.out) or error from None
    staged = job.out.with_name(f".{job.out.name}.tmp")
    written = 0
    try:
        with _writer(staged, job.out.suffix) as write:
            for records in progress(read_records(predictor, job), f"predictions for {job.source.name}", unit="batch"):
                write(predictor.table(records))
                written += len(records.ids)
        if not written:
            raise DataError(f"{job.source}: holds no record; give a file with records")
        sync(staged)
        staged.replace(job.out)
        sync(job.out.parent)
    except OSError as error:
        raise storage_error(error, job.out) or error from None
    finally:
        staged.unlink(missing_ok=True)
    return written


def read_records(predictor: Predictor, job: PredictJob) -> Iterator[Records]:
    """The records of a file in batches of up to `job.rows`, with what the head reads of them. Raises as `predict_file` says."""
    path, suffix = job.source, suffix_of(job.source)
    if not path.exists():
        raise ResourceError(f"{path}: no such file; give a FASTA, Parquet or CSV file")
    if not path.is_dir() and suffix not in (*_CSV, *_PARQUET):
        if predictor.columns:
            wanted = ", ".join(predictor.columns)
            form = "Parquet" if any(name.startswith((TRACK, COVERAGE)) for name in predictor.columns) else "Parquet or CSV"
            raise DataError(f"{path}: a FASTA file holds sequences only, but the head reads {wanted} too; give a {form} table")
        for batch in read_batches(path, job.rows):
            yield Records.of(batch.texts, batch.ids)
        return
    begin = 0
    for frame in _frames(path, suffix, predictor, job):
        if (job.id_column or ID_COLUMN) not in frame.columns:
            frame = frame.with_columns(pl.Series(ID_COLUMN, [str(i) for i in range(begin, begin + frame.height)]))
        for batch in read_batches(frame, frame.height, column=job.column, id_column=job.id_column, channels=predictor.channels):
            yield Records(batch.ids, batch.texts, frame, batch.tracks)
        begin += frame.height


def _frames(path: Path, suffix: str, predictor: Predictor, job: PredictJob) -> Iterator[pl.DataFrame]:
    """A table in pieces of up to `job.rows`, with the columns that are read."""
    parts = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not parts:
        raise DataError(f"{path}: a folder without .parquet files; expected the parts of one table")
    named = {name: pa.string() for name in (job.column, job.id_column or ID_COLUMN)}
    optional = [ID_COLUMN] if job.id_column is None else []
    columns, encoder = predictor.columns, predictor.head.card.covariates
    kinds = {c.name: pa.float64() if isinstance(c, NumberColumn) else pa.string() for c in encoder.columns} if encoder else {}
    try:
        for part in parts:
            if suffix in _CSV:
                separator = SEPARATORS[find_separator(Source(part, str(part)), RecordOptions())]
                parse = pyarrow.csv.ParseOptions(delimiter=separator)
                with pyarrow.csv.open_csv(part, parse_options=parse) as reader:
                    kept = _kept(part, reader.schema.names, [*named, *columns], optional)
                # pyarrow guesses the type of a column from its beginning, so those that nobody reads must not be converted
                convert = pyarrow.csv.ConvertOptions(include_columns=kept, column_types=named | kinds)
                with pyarrow.csv.open_csv(part, convert_options=convert, parse_options=parse) as reader:
                    for block in reader:
                        yield from pl.DataFrame(block).iter_slices(job.rows)
            else:
                with pq.ParquetFile(part) as file:
                    coverages = [COVERAGE + name for name in predictor.channels]
                    kept = _kept(part, file.schema_arrow.names, [*named, *columns, *coverages], [*optional, *coverages])
                    for block in file.iter_batches(job.rows, columns=kept):
                        yield pl.DataFrame(block)
    except (pa.ArrowInvalid, *DAMAGE) as error:
        raise DataError(f"{path}: not a whole table: {first_line(error)}; mend it, or export it again") from None


def _kept(path: Path, have: list[str], wanted: list[str], optional: list[str]) -> list[str]:
    if missing := [name for name in wanted if name not in have and name not in optional]:
        raise DataError(
            f"{path}: has no column {', '.join(missing)}, which the head reads; it has {listed(have)}; add it, or name another column "
            "of sequences with --column"
        )
    return [name for name in dict.fromkeys(wanted) if name in have]


@contextmanager
def _writer(path: Path, suffix: str) -> Iterator[Callable[[pl.DataFrame], None]]:
    """What appends a table to a Parquet or CSV file; all have the columns of the first."""
    if suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as text:
            yield lambda table: table.write_csv(text, include_header=text.tell() == 0)
        return
    with ExitStack() as stack:
        writers: list[pq.ParquetWriter] = []

        def write(table: pl.DataFrame) -> None:
            rows = table.to_arrow(compat_level=pl.CompatLevel.oldest())
            if not writers:
                writers.append(stack.enter_context(pq.ParquetWriter(path, rows.schema, compression="zstd")))
            writers[0].write_table(rows)

        yield write
