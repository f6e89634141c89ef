"""Tables for the audit from files, and its findings for a terminal."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import ValidationError
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from biollm.core.errors import ConfigError, DataError, first_line, listed, repeated, storage_error
from biollm.core.files import sync, write_json
from biollm.core.streams import fasta_records, read_blocks, read_lines, suffix_of
from biollm.corpus.audit import Audit, AuditOptions, audit, order_splits
from biollm.corpus.sides import ROW_NAME

_FASTA = {".fa", ".fasta", ".fna", ".faa", ".ffn", ".frn"}
_SEPARATORS = {".csv": ",;\t|", ".tsv": "\t", ".txt": "\t,;|"}
_JSON_LINES = {".jsonl", ".ndjson"}
_READABLE = "CSV, TSV, JSONL, Parquet or FASTA (each but Parquet also compressed)"
_VERDICTS = {
    "clean": "clean: nothing found that would make scores too good",
    "warnings": "warnings: no leak beyond the tolerance, but look at the lines above",
    "leaks": "LEAKS: scores on these splits would be too good; mend the splits first",
}

_NOT_COMPARED = (
    "NO SPLITS WERE COMPARED, because all rows are of one: name the column of the splits with --split (in a recipe: audit.split), or give "
    "a file for each split"
)
_ONE_SPLIT = {
    "clean": f"nothing found within the rows; {_NOT_COMPARED}",
    "warnings": f"warnings: look at the lines above; {_NOT_COMPARED}",
    "leaks": f"LEAKS: see the lines above; {_NOT_COMPARED}",
}


def audit_files(files: Sequence[Path], settings: dict[str, Any], out: Path | None, width: int | None = None) -> tuple[str, bool]:
    """Read, audit, write to `out` if it is given. settings: of AuditOptions. Returns the findings as text, and whether there are leaks.

    Raises ConfigError for a setting that cannot be, and what `read_tables` and `audit` raise.
    """
    try:
        options = AuditOptions.model_validate(settings)
    except ValidationError as error:
        detail = error.errors()[0]
        raise ConfigError(f"--{detail['loc'][0]} {detail['input']}: {detail['msg']}") from None
    table, options = read_tables(files, options)
    found = audit(table, options)
    if out is not None:
        try:
            write_audit(out, found)
        except OSError as error:
            raise storage_error(error, out) or error from None
    return render_audit(found, width), found.verdict == "leaks"


def read_tables(files: Sequence[Path], options: AuditOptions) -> tuple[pl.DataFrame, AuditOptions]:
    """The rows of some files as one table, and the options that fit it.

    One file: a table with a column of splits (or without: then only what lies within it is looked at). Several files: each is a split,
    named after the file (`train` of train.csv.gz), in the order of `options.splits`, or by name; if no name says which is for training, the
    first is. A FASTA record gives `id`, the sequence, and `header` (the whole line) where it says more. Every value of a CSV is text. Rows
    without ids: "<file>:<number>".
    Raises DataError and ConfigError naming the file: not there, of no known form, damaged, without the columns; two files of one name.
    """
    stems = [file.name.split(".")[0] for file in files]
    if twice := repeated(stems):
        raise ConfigError(f"several files are called {listed(twice)}; each file is a split: give them names that differ")
    tables = [_read(file, options) for file in files]
    for file, table in zip(files, tables, strict=True):
        if options.sequence not in table.columns:
            have = ", ".join(table.columns)
            raise DataError(f"{file}: has no column '{options.sequence}'; it has {have}; name the column of the sequences with --sequence")
    if options.id is None and not all("id" in table.columns for table in tables):
        number = pl.int_range(1, pl.len() + 1)
        tables = [
            table.with_columns(pl.format("{}:{}", pl.lit(file.name), number).alias(ROW_NAME))
            for file, table in zip(files, tables, strict=True)
        ]
    if any("header" in table.columns for table, file in zip(tables, files, strict=True) if suffix_of(file) in _FASTA):
        options = options.model_copy(update={"headers": (*options.headers, "header")})
    tables = [_with_positions(table, file, options) for file, table in zip(files, tables, strict=True)]
    if len(files) == 1:
        return tables[0], options
    tables = [table.with_columns(pl.lit(stem).alias("split")) for stem, table in zip(stems, tables, strict=True)]
    try:
        names = order_splits(stems, options.splits)
    except DataError:
        if options.splits:
            raise
        names = stems
    table = pl.concat(tables, how="diagonal_relaxed")
    return table, options.model_copy(update={"split": "split", "splits": tuple(names)})


def write_audit(folder: Path, found: Audit) -> None:
    """audit.json and audit_examples.parquet in a folder, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    staged = folder / ".audit_examples.parquet.tmp"
    found.examples.write_parquet(staged)
    sync(staged)
    staged.replace(folder / "audit_examples.parquet")
    write_json(folder / "audit.json", found.to_facts())


