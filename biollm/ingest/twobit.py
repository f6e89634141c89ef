"""UCSC's 2bit genomes. py2bit decodes them, but checks nothing, so the structure is checked here first.

A file is, in little-endian numbers of 4 bytes where nothing else is said:
    header   signature, version, number of sequences, reserved
    index    of each sequence: length of its name (1 byte), name, offset
    record   bases; number of N blocks, their starts, their lengths; the same of masked blocks; reserved; 4 bases a byte
"""

from __future__ import annotations

import shutil
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from biollm.core.errors import DataError
from biollm.core.streams import damage_named, is_compressed, open_binary

SIGNATURE = 0x1A412743
_REMEDY = "fetch it again, or make it again with faToTwoBit"


def read_twobit(file: Path) -> Iterator[tuple[str, str]]:
    """Name and letters of each sequence, in the order of the index; masked bases in lower case.

    A compressed file (gzip, bgzip, zstd) is unpacked into a temporary one. Raises DataError naming the file, and the sequence where there
    is one, for a file that is no 2bit or not whole.
    """
    import py2bit

    with _plain(file) as plain:
        names = check_twobit(plain, str(file))
        try:
            genome = py2bit.open(str(plain), True)
        except RuntimeError:
            raise DataError(f"{file}: not a whole 2bit file; {_REMEDY}") from None
        try:
            for name in names:
                yield name, genome.sequence(name)
        finally:
            genome.close()


def first_name(file: Path) -> str:
    with _plain(file) as plain:
        return check_twobit(plain, str(file))[0]


@contextmanager
def _plain(file: Path) -> Iterator[Path]:
    if not is_compressed(file):
        yield file
        return
    with tempfile.TemporaryDirectory(prefix="biollm-") as folder:
        plain = Path(folder) / "genome.2bit"
        with damage_named(file), open_binary(file) as packed, plain.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)
        yield plain


def check_twobit(file: Path, shown: str) -> list[str]:
    """The names in the index of a 2bit file, whose every part lies inside it. shown: what messages call it. Raises DataError."""
    with file.open("rb") as stream:
        numbers = _Numbers(stream, file.stat().st_size, shown)
        head = stream.read(4)
        if head != struct.pack("<I", SIGNATURE):
            raise DataError(f"{shown}: begins with {head!r}, not with the signature of 2bit (1A412743, little-endian); {_REMEDY}")
        version, count, _ = numbers.at(4, 3, "the header").tolist()
        if version != 0:
            raise DataError(f"{shown}: version {version} of 2bit; expected 0: make the file again with faToTwoBit, without -long")
        if count == 0:
            raise DataError(f"{shown}: holds no sequence; {_REMEDY}")
        places, end_of_index = _read_index(numbers, count)
        for name, place in places.items():
            if place < end_of_index:
                raise DataError(
                    f"{shown}: sequence '{name}' begins at byte {place:,}, inside the index, which ends at {end_of_index:,}; {_REMEDY}"
                )
            _check_record(numbers, place, f"sequence '{name}'")
    return list(places)


class _Numbers:
    """The numbers of a file; those behind its end raise DataError."""

    def __init__(self, stream: BinaryIO, size: int, shown: str) -> None:
        self.stream, self.shown, self._size = stream, shown, size

    def at(self, place: int, count: int, what: str) -> NDArray[np.int64]:
        self.check_end(place + 4 * count, what)
        self.stream.seek(place)
        return np.frombuffer(self.stream.read(4 * count), dtype="<u4").astype(np.int64)

    def check_end(self, end: int, what: str) -> None:
        if end > self._size:
            raise DataError(f"{self.shown}: {what} would end at byte {end:,}, but the file has {self._size:,}: it is cut off; {_REMEDY}")


def _read_index(numbers: _Numbers, count: int) -> tuple[dict[str, int], int]:
    """Where each sequence begins, and where the index ends."""
    places: dict[str, int] = {}
    at = 16
    for number in range(1, count + 1):
        numbers.stream.seek(at)
        length = (numbers.stream.read(1) or b"\0")[0]
        name = numbers.stream.read(length).decode("latin-1")
        place = int(numbers.at(at + 1 + length, 1, f"name {number} of {count} in the index")[0])
        if not name.strip() or not name.isprintable() or not name.isascii() or name in places:
            raise DataError(
                f"{numbers.shown}: name {number} in the index is {name!r}, which is empty, not printable ASCII, or there twice; {_REMEDY}"
            )
        places[name] = place
        at += 5 + length
    return places, at


def _check_record(numbers: _Numbers, place: int, what: str) -> None:
    bases, place = int(numbers.at(place, 1, what)[0]), place + 4
    for kind in ("N", "masked"):
        blocks = int(numbers.at(place, 1, what)[0])
        starts, lengths = numbers.at(place + 4, 2 * blocks, f"the {kind} blocks of {what}").reshape(2, -1)
        if (starts + lengths > bases).any() or (starts[1:] < starts[:-1] + lengths[:-1]).any():
            raise DataError(f"{numbers.shown}: the {kind} blocks of {what} overlap or lie beyond its {bases:,} bases; {_REMEDY}")
        place += 4 + 8 * blocks
    numbers.check_end(place + 4 + -(-bases // 4), what)
