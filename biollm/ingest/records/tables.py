"""Labelled tables: CSV and its kin, ARFF, Parquet.

Text tables go through the standard library's csv module: it knows the line a row begins at, and a row with too few fields, which
polars fills with nulls without a word.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase

import pyarrow as pa
import pyarrow.parquet as pq

from biollm.core.errors import DataError, first_line, listed, repeated
from biollm.core.streams import check_head, read_lines
from biollm.ingest.records.config import RecordOptions
from biollm.ingest.records.source import Record, Source

SEPARATORS = {"tab": "\t", "semicolon": ";", "comma": ",", "pipe": "|"}
_ARFF_ATTRIBUTE = re.compile(r"@attribute\s+('(?:[^'\\]|\\.)*'|\"[^\"]*\"|\S+)\s+(.+)", re.IGNORECASE)


def find_separator(source: Source, options: RecordOptions) -> str:
    """The name of the separator of a text table: as the options say, or the one that gives the first line most fields."""
    if options.table.separator != "auto":
        return options.table.separator
    if source.suffix == ".tsv":
        return "tab"
    for number, line in read_lines(source.path):
        if number > options.table.skip_lines and line.strip():
            counts = {name: len(next(csv.reader([line], delimiter=sign))) for name, sign in SEPARATORS.items()}
            return max(counts, key=lambda name: (counts[name], name == "comma"))
    return "comma"


def read_table(source: Source, options: RecordOptions) -> Iterator[Record]:
    """Rows of a text table, its columns as fields; the number is the line a row begins at.

    Raises DataError for a row with more or fewer fields than the header, a quote that is not closed, two columns of one name.
    """
    sign = SEPARATORS[find_separator(source, options)]
    lines = ((number, line) for number, line in read_lines(source.path) if number > options.table.skip_lines)
    header: list[str] = []
    for number, row in _csv_rows(source, lines, options.table.skip_lines, delimiter=sign):
        if not header:
            if not row:
                continue
            header = _header(source, row, number) if options.table.header else [f"column_{i}" for i in range(1, len(row) + 1)]
            if options.table.header:
                continue
        if not row and len(header) > 1:
            continue
        row = row or [""]
        if len(row) != len(header):
            raise source.error(
                f"{len(row)} fields, but the first line has {len(header)} (separator {sign!r}); "
                "quote a field that holds the separator, say another one as table.separator, or pass over a preface with table.skip_lines",
                number,
            )
        yield Record(number, dict(zip(header, row, strict=True)))


def _csv_rows(source: Source, lines: Iterable[tuple[int, str]], skipped: int, **dialect: str | bool) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(sys.maxsize)  # the default refuses fields over 131,072 letters; sequences are longer
    rows = csv.reader((line + "\n" for _, line in lines), strict=True, **dialect)  # type: ignore[arg-type]
    while True:
        start = rows.line_num + 1 + skipped
        try:
            row = next(rows, None)
        except csv.Error as error:
            reason = "a quote is opened and not closed" if "unexpected end" in str(error) else str(error)
            raise source.error(f"{reason}; write a quote inside a field twice, and quote the whole field", start) from None
        if row is None:
            return
        yield start, row


def _header(source: Source, row: list[str], number: int) -> list[str]:
    names = [name.strip() or f"column_{i}" for i, name in enumerate(row, start=1)]  # pandas leaves the name of its index blank
    if twice := repeated(names):
        raise source.error(f"several columns are called {listed(twice)}; rename them, so that each has its own name", number)
    return names


def read_arff(source: Source, options: RecordOptions) -> Iterator[Record]:
    """Rows of a dense ARFF file, its attributes as fields, ? as missing; the number is the row's line.

    Raises DataError for a row with more or fewer fields than attributes, sparse rows, and a file without @data.
    """
    header: list[str] = []
    lines = read_lines(source.path)
    for number, line in lines:
        text = line.strip()
        if not text or text.startswith("%") or text.lower().startswith("@relation"):
            continue
        if text.lower().startswith("@data"):
            break
        found = _ARFF_ATTRIBUTE.match(text)
        if not found:
            raise source.error(f"found {text[:30]!r}; expected '@attribute name type' or '@data': mend the line", number)
        header.append(found.group(1).strip("'\""))
    else:
        raise source.error("no @data line, so no rows; export the file again as ARFF", 1)
    if not header:
        raise source.error("no @attribute before @data; export the file again as ARFF", 1)
    _header(source, header, 1)
    for number, line in lines:
        text = line.strip()
        if not text or text.startswith("%"):
            continue
        if text.startswith("{"):
            raise source.error("a sparse row ({index value, …}); export the file with dense rows", number)
        quote = "'" if "'" in text else '"'
        ((_, row),) = _csv_rows(source, [(number, text)], number - 1, quotechar=quote, escapechar="\\", skipinitialspace=True)
        if len(row) != len(header):
            raise source.error(f"{len(row)} fields for {len(header)} attributes; quote a field that holds a comma", number)
        yield Record(number, {name: None if value.strip() == "?" else value for name, value in zip(header, row, strict=True)})


def read_parquet(source: Source, options: RecordOptions) -> Iterator[Record]:
    """Rows of a Parquet file, its columns as fields; the number is that of the row. Raises DataError for what is no whole Parquet file."""
    with source.path.open("rb") as head:
        start = head.read(1024)
    if not start.startswith(b"PAR1"):
        check_head(source.path, start)
        raise source.error("not a Parquet file (it does not begin with PAR1); fetch or export it again, or say its format", 1, "row")
    try:
        with pq.ParquetFile(source.path) as opened:
            names = opened.schema_arrow.names
            if twice := repeated(names):
                raise source.error(f"several columns are called {listed(twice)}; rename them, so that each has its own name")
            number = 0
            for batch in opened.iter_batches(batch_size=8192, columns=_needed(names, options)):
                for row in batch.to_pylist():
                    number += 1
                    yield Record(number, row)
    except (pa.ArrowException, OSError, ValueError, UnicodeDecodeError) as error:
        if isinstance(error, DataError) or (isinstance(error, OSError) and error.errno is not None):
            raise
        reason = first_line(error)[:160]
        raise source.error(f"not a whole Parquet file: {reason}; fetch or export it again", 1, "row") from None


def _needed(names: list[str], options: RecordOptions) -> list[str] | None:
    """The columns that the options name, or None (all) where they leave one open or name one that is not there."""
    patterns = [options.sequence] if isinstance(options.sequence, str) else options.sequence
    if patterns is None or not set(options.columns().values()) <= set(names):
        return None
    parts = [matching(pattern, names) for pattern in patterns]
    return None if not all(parts) else sorted({*options.columns().values(), *(name for part in parts for name in part)}, key=names.index)


def matching(pattern: str, names: Iterable[str]) -> list[str]:
    """The column of that name, or all that fit it where it holds a *, in the order of the table."""
    names = list(names)
    return [pattern] if pattern in names else [name for name in names if "*" in pattern and fnmatchcase(name, pattern)]


def read_smi(source: Source, options: RecordOptions) -> Iterator[Record]:
    """Molecules of a .smi file: SMILES, white space, and a name, which is the id where it is there; the number is the line.

    A first line that begins with the word smiles is a header. ChemAxon's extensions (|…| behind the SMILES) are left out.
    """
    for number, line in read_lines(source.path):
        text = line.strip()
        if not text or (number == 1 and text.split()[0].lower() in ("smiles", "smi", "#smiles")):
            continue
        smiles, _, name = text.replace("\t", " ").partition(" ")
        name = re.sub(r"^\|[^|]*\|", "", name.strip()).strip()
        yield Record(number, {"name": name or None}, name or None, smiles)
