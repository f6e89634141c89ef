"""FASTA of nucleotides into checked records, at the speed of a reader that checks nothing.

No kept reader does both: pyfastx and needletail accept damaged files and foreign letters, dnaio and Biopython keep digits and NUL bytes as
bases, and none says the line. So a file is read in chunks, and a compiled loop goes through all records of a chunk: it notes where each
begins, and copies their letters, upper-case and checked: a line of the length of the last one, or 64 letters, at a time while all are
A, C, G, T or N; letter by letter where they are not. A thread reads, unpacks and checks the next chunk while the caller works on the
records of the last one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from biollm.core.alphabets import DNA_ACCEPTED, DNA_AMBIGUOUS
from biollm.core.errors import DataError
from biollm.core.streams import check_head, damage_named, open_binary
from biollm.ingest.config import SequencePolicy
from biollm.ingest.fasta_letters import BEGIN, CR, IN_HEADER, LF, STRANGE, TABLES, Bytes, copy_letters

_CHUNK_BYTES = 1 << 20
_AHEAD = 2  # blocks that are made while the caller works on one
_HEADERS = 4096  # noted at a time
_MOST_ROOM = 1 << 28  # a human chromosome; pages that are not written cost nothing


class Contig(NamedTuple):
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
    record = _Record(file, len(letters))
    record.begin(name, None)
    blocks = _Blocks(file, policy, iter([letters.encode("ascii", errors="replace")]), in_record=True)
    if (block := blocks.next()) is None:
        return record.finish(np.empty(0, dtype=np.uint8), 0, 0)
    if block.strange:
        record.append(block.letters)
        raise record.foreign(block)
    return record.finish(block.letters, *block.counts)


def _read_file(file: Path, policy: SequencePolicy) -> Iterator[Contig]:
    record, block = _Record(file, min(file.stat().st_size, _MOST_ROOM)), None
    with damage_named(file), open_binary(file) as stream, ThreadPoolExecutor(1) as thread:
        blocks = _Blocks(file, policy, _chunks(file, stream))
        ahead = deque(thread.submit(blocks.next) for _ in range(_AHEAD))
        while (following := ahead.popleft().result()) is not None:
            block, start = following, 0
            ahead.append(thread.submit(blocks.next))
            for begin, end, line, place, ambiguous, masked in block.headers:
                if record.name is not None:
                    yield record.finish(block.letters[start:place], ambiguous, masked)
                record.begin(_name(file, line, block.text[begin + 1 : end]), line)
                start = place
            record.append(block.letters[start:])
            if block.strange:
                raise record.foreign(block)
    if block is None or record.name is None:
        raise DataError(f"{file}: holds no FASTA record; expected lines of the form '>id' followed by sequence")
    yield record.finish(np.empty(0, dtype=np.uint8), *block.counts)


def _chunks(file: Path, stream: BinaryIO) -> Iterator[bytes]:
    if head := stream.read(_CHUNK_BYTES):
        check_head(file, head[:1024])
        yield head.removeprefix(b"\xef\xbb\xbf")
    while chunk := stream.read(_CHUNK_BYTES):
        yield chunk


def _name(file: Path, line: int, header: bytes) -> str:
    if b"\0" in header:
        raise DataError(f"{file} line {line}: the header holds a NUL byte; the file is binary or damaged: export it again")
    text: str | bytes = header
    if not header.isascii():
        try:
            text = header.decode()
        except UnicodeDecodeError:
            text = header.decode("latin-1")  # only the id matters, and any byte is a letter of Latin-1
    if not (parts := text.split(maxsplit=1)):
        raise DataError(f"{file} line {line}: a record has an empty id ('>' and nothing behind it); give it one")
    return parts[0] if isinstance(parts[0], str) else parts[0].decode()


@dataclass(frozen=True)
class _Block:
    """What the compiled loop found in a piece of a file.

    text: the piece; letters: of all records in it, one behind the other; headers: of each its begin and end in `text`, its line, how many
    of `letters` stand before it, and the counts [ambiguous, masked] of the record that ends there; counts: of the last record, up to here;
    line: where the piece ends; strange: the text from a letter on that may not stand there, empty if there is none.
    """

    text: bytes
    letters: Bytes
    headers: list[list[int]]
    counts: tuple[int, int]
    line: int
    strange: bytes


class _Blocks:
    """The blocks of a file, in order; chunks: its text; in_record: whether it begins inside a record, with letters."""

    def __init__(self, file: Path, policy: SequencePolicy, chunks: Iterator[bytes], in_record: bool = False) -> None:
        self._file, self._chunks, self._fold = file, chunks, policy.soft_mask == "fold"
        self._table = TABLES[policy.iupac == "refuse", policy.soft_mask == "unknown"]
        self._text, self._at, self._held = b"", 0, b""  # held: for the next chunk to complete
        self._line, self._at_start, self._begun = 1, not in_record, in_record
        self._counts, self._headers = np.zeros(2, dtype=np.int64), np.empty((_HEADERS, 6), dtype=np.int64)

    def next(self) -> _Block | None:
        """The next block, or None behind the last. Raises DataError for text before the first header."""
        while self._at == len(self._text):
            if (chunk := next(self._chunks, b"")) == b"":
                if not self._held.startswith(b">"):
                    return None
                chunk = b"\n"  # a last header without an end of line
            self._text, self._at, self._held = self._held + chunk, 0, b""
            if self._text.endswith(b"\r"):  # its LF may follow
                self._text, self._held = self._text[:-1], b"\r"
            if not self._begun:
                self._skip_blank()
        text, letters = np.frombuffer(self._text, dtype=np.uint8), np.empty(len(self._text) - self._at, dtype=np.uint8)
        at, length, self._line, self._at_start, headers, status = copy_letters(
            text, self._at, self._table, self._fold, letters, self._line, self._at_start, self._counts, self._headers
        )
        strange = b""
        if status == STRANGE:
            strange, at, self._chunks, self._held = self._text[at:], len(self._text), iter(()), b""
        elif status == IN_HEADER:
            self._held, at = self._text[at:] + self._held, len(self._text)
        self._at, (ambiguous, masked) = at, self._counts.tolist()
        return _Block(self._text, letters[:length], self._headers[:headers].tolist(), (ambiguous, masked), self._line, strange)

    def _skip_blank(self) -> None:
        """Go on to the first header. Raises DataError for anything but blank lines before it."""
        text = self._text
        while self._at < len(text) and text[self._at] in b"\n\r\t ":
            self._line += text[self._at] == LF or (text[self._at] == CR and text[self._at + 1 : self._at + 2] != b"\n")
            self._at += 1
        if self._at < len(text):
            self._begun = True
            if text[self._at] != BEGIN:
                kind = "this looks like FASTQ" if text[self._at] == ord("@") else "something stands before the first '>'"
                found = repr(chr(text[self._at]))
                raise DataError(f"{self._file} line {self._line}: begins with {found}; a FASTA file begins with '>id' ({kind})")


class _Record:
    """The record that is being read. name: None before the first one; room: how many letters it may have without a new buffer."""

    def __init__(self, file: Path, room: int) -> None:
        self.name: str | None = None
        self._line: int | None = None
        self._file, self._held, self._length = file, np.empty(room, dtype=np.uint8), 0

    def begin(self, name: str, line: int | None) -> None:
        self.name, self._line = name, line

    def append(self, letters: Bytes) -> None:
        length = self._length + len(letters)
        if length > len(self._held):
            larger = np.empty(2 * length, dtype=np.uint8)
            larger[: self._length] = self._held[: self._length]
            self._held = larger
        self._held[self._length : length] = letters
        self._length = length

    def finish(self, last: Bytes, ambiguous: int, masked: int) -> Contig:
        """The record with its last letters. Raises DataError for an empty one, and for one that looks like protein."""
        letters = self._with(last) if self._length else last.copy()
        if not len(letters) or (ambiguous > 0.5 * len(letters) and len(letters) >= 10):
            where = f"{self._file}" + (f" line {self._line}" if self._line else "")
            if not len(letters):
                raise DataError(f"{where}: record '{self.name}' is empty; remove it or restore its sequence")
            raise DataError(
                f"{where}: {ambiguous} of the {len(letters)} letters of record '{self.name}' are IUPAC ambiguity codes; "
                "this looks like protein, and ingest.modality is dna"
            )
        assert self.name is not None
        return Contig(self.name, letters, ambiguous, masked, self._file, self._line)

    def _with(self, last: Bytes) -> Bytes:
        self.append(last)
        letters, self._length = self._held[: self._length], 0
        if 2 * len(letters) < len(self._held):
            return letters.copy()
        self._held = np.empty(len(self._held), dtype=np.uint8)  # the other one is the caller's now
        return letters

    def foreign(self, block: _Block) -> DataError:
        """What is wrong with the letter at which a block ends, whose letters were appended."""
        letter = chr(block.strange[0])
        context = bytes(self._held[max(0, self._length - 1000) : self._length]) + block.strange[:1000].upper()
        hint = ""
        if letter == ">":
            hint = "; the line break before this header is missing"
        elif sum(code in b"EFILPQ" for code in context) > 0.05 * len(context):
            hint = "; this looks like protein, and ingest.modality is dna"
        elif letter.upper() in DNA_AMBIGUOUS:
            hint = "; ingest.policy.iupac refuses ambiguity codes"
        place = f" line {block.line}" if self._line else ""
        return DataError(
            f"{self._file}{place}: record '{self.name}' holds {letter!r} at position {self._length + 1}; "
            f"DNA records may hold {DNA_ACCEPTED}{hint}"
        )
