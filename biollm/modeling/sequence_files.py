"""Sequences from files: FASTA, one sequence per line, or a column of a table, checked letter by letter.

The form follows from the name, with or without .gz behind it:
    .fa .fasta .fna .faa .ffn .frn     FASTA; the name of a record is its header up to the first white space
    .csv .tsv .parquet                 a table; `column` says which column
    anything else                      one sequence per line; of a .smi line its first field (a name may follow)
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import dnaio
import polars as pl

from biollm.core.alphabets import ALPHABETS, Alphabet, Modality
from biollm.core.errors import ConfigError, DataError, first_line
from biollm.core.streams import DAMAGE, suffix_of

_FASTA = {".fa", ".fasta", ".fna", ".faa", ".ffn", ".frn"}
_TABLES = {".csv": ",", ".tsv": "\t", ".parquet": ""}


_DAMAGED = (
    dnaio.exceptions.FileFormatError,
    dnaio.exceptions.UnknownFileFormat,
    *DAMAGE,
    UnicodeDecodeError,
    pl.exceptions.PolarsError,
)


@dataclass(frozen=True)
class SequenceRecord:
    """One sequence and where it was read. `sequence` is in the residues of its modality (upper case where case means nothing)."""

    sequence: str
    file: Path
    where: str  # "record 'chr4'", "line 12" or "row 12": for messages


@dataclass(frozen=True)
class SequenceFiles:
    """The sequences of some files, in file order, and how many lines, records or cells were blank."""

    records: list[SequenceRecord]
    blank: int


def read_sequences(files: Iterable[Path], modality: Modality, column: str | None = None) -> SequenceFiles:
    """All sequences of some files, plain or gzip.

    Case is folded up but for SMILES and text; U and T become the modality's own letter, IUPAC codes N; one `*` at the end of a protein
    (the stop) is dropped. Blank lines, and blank or missing cells of a table, are counted, not kept; a text cell gives its lines.
    Raises DataError naming file, line or record, letter and position for a letter that the modality does not have, a FASTA record
    without sequence, a file without sequences and a damaged file; ConfigError for a table without `column`, or with another one.
    """
    alphabet = ALPHABETS[modality]
    records: list[SequenceRecord] = []
    blank = 0
    for file in files:
        before = len(records)
        try:
            for where, raw in _raw_sequences(file, modality, column):
                text = raw if modality == "text" else raw.strip()
                if modality == "protein":
                    text = text.removesuffix("*")
                if not text.strip():
                    blank += 1
                    continue
                if (position := alphabet.foreign(text)) is not None:
                    raise _foreign_letter(file, where, text, position, modality, alphabet)
                records.append(SequenceRecord(alphabet.read(text), file, where))
        except (*_DAMAGED, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the file system's own; polars reports a damaged gzip file as an OSError without a number
            reason = first_line(error)
            raise DataError(f"{file}: not a whole {_form(file)}: {reason}; fetch or export it again") from None
        if len(records) == before:
            raise DataError(f"{file}: holds no {modality} sequence; expected a {_form(file)}")
    return SequenceFiles(records, blank)


def read_fasta(file: Path) -> Iterator[tuple[str, str]]:
    """Name and sequence of each record, as written. Raises DataError for a record without sequence; dnaio's errors pass through."""
    with dnaio.open(file, fileformat="fasta") as reader:
        for record in reader:
            name = record.name.split(maxsplit=1)[0] if record.name.strip() else ""
            if not record.sequence:
                raise DataError(f"{file}: record '{name}' is empty; remove it or restore its sequence")
            yield name, record.sequence


def _raw_sequences(file: Path, modality: Modality, column: str | None) -> Iterator[tuple[str, str]]:
    """Where a sequence stands, and the sequence as written."""
    suffix = suffix_of(file)
    if suffix in _FASTA:
        for name, sequence in read_fasta(file):
            yield f"record '{name}'", sequence
    elif suffix in _TABLES:
        for number, cell in enumerate(_column(file, suffix, column), start=1):
            for line in (cell or "").splitlines() if modality == "text" else [cell or ""]:
                yield f"row {number} (column '{column}')", line
    else:
        with _open_text(file) as lines:
            for number, line in enumerate(lines, start=1):
                bare = line.rstrip("\r\n")
                yield f"line {number}", (bare.split(maxsplit=1) or [""])[0] if suffix == ".smi" else bare


def _column(file: Path, suffix: str, column: str | None) -> list[str | None]:
    if column is None:
        raise ConfigError(f"{file}: a table; say which column holds the sequences, with 'column'")
    if suffix == ".parquet":
        schema = pl.read_parquet_schema(file)
        if column in schema and schema[column] != pl.String:
            raise DataError(f"{file}: column '{column}' holds {schema[column]}, not text; name another column")
        names = list(schema)
    else:
        names = pl.read_csv(file, separator=_TABLES[suffix], n_rows=0, infer_schema=False).columns
    if column not in names:
        raise ConfigError(f"{file}: has no column '{column}'; it has {', '.join(names)}")
    if suffix == ".parquet":
        return pl.read_parquet(file, columns=[column])[column].to_list()
    return pl.read_csv(file, separator=_TABLES[suffix], columns=[column], infer_schema=False)[column].to_list()


def _foreign_letter(file: Path, where: str, text: str, position: int, modality: Modality, alphabet: Alphabet) -> DataError:
    place = f"{file} {where}"
    if where.startswith("record"):
        place = f"{file} line {_line_of(file, where, position)}: {where}"
    return DataError(
        f"{place} holds {text[position]!r} at position {position + 1}; {modality} sequences may hold {alphabet.accepted}"
        f"{' in either case' if alphabet.folds_case else ''}; mend the file, or set another modality"
    )


def _line_of(file: Path, where: str, position: int) -> int | str:
    """The line that holds a position of a FASTA record, found by a second reading, which only an error pays for."""
    inside, seen = False, 0
    with _open_text(file, errors="replace") as text:
        for number, line in enumerate(text, start=1):
            if line.startswith(">"):
                inside = f"record '{(line[1:].split(maxsplit=1) or [''])[0]}'" == where
                seen = 0
            elif inside:
                seen += len(line.rstrip("\n\r"))
                if seen > position:
                    return number
    return "?"


def _open_text(file: Path, errors: str = "strict") -> IO[str]:
    with file.open("rb") as head:
        zipped = head.read(2) == b"\x1f\x8b"
    return cast(IO[str], gzip.open(file, "rt", encoding="utf-8", errors=errors) if zipped else file.open(encoding="utf-8", errors=errors))


def _form(file: Path) -> str:
    suffix = suffix_of(file)
    if suffix in _FASTA:
        return "FASTA file (lines of the form '>id' followed by sequence)"
    return f"{suffix[1:].upper()} table" if suffix in _TABLES else "text file in UTF-8, one sequence per line"
