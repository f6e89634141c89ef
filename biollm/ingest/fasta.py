"""FASTA of nucleotides into checked records, at the speed of a reader that checks nothing.

No kept reader does both: pyfastx and needletail accept damaged files and foreign letters, dnaio and Biopython keep digits and NUL bytes as
bases, and none says the line. So a file is read in chunks, and a compiled loop copies its letters, upper-case and checked: a line
of the length of the last one, or 64 letters, at a time while all are A, C, G, T or N; letter by letter where they are not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numba
import numpy as np
from numpy.typing import NDArray

from biollm.core.alphabets import DNA_ACCEPTED, DNA_AMBIGUOUS, DNA_FOLD
from biollm.core.errors import DataError
from biollm.core.streams import check_head, damage_named, open_binary
from biollm.ingest.config import SequencePolicy

Bytes = NDArray[np.uint8]
_CHUNK_BYTES = 1 << 22
_FOREIGN, _SKIPPED = 0, 1
_END, _HEADER, _STRANGE, _FULL = range(4)
_CR, _LF, _BEGIN = 13, 10, ord(">")


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
    record = _Record(name, file, policy, np.empty(len(letters), dtype=np.uint8))
    record.copy(np.frombuffer(letters.encode("ascii", errors="replace"), dtype=np.uint8), 0, 0, False)
    return record.finish()


def _read_file(file: Path, policy: SequencePolicy) -> Iterator[Contig]:
    record: _Record | None = None
    room = np.empty(min(file.stat().st_size + 64, 1 << 28), dtype=np.uint8)  # a human chromosome; pages that are not written cost nothing
    line, held, first, at_start = 1, b"", True, True
    with damage_named(file), open_binary(file) as stream:
        for raw in _chunks(stream):
            if first:
                check_head(file, raw[:1024])
                raw, first = raw.removeprefix(b"\xef\xbb\xbf"), False
            chunk, held = held + raw, b""
            if chunk.endswith(b"\r"):  # its LF may follow
                chunk, held = chunk[:-1], b"\r"
            block, at = np.frombuffer(chunk, dtype=np.uint8), 0
            while at < len(chunk):
                if record is None:
                    at, line, begins = _before_first(file, chunk, at, line)
                else:
                    at, line, at_start, begins = record.copy(block, at, line, at_start)
                if not begins:
                    continue
                if (end := _line_end(chunk, at)) < 0:
                    held, at = chunk[at:] + held, len(chunk)
                    continue
                if record is not None:
                    contig, room = record.finish(), record.left_room()
                    yield contig
                    del contig  # the caller's now
                record = _Record(_name(file, line, chunk[at + 1 : end]), file, policy, room, line)
                at, line, at_start = end + (2 if chunk[end : end + 2] == b"\r\n" else 1), line + 1, True
    if held.startswith(b">"):  # a last header without an end of line
        if record is not None:
            yield record.finish()
        record = _Record(_name(file, line, held[1:].rstrip(b"\r")), file, policy, room, line)
    if record is None:
        raise DataError(f"{file}: holds no FASTA record; expected lines of the form '>id' followed by sequence")
    yield record.finish()


def _chunks(stream: BinaryIO) -> Iterator[bytes]:
    """Chunks of a stream, the next one read (and decompressed) while the last one is worked on."""
    with ThreadPoolExecutor(1) as reader:
        pending = reader.submit(stream.read, _CHUNK_BYTES)
        while chunk := pending.result():
            pending = reader.submit(stream.read, _CHUNK_BYTES)
            yield chunk


def _before_first(file: Path, chunk: bytes, at: int, line: int) -> tuple[int, int, bool]:
    """Skip blank lines before the first header. Raises DataError for anything else there."""
    while at < len(chunk) and chunk[at] in b"\n\r\t ":
        line += chunk[at] == _LF or (chunk[at] == _CR and chunk[at + 1 : at + 2] != b"\n")
        at += 1
    if at < len(chunk) and chunk[at] != _BEGIN:
        kind = "this looks like FASTQ" if chunk[at] == ord("@") else "something stands before the first '>'"
        raise DataError(f"{file} line {line}: begins with {chr(chunk[at])!r}; a FASTA file begins with '>id' ({kind})")
    return at, line, at < len(chunk)


def _line_end(chunk: bytes, at: int) -> int:
    """Where the line ends that `at` is in, or -1 if that is not in this chunk."""
    end, carriage = chunk.find(b"\n", at), chunk.find(b"\r", at, at + 10_000)
    return carriage if carriage >= 0 and (end < 0 or carriage < end) else end


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


class _Record:
    """A record while it is being read, into `room`."""

    def __init__(self, name: str, file: Path, policy: SequencePolicy, room: Bytes, line: int | None = None) -> None:
        self.name, self.file, self.line = name, file, line
        self._policy = policy
        self._table = _TABLES[policy.iupac == "refuse", policy.soft_mask == "unknown"]
        self._out = room
        self._length, self._counts = 0, np.zeros(2, dtype=np.int64)

    def copy(self, block: Bytes, at: int, line: int, at_start: bool) -> tuple[int, int, bool, bool]:
        """Take the letters of a block from `at` on, up to its end or the next header. Returns (at, line, at_start, a header begins)."""
        fold = self._policy.soft_mask == "fold"
        while True:
            at, self._length, line, at_start, status = _copy(
                block, at, self._table, fold, self._out, self._length, line, at_start, self._counts
            )
            if status == _STRANGE:
                raise self._foreign(block, at, line)
            if status != _FULL:
                return at, line, at_start, status == _HEADER
            larger = np.empty(2 * len(self._out) + _CHUNK_BYTES, dtype=np.uint8)
            larger[: self._length] = self._out[: self._length]
            self._out = larger

    def finish(self) -> Contig:
        where = f"{self.file}" + (f" line {self.line}" if self.line else "")
        ambiguous, masked = self._counts.tolist()
        if not self._length:
            raise DataError(f"{where}: record '{self.name}' is empty; remove it or restore its sequence")
        if ambiguous > 0.5 * self._length and self._length >= 10:
            raise DataError(
                f"{where}: {ambiguous} of the {self._length} letters of record '{self.name}' are IUPAC ambiguity codes; "
                "this looks like protein, and ingest.modality is dna"
            )
        sequence = self._out[: self._length]
        return Contig(self.name, sequence if self._fills() else sequence.copy(), ambiguous, masked, self.file, self.line)

    def left_room(self) -> Bytes:
        """Room for the next record: this one's, if that was copied out of it."""
        return np.empty(len(self._out), dtype=np.uint8) if self._fills() else self._out

    def _fills(self) -> bool:
        return 2 * self._length > len(self._out)

    def _foreign(self, block: Bytes, at: int, line: int) -> DataError:
        letter = chr(block[at])
        context = bytes(self._out[max(0, self._length - 1000) : self._length]) + bytes(block[at : at + 1000]).upper()
        hint = ""
        if letter == ">":
            hint = "; the line break before this header is missing"
        elif sum(code in b"EFILPQ" for code in context) > 0.05 * len(context):
            hint = "; this looks like protein, and ingest.modality is dna"
        elif letter.upper() in DNA_AMBIGUOUS:
            hint = "; ingest.policy.iupac refuses ambiguity codes"
        place = f" line {line}" if self.line else ""
        return DataError(
            f"{self.file}{place}: record '{self.name}' holds {letter!r} at position {self._length + 1}; "
            f"DNA records may hold {DNA_ACCEPTED}{hint}"
        )