def render_audit(found: Audit, width: int | None = None) -> str:
    """The findings as text for a terminal, an example each, the verdict below. width: default the terminal's."""
    rows = ", ".join(f"{count:,} {name}" for name, count in found.rows.items())
    verdict = _VERDICTS[found.verdict] if len(found.rows) > 1 else _ONE_SPLIT[found.verdict]
    table = Table(title=f"Audit of {rows} rows", box=box.SIMPLE_HEAD)
    table.add_column("severity", no_wrap=True)
    table.add_column("finding")
    table.add_column("examples")
    for finding in found.findings:
        text = finding.sentence + (f"\n-> {finding.remedy}" if finding.remedy and finding.severity != "info" else "")
        pairs = [f"{one} ({split}) ~ {other} ({other_split})" for one, split, other, other_split, _ in finding.examples[:3]]
        table.add_row(finding.severity.upper() if finding.severity == "leak" else finding.severity, escape(text), escape("\n".join(pairs)))
    console = Console(width=width)
    with console.capture() as captured:
        console.print(table)
        console.print(escape(verdict), highlight=False)
    return captured.get().rstrip()


def _read(file: Path, options: AuditOptions) -> pl.DataFrame:
    if not file.is_file():
        raise DataError(f"{file}: no such file; give a table ({_READABLE})")
    suffix = suffix_of(file)
    try:
        if suffix == ".parquet":
            table = pl.read_parquet(file)
        elif suffix in _FASTA:
            table = _read_fasta(file, options.sequence)
        elif suffix in _SEPARATORS:
            table = _read_separated(file, _SEPARATORS[suffix])
        elif suffix in _JSON_LINES:
            table = _read_json_lines(file)
        else:
            raise DataError(f"{file}: '{suffix}' is no known kind of table; give {_READABLE}")
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{file}: not a whole table: {first_line(error)}; mend it, or export it again") from None
    if table.height == 0:
        raise DataError(f"{file}: has no rows; give a table with a sequence a row")
    return table


def _read_separated(file: Path, separators: str) -> pl.DataFrame:
    content = b"".join(block for _, block in read_blocks(file))
    first = content.split(b"\n", 1)[0].decode()
    if not first.strip():
        raise DataError(f"{file} line 1: empty; expected the names of the columns")
    separator = max(separators, key=first.count)  # the first of equals: the one that the suffix names
    return pl.read_csv(io.BytesIO(content), separator=separator, infer_schema=False)


def _read_json_lines(file: Path) -> pl.DataFrame:
    rows = []
    for number, line in read_lines(file):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{file} line {number}: not JSON ({error.msg}); expected one object a line") from None
        if not isinstance(row, dict):
            raise DataError(f"{file} line {number}: a JSON {type(row).__name__}; expected an object of columns")
        rows.append(row)
    return pl.DataFrame(rows, infer_schema_length=None)


def _read_fasta(file: Path, column: str) -> pl.DataFrame:
    headers: list[str] = []
    sequences: list[str] = []
    for number, header, sequence in fasta_records(read_lines(file)):
        if header is None:
            raise DataError(f"{file} line {number}: sequence before the first '>'; expected a FASTA file")
        headers.append(header)
        sequences.append(sequence)
    ids = [(header.split(maxsplit=1) or [""])[0] for header in headers]
    columns = {"id": ids, column: sequences} | ({"header": headers} if headers != ids else {})
    return pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))


def _with_positions(table: pl.DataFrame, file: Path, options: AuditOptions) -> pl.DataFrame:
    """The table with numbers for the positions that a text file brought as text."""
    text = [name for name in (options.start_0based, options.end) if name in table.columns and table[name].dtype == pl.String]
    for name in text:
        numbers = table[name].cast(pl.Int64, strict=False)
        if numbers.null_count() > table[name].null_count():
            row = (numbers.is_null() & table[name].is_not_null()).arg_true()[0]
            raise DataError(f"{file} row {row + 1}: '{name}' is {table[name][row]!r}; expected a whole number of bases, counted from 0")
        table = table.with_columns(numbers.alias(name))
    return table
