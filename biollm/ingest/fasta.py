"""FASTA of nucleotides into checked records, at the speed of a reader that checks nothing.

No kept reader does both: pyfastx and needletail accept damaged files and foreign letters, dnaio and Biopython keep digits and NUL bytes as
bases, and none says the line. So a file is read in chunks, and a compiled loop goes through all records of a chunk: it notes where each
begins, and copies their letters, upper-case and checked: a line of the length of the last one, or 64 letters, at a time while all are
A, C, G, T or N; letter by letter where they are not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from biollm.core.alphabets import DNA_ACCEPTED, DNA_AMBIGUOUS
from biollm.core.errors import DataError
from biollm.core.streams import check_head, damage_named, open_binary
from biollm.ingest.config import SequencePolicy
from biollm.ingest.fasta_letters import BEGIN, CR, FULL, IN_HEADER, LF, STRANGE, TABLES, Bytes, copy_letters

_CHUNK_BYTES = 1 << 22
_HEADERS = 4096  # noted at a time


@dataclass(frozen=True)
class Contig:
    """One nucleotide record.

    sequence: (L,) uint8, ASCII of upper-case ACGTN; ambiguous, masked: how many IUPAC codes, and lower-case letters, became N;
    line: of its header, where the format has lines.
    """

    name: str
    sequence: Bytes
    ambiguous: int
    masked: int
    file: Path
    line: int | None = None


def read_contigs(files: Iterable[Path], policy: SequencePolicy) -> Iterator[Contig]:
    """The records of some FASTA files (plain, gzip, bgzip or zstd), in file order, one at a time.

    The id is the header up to the first white space. Lines may end in LF, CRLF or CR; U becomes T; IUPAC codes and lower case are treated
    as the policy says. Raises DataError naming file, line and record for a letter that no DNA record may hold, an empty record or id, an
    id that stands twice (in one file or two), a file without records, and a damaged or foreign file.
    """
    first_in: dict[str, Path] = {}
    for file in files:
        for contig in _read_file(file, policy):
            check_new_name(contig, first_in)
            yield contig


def check_new_name(contig: Contig, first_in: dict[str, Path]) -> None:
    """Raises DataError if a record of this name was read before; first_in: name -> file, to which it is added."""
    if (first := first_in.get(contig.name)) is not None:
        line = f" line {contig.line}" if contig.line else ""
        where = "" if first == contig.file else f" (first in {first.name})"
        raise DataError(f"{contig.file}{line}: record id '{contig.name}' stands twice{where}; ids must differ: rename or remove one")
    first_in[contig.name] = contig.file


def contig_of(name: str, letters: str, file: Path, policy: SequencePolicy) -> Contig:
    """A contig from what another reader gave, checked as a FASTA record is. Raises DataError naming the file and record."""
    reader = _Reader(file, policy, len(letters))
    reader.begin(name, None)
    reader.at_start = False  # letters only: a > is no header
    block = np.frombuffer(letters.encode("ascii", errors="replace"), dtype=np.uint8)
    at, status = reader.read(block, 0)
    if status == STRANGE:
        raise reader.foreign(block, at)
    return reader.finish()


def _read_file(file: Path, policy: SequencePolicy) -> Iterator[Contig]:
    # a human chromosome; pages that are not written cost nothing
    reader = _Reader(file, policy, min(file.stat().st_size + 64, 1 << 28))
    held, first = b"", True
    with damage_named(file), open_binary(file) as stream:
        for raw in _chunks(stream):
            if first:
                check_head(file, raw[:1024])
                raw, first = raw.removeprefix(b"\xef\xbb\xbf"), False
            chunk, held = held + raw, b""
            if chunk.endswith(b"\r"):  # its LF may follow
                chunk, held = chunk[:-1], b"\r"
            block, at = np.frombuffer(chunk, dtype=np.uint8), 0
            if reader.name is None:
                at = reader.before_first(chunk)
            while at < len(chunk):
                at, status = reader.read(block, at)
                yield from reader.finished(chunk)
                if status == STRANGE:
                    raise reader.foreign(block, at)
                if status == IN_HEADER:
                    held, at = chunk[at:] + held, len(chunk)
    if held.startswith(b">"):  # a last header without an end of line
        if reader.name is not None:
            yield reader.finish()
        reader.begin(_name(file, reader.line, held[1:].rstrip(b"\r")), reader.line)
    if reader.name is None:
        raise DataError(f"{file}: holds no FASTA record; expected lines of the form '>id' followed by sequence")
    yield reader.finish()


def _chunks(stream: BinaryIO) -> Iterator[bytes]:
    """Chunks of a stream, the next one read (and decompressed) while the last one is worked on."""
    with ThreadPoolExecutor(1) as reader:
        pending = reader.submit(stream.read, _CHUNK_BYTES)
        while chunk := pending.result():
            pending = reader.submit(stream.read, _CHUNK_BYTES)
            yield chunk


def _name(file: Path, line: int, header: bytes) -> str:
    if b"\0" in header:
        raise DataError(f"{file} line {line}: the header holds a NUL byte; the file is binary or damaged: export it again")
    try:
        text = header.decode()
    except UnicodeDecodeError:
        text = header.decode("latin-1")  # only the id matters, and any byte is a letter of Latin-1
    if not (parts := text.split(maxsplit=1)):
        raise DataError(f"{file} line {line}: a record has an empty id ('>' and nothing behind it); give it one")
    return parts[0]


class _Reader:
    """The letters of the records of a file, one behind the other; the last record may go on in the next block.

    name: of that record, None before the first one; line: the one that is being read; at_start: whether at its start.
    """

    def __init__(self, file: Path, policy: SequencePolicy, room: int) -> None:
        self.name: str | None = None
        self.line, self.at_start = 1, True
        self._file, self._fold = file, policy.soft_mask == "fold"
        self._table = TABLES[policy.iupac == "refuse", policy.soft_mask == "unknown"]
        self._out = np.empty(room, dtype=np.uint8)
        self._start = self._length = 0  # of the last record; of all letters
        self._header_line: int | None = None
        self._given = False
        self._counts, self._begun, self._headers = np.zeros(2, dtype=np.int64), np.empty((_HEADERS, 6), dtype=np.int64), 0

    def before_first(self, chunk: bytes) -> int:
        """Where the first header is, or the end if only blank lines are there. Raises DataError for anything else."""
        at = 0
        while at < len(chunk) and chunk[at] in b"\n\r\t ":
            self.line += chunk[at] == LF or (chunk[at] == CR and chunk[at + 1 : at + 2] != b"\n")
            at += 1
        if at < len(chunk) and chunk[at] != BEGIN:
            kind = "this looks like FASTQ" if chunk[at] == ord("@") else "something stands before the first '>'"
            raise DataError(f"{self._file} line {self.line}: begins with {chr(chunk[at])!r}; a FASTA file begins with '>id' ({kind})")
        return at

    def read(self, block: Bytes, at: int) -> tuple[int, int]:
        """Take the letters of a block from `at` on. Returns where it stopped and why; `finished` must follow."""
        at, self._length, self.line, self.at_start, self._headers, status = copy_letters(
            block, at, self._table, self._fold, self._out, self._length, self.line, self.at_start, self._counts, self._begun
        )
        if status == FULL and 2 * (self._length - self._start) > len(self._out):
            larger = np.empty(2 * len(self._out) + _CHUNK_BYTES, dtype=np.uint8)
            larger[: self._length] = self._out[: self._length]
            self._out = larger
        return at, status

    def finished(self, chunk: bytes) -> Iterator[Contig]:
        """The records that ended where the headers that were just read begin."""
        for begin, end, line, start, ambiguous, masked in self._begun[: self._headers].tolist():
            if self.name is not None:
                yield self._contig(self._out[self._start : start], ambiguous, masked)
            self.begin(_name(self._file, line, chunk[begin + 1 : end]), line)
            self._start = start
        self._headers = 0
        if self._start or self._given:  # what was given away is the caller's now
            last = self._out[self._start : self._length]
            if self._given:
                self._out = np.empty(len(self._out), dtype=np.uint8)
            self._out[: len(last)] = last
            self._start, self._length, self._given = 0, len(last), False

    def begin(self, name: str, line: int | None) -> None:
        self.name, self._header_line = name, line

    def finish(self) -> Contig:
        """The last record."""
        contig = self._contig(self._out[self._start : self._length], *self._counts.tolist())
        self._start, self._counts[:] = self._length, 0
        return contig

    def _contig(self, letters: Bytes, ambiguous: int, masked: int) -> Contig:
        if not len(letters) or (ambiguous > 0.5 * len(letters) and len(letters) >= 10):
            where = f"{self._file}" + (f" line {self._header_line}" if self._header_line else "")
            if not len(letters):
                raise DataError(f"{where}: record '{self.name}' is empty; remove it or restore its sequence")
            raise DataError(
                f"{where}: {ambiguous} of the {len(letters)} letters of record '{self.name}' are IUPAC ambiguity codes; "
                "this looks like protein, and ingest.modality is dna"
            )
        if fills := 2 * len(letters) > len(self._out):
            self._given = True
        assert self.name is not None
        return Contig(self.name, letters if fills else letters.copy(), ambiguous, masked, self._file, self._header_line)

    def foreign(self, block: Bytes, at: int) -> DataError:
        """What is wrong with the letter at which `read` stopped."""
        letter, letters = chr(block[at]), self._out[self._start : self._length]
        context = bytes(letters[-1000:]) + bytes(block[at : at + 1000]).upper()
        hint = ""
        if letter == ">":
            hint = "; the line break before this header is missing"
        elif sum(code in b"EFILPQ" for code in context) > 0.05 * len(context):
            hint = "; this looks like protein, and ingest.modality is dna"
        elif letter.upper() in DNA_AMBIGUOUS:
            hint = "; ingest.policy.iupac refuses ambiguity codes"
        place = f" line {self.line}" if self._header_line else ""
        return DataError(
            f"{self._file}{place}: record '{self.name}' holds {letter!r} at position {len(letters) + 1}; "
            f"DNA records may hold {DNA_ACCEPTED}{hint}"
        )
