"""Opening text files of any make: plain, gzip, bgzip and zstd; LF, CRLF and CR; and the refusal of what is no text at all.

A damaged archive, another encoding or a web page in place of the data raises DataError with file and line; nothing is cut in silence.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

import zstandard

from biollm.core.errors import DataError

try:  # twice as fast as the standard library; not on every platform
    from isal import igzip, isal_zlib
except ImportError:
    igzip = None

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_BGZF_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
_COMPRESSED = {".gz", ".bgz", ".bgzf", ".zst"}
DAMAGE: tuple[type[Exception], ...] = (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError, *((isal_zlib.error,) if igzip else ()))
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_BOM = b"\xef\xbb\xbf"
# Beginnings of files that are often taken for something else: what they are, by their first bytes.
_FOREIGN = {
    b"PK\x03\x04": "a zip archive",
    b"BAM\x01": "a BAM file",
    b"CRAM": "a CRAM file",
    b"\x89HDF": "an HDF5 file",
    b"PAR1": "a Parquet file",
    b"%PDF": "a PDF",
    b"\x1aE\xdf\xa3": "a media file",
}
_READ_BYTES = 1 << 22
# What a compressed file may unpack to. Genomes shrink 4-fold, tables of methylation up to 30-fold, gigabytes of one letter 1,000-fold
# (gzip) to 30,000-fold (zstd); below the first limit any ratio is harmless, since nobody here holds a file whole.
_ANY_RATIO_BYTES, _MAX_RATIO, _MAX_BYTES = 1 << 28, 200, 1 << 40
_ZSTD_STEP_BYTES = 1 << 12  # unpacks to 128 MiB at most: a block of 4 bytes may hold 128 KiB; 8 % slower than steps of 1 MiB


def suffix_of(file: Path) -> str:
    """The suffix that says what a file holds, in lower case and without that of its compression.

    >>> suffix_of(Path("x.CSV.gz"))
    '.csv'
    """
    suffixes = [suffix.lower() for suffix in file.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


@contextmanager
def damage_named(file: Path) -> Iterator[None]:
    """Turn what the libraries raise for a damaged archive into a DataError that names the file."""
    try:
        yield
    except DAMAGE as error:
        raise DataError(f"{file}: the compressed file is damaged or cut off: {error}; fetch or export it again") from None


def open_binary(file: Path) -> BinaryIO:
    """The bytes of a file, decompressed. The kind of compression is read from the content, not from the name.

    All members of a gzip file are read, their checksums checked, and what stands behind the last one refused. A bgzip file without its end
    block is refused: it was cut at a block border, which no checksum shows. Raises DataError; reading may raise what `damage_named` names,
    and DataError for a file that unpacks to more than 1 TiB, or to more than 256 MiB and 200 times its own size.
    """
    with file.open("rb") as raw:
        head = raw.read(18)
        if head[:2] == _GZIP and head[12:16] == b"BC\x02\x00":
            raw.seek(max(0, file.stat().st_size - len(_BGZF_END)))
            if raw.read() != _BGZF_END:
                raise DataError(f"{file}: the bgzip file has no end block, so its end is missing; fetch or export it again")
    if head[:2] == _GZIP:
        return cast(BinaryIO, _Capped(file, igzip.open(file, "rb") if igzip else gzip.open(file, "rb")))
    if head[:4] == _ZSTD:
        return cast(BinaryIO, _Capped(file, _WholeZstd(file)))
    return file.open("rb")


def is_compressed(file: Path) -> bool:
    """Whether `open_binary` unpacks the file."""
    with file.open("rb") as raw:
        head = raw.read(4)
    return head[:2] == _GZIP or head == _ZSTD


class _Source(Protocol):
    def read(self, size: int, /) -> bytes: ...

    def close(self) -> None: ...


class _Capped(io.RawIOBase):
    """An unpacked stream that ends in DataError once it is larger than any real file of its compressed size."""

    def __init__(self, file: Path, unpacked: _Source) -> None:
        self._file, self._unpacked, self._read = file, unpacked, 0
        self._packed = file.stat().st_size
        self._most = min(_MAX_BYTES, max(_ANY_RATIO_BYTES, _MAX_RATIO * self._packed))

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            return self.readall()
        found = self._unpacked.read(size)
        self._read += len(found)
        if self._read > self._most:
            raise DataError(
                f"{self._file}: the compressed file of {self._packed:,} bytes unpacks to more than {self._most:,}, as no real data does (a "
                f"decompression bomb?); if you trust it, unpack it with gzip -dk or zstd -dk, and give the plain file"
            )
        return found

    def readinto(self, buffer: Any, /) -> int:
        found = self.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)

    def close(self) -> None:
        self._unpacked.close()
        super().close()


class _WholeZstd:
    """A zstd file of any number of frames; the library gives a cut-off last frame without a word, so its end is checked."""

    def __init__(self, file: Path) -> None:
        self._file = file.open("rb")
        self._piece, self._at, self._rest = b"", 0, b""
        self._decompressor = zstandard.ZstdDecompressor().decompressobj()

    def read(self, size: int, /) -> bytes:
        parts, wanted = list[bytes](), size
        while wanted and (self._at < len(self._piece) or self._unpack()):
            parts.append(self._piece[self._at : self._at + wanted])
            self._at += len(parts[-1])
            wanted -= len(parts[-1])
        return b"".join(parts)

    def _unpack(self) -> bool:
        """Whether there is a further piece; it may be empty."""
        if not (chunk := self._rest or self._file.read(_ZSTD_STEP_BYTES)):
            if not self._decompressor.eof:
                raise EOFError("the last zstd frame has no end")
            return False
        if self._decompressor.eof:
            self._decompressor = zstandard.ZstdDecompressor().decompressobj()
        self._piece, self._at = self._decompressor.decompress(chunk), 0
        self._rest = self._decompressor.unused_data if self._decompressor.eof else b""
        return True

    def close(self) -> None:
        self._file.close()


def check_head(file: Path, head: bytes) -> None:
    """Refuse what a text file does not begin with: another encoding, a web page, a binary format. Raises DataError."""
    if head.startswith(_UTF16):
        raise DataError(f"{file} line 1: the file is UTF-16; save it as UTF-8 (for example: iconv -f UTF-16 -t UTF-8)")
    for start, what in _FOREIGN.items():
        if head.startswith(start):
            raise DataError(f"{file} line 1: the file is {what}, not text; export it as text, or unpack it")
    begin = head.removeprefix(_BOM).lstrip()[:512].lower()
    if begin.startswith((b"<!doctype html", b"<html", b"<head")):
        raise DataError(
            f"{file} line 1: the file is a web page (an error page of the server?), not data; download it again and look into it"
        )


def read_blocks(file: Path, size: int = 1 << 24) -> Iterator[tuple[int, bytes]]:
    """Whole lines of a text file in blocks of about `size` bytes, each with the number of its first line (from 1).

    Lines end in LF, whatever they ended in; a UTF-8 byte order mark is skipped; the last line ends in LF too.
    Raises DataError naming file and line for a damaged archive, another encoding than UTF-8, a NUL byte, a web page or a binary file.
    """
    number, rest, first = 1, b"", True
    with damage_named(file), open_binary(file) as stream:
        while True:
            chunk = stream.read(size)
            if first:
                check_head(file, chunk[:1024])
                chunk, first = chunk.removeprefix(_BOM), False
            block = rest + chunk
            if not block:
                return
            if b"\r" in block:
                if chunk and block.endswith(b"\r"):  # its LF may follow
                    block, held = block[:-1], b"\r"
                else:
                    held = b""
                block = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            else:
                held = b""
            end = block.rfind(b"\n") + 1
            if not chunk:
                block, rest = (block if block.endswith(b"\n") else block + b"\n"), b""
            else:
                block, rest = block[:end], block[end:] + held
            if block:
                _check_text(file, number, block)
                yield number, block
                number += block.count(b"\n")
            if not chunk:
                return


def read_lines(file: Path) -> Iterator[tuple[int, str]]:
    """Number (from 1) and content of each line, without its ending. Raises as `read_blocks`."""
    for first, block in read_blocks(file, _READ_BYTES):
        yield from enumerate(block.decode().removesuffix("\n").split("\n"), start=first)


def fasta_records(lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str | None, str]]:
    """Line number of the header, header (without ">") and sequence of each record in FASTA lines, without white space around lines.

    Text before the first header comes line by line, with None for a header: callers refuse it in their own words.
    """
    start, header, parts = 0, "", list[str]()
    for number, line in lines:
        if line.startswith(">"):
            if start:
                yield start, header, "".join(parts)
            start, header, parts = number, line[1:].strip(), []
        elif start:
            parts.append(line.strip())
        elif line.strip():
            yield number, None, line.strip()
    if start:
        yield start, header, "".join(parts)


def _check_text(file: Path, first: int, block: bytes) -> None:
    if (position := block.find(b"\0")) >= 0:
        line = first + block.count(b"\n", 0, position)
        raise DataError(f"{file} line {line}: a NUL byte; the file is binary or damaged: export it again as UTF-8 text")
    if block.isascii():
        return
    try:
        block.decode()
    except UnicodeDecodeError as error:
        line = first + block.count(b"\n", 0, error.start)
        raise DataError(
            f"{file} line {line}: byte 0x{block[error.start]:02X} is not UTF-8 (Latin-1?); save the file as UTF-8 "
            "(for example: iconv -f LATIN1 -t UTF-8)"
        ) from None