def _table(refuse: bool, mask: bool) -> Bytes:
    """What each byte becomes. refuse: IUPAC codes are foreign; mask: lower case becomes N."""
    table = np.full(256, _FOREIGN, dtype=np.uint8)
    table[[_LF, _CR, ord(" "), ord("\t")]] = _SKIPPED
    for letter in DNA_ACCEPTED:
        if not (refuse and letter in DNA_AMBIGUOUS):
            table[ord(letter)] = ord(letter.translate(DNA_FOLD))
            table[ord(letter.lower())] = ord("N") if mask else table[ord(letter)]
    return table


_TABLES = {(refuse, mask): _table(refuse, mask) for refuse in (False, True) for mask in (False, True)}


@numba.njit(nogil=True, cache=True, boundscheck=False)  # type: ignore[misc,unused-ignore]
def _copy(block, at, table, fold, out, length, line, at_start, counts):  # type: ignore[no-untyped-def]
    """Copy letters from block[at:] to out[length:]. Returns (at, length, line, at_start, status); counts: [ambiguous, masked].

    A guess: the next line is as long as the last one. If what would be its line end is one, and everything before it is A, C, G, T or N,
    it is copied without looking at single letters; the copy is taken back by not advancing `length`.
    """
    mask = np.uint8(0xDF if fold else 0xFF)
    size, room, guess = len(block), len(out), 0
    line_start = at
    while at < size:
        if at_start and block[at] == _BEGIN:
            return at, length, line, True, _HEADER
        run = guess if at_start and guess > 0 else 64
        if at + run < size and length + run <= room and (run == 64 or block[at + run] == _LF or block[at + run] == _CR):
            source, target = block[at : at + run], out[length : length + run]  # slices: no negative index, so the loop is vectorised
            strange = np.uint8(0)
            for k in range(run):
                letter = source[k] & mask
                target[k] = letter
                strange |= np.uint8((letter != 65) & (letter != 67) & (letter != 71) & (letter != 84) & (letter != 78))
            if strange == 0:
                at, length, at_start = at + run, length + run, False
                if run == 64 and block[at] != _LF and block[at] != _CR:
                    continue
        if length >= room:
            return at, length, line, at_start, _FULL
        # letter by letter, to the end of the line or the next 64 letters
        stop = min(size, at + 64)
        while at < stop:
            byte = block[at]
            if at_start and byte == _BEGIN:
                return at, length, line, True, _HEADER
            value = table[byte]
            if value == _FOREIGN:
                return at, length, line, at_start, _STRANGE
            if value == _SKIPPED:
                at_start = byte in (_LF, _CR)
                if not at_start and at + 1 < size and table[block[at + 1]] != _SKIPPED:
                    return at, length, line, at_start, _STRANGE  # white space is allowed at the end of a line only
                if at_start:
                    guess = at - line_start
                    if byte == _CR and at + 1 < size and block[at + 1] == _LF:
                        at += 1
                    line, line_start = line + 1, at + 1
                at += 1
                if at_start:
                    break
                continue
            if length >= room:
                return at, length, line, at_start, _FULL
            if value == 78 and byte & np.uint8(0xDF) != 78:
                counts[1 if byte >= 97 and not fold else 0] += 1
            out[length] = value
            length, at, at_start = length + 1, at + 1, False
    return at, length, line, at_start, _END
