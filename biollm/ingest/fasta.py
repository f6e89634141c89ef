"""FASTA into checked records."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import dnaio

from biollm.core.alphabets import DNA_ACCEPTED, DNA_AMBIGUOUS, DNA_FOLD
from biollm.core.errors import DataError


def _isal_faults() -> tuple[type[Exception], ...]:
    """What dnaio's gzip reader raises for damaged data, where the platform has that reader."""
    try:
        from isal.isal_zlib import error
    except ImportError:
        return ()
    return (cast(type[Exception], error),)


_FOREIGN = re.compile(f"[^{DNA_ACCEPTED}]")
# What a damaged or foreign file makes the readers raise.
_BROKEN_FILE = (
    dnaio.exceptions.FileFormatError,
    dnaio.exceptions.UnknownFileFormat,
    EOFError,
    zlib.error,
    *_isal_faults(),
    gzip.BadGzipFile,
    UnicodeDecodeError,
)


@dataclass(frozen=True)
class Contig:
    """One DNA record. `sequence` is upper-case ACGTN; `ambiguous` counts IUPAC codes that became N."""

    name: str
    sequence: str
    ambiguous: int
    file: Path


def read_dna(files: Iterable[Path]) -> list[Contig]:
    """All records of some FASTA files, plain or gzip, in file order.

    The id is the header up to the first white space. Case is folded up, U becomes T, IUPAC codes become N (counted).
    Raises DataError naming file, line and record for letters that no DNA record may hold, an empty record or id, an id that
    stands twice (in one file or two), a file without records, and a damaged or foreign file.
    """
    contigs: dict[str, Contig] = {}
    for file in files:
        found = 0
        try:
            with dnaio.open(file, fileformat="fasta") as reader:
                for record in reader:
                    found += 1
                    name = record.name.split(maxsplit=1)[0] if record.name.strip() else ""
                    if (first := contigs.get(name)) is not None:
                        where = "" if first.file == file else f" (first in {first.file.name})"
                        raise DataError(f"{file}: record id '{name}' stands twice{where}; ids must differ: rename or remove one")
                    contigs[name] = _check(name, record.sequence, file)
        except _BROKEN_FILE as error:
            raise DataError(f"{file}: not a whole FASTA file: {error}; fetch or export it again") from None
        if found == 0:
            raise DataError(f"{file}: holds no FASTA record; expected lines of the form '>id' followed by sequence")
    return list(contigs.values())


def _check(name: str, raw: str, file: Path) -> Contig:
    if not name:
        raise DataError(f"{file}: a record has an empty id ('>' and nothing behind it); give it one")
    sequence = raw.upper()
    if not sequence:
        raise DataError(f"{file}: record '{name}' is empty; remove it or restore its sequence")
    if foreign := _FOREIGN.search(sequence):
        position = foreign.start()
        kind = "; this looks like protein, and ingest.modality is dna" if _looks_like_protein(sequence) else ""
        raise DataError(
            f"{file} line {_line_of(file, name, position)}: record '{name}' holds {raw[position]!r} at position {position + 1}; "
            f"DNA records may hold {DNA_ACCEPTED}{kind}"
        )
    ambiguous = sum(sequence.count(code) for code in DNA_AMBIGUOUS)
    return Contig(name, sequence.translate(DNA_FOLD), ambiguous, file)


def _looks_like_protein(sequence: str) -> bool:
    head = sequence[:1000]
    return sum(letter in "EFILPQ" for letter in head) > 0.05 * len(head)


def _line_of(file: Path, name: str, position: int) -> int | str:
    """The line that holds a position of a record, found by a second reading, which only an error pays for."""
    with file.open("rb") as head:
        opener = gzip.open if head.read(2) == b"\x1f\x8b" else open
    inside, seen = False, 0
    with opener(file, "rt", encoding="utf-8", errors="replace") as text:
        for number, line in enumerate(text, start=1):
            if line.startswith(">"):
                inside = line[1:].split(maxsplit=1)[:1] == [name]
            elif inside:
                seen += len(line.rstrip("\n\r"))
                if seen > position:
                    return number
    return "?"
