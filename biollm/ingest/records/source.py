"""The files that records come from: what they are called in messages, and the members of zip archives."""

from __future__ import annotations

import errno
import importlib
import lzma
import re
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from biollm.core.errors import DataError, ResourceError, listed
from biollm.core.streams import suffix_of
from biollm.ingest.records.config import ArchiveOptions

_ZIP = (b"PK\x03\x04", b"PK\x05\x06")  # the second begins an archive of no file
_CHUNK_BYTES = 1 << 20
# What zipfile raises for damaged archives; the last four are no checks of its own, but what fuzzing brought out.
_ZIP_FAULTS = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError, OSError, IndexError, KeyError, OverflowError, struct.error,
)  # fmt: skip
# Signs of a member that no one means: resource forks of macOS, and files that begin with a dot.
_CLUTTER = ("__MACOSX", ".")
_OFFICE = {"xl/workbook.xml": "an Excel workbook", "word/document.xml": "a Word document", "content.xml": "an OpenDocument file"}


class Record(NamedTuple):
    """One example as a reader found it.

    number: where it stands, counted from 1 (a line, row or record; the format says which).
    fields: what labels, groups, ids and, where `sequence` is None, the sequence are taken from, by name.
    drop: why the record is left out, or "".
    """

    number: int
    fields: Mapping[str, Any]
    id: str | None = None
    sequence: str | None = None
    drop: str = ""


@dataclass(frozen=True)
class Source:
    """One file to read. `shown` is its name in messages: that of a zip member is archive.zip::member."""

    path: Path
    shown: str

    def error(self, message: str, number: int | None = None, unit: str = "line") -> DataError:
        return DataError(f"{self.shown}{f' {unit} {number}' if number else ''}: {message}")

    @property
    def suffix(self) -> str:
        return suffix_of(self.path)

    @property
    def stem(self) -> str:
        """The path without the suffixes of its format and compression: "a/train" of "a/train.csv.gz"."""
        name = Path(self.shown.replace("::", "/"))
        at = name.name.lower().rfind(self.suffix) if self.suffix else -1
        return str(name.with_name(name.name[:at] if at > 0 else name.name))


@contextmanager
def open_source(file: Path, options: ArchiveOptions) -> Iterator[Source]:
    """A file, or the member of a zip archive, ready to be read. `archive.zip::member` names a member too.

    A member is copied into a temporary file under a name of our own, never unpacked to its own path.
    Raises DataError for what is no file, is empty, or is no whole archive; names the members where the choice is open.
    """
    archive, _, member = str(file).partition("::")
    path = Path(archive)
    if path.is_dir():
        raise DataError(f"{path}: is a folder; name the files in it, for example {path.name}/*.csv")
    if not path.is_file():
        raise DataError(f"{path}: no such file; mend the path")
    if path.stat().st_size == 0:
        raise DataError(f"{path} line 1: the file is empty; fetch or export it again")
    try:
        with path.open("rb") as head:
            zipped = head.read(4) in _ZIP
    except PermissionError:
        raise ResourceError(f"{path}: cannot be read: permission was denied; give yourself the right to read it") from None
    if not zipped:
        if member:
            raise DataError(f"{path}: holds no member '{member}', because it is not a zip archive; leave out '::{member}'")
        yield Source(path, str(path))
        return
    with tempfile.TemporaryDirectory(prefix="biollm-") as folder:
        name = _choose_member(path, member or options.member)
        suffixes = "".join(PurePosixPath(name).suffixes[-2:])
        staged = Path(folder) / f"member{suffixes if re.fullmatch(r'[.A-Za-z0-9_]{0,20}', suffixes) else ''}"
        _copy_member(path, name, staged, options.max_bytes)
        source = Source(staged, f"{path}::{name}")
        if staged.stat().st_size == 0:
            raise source.error("the file is empty; fetch or export the archive again", 1)
        try:
            yield source
        except DataError as error:  # what reads the copy knows only the copy's name
            raise DataError(str(error).replace(str(staged), source.shown)) from None


def _choose_member(archive: Path, wanted: str | None) -> str:
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [info.filename for info in opened.infolist() if not info.is_dir()]
    except (*_ZIP_FAULTS, NotImplementedError) as error:
        _pass_on_faults_of_the_disk(error)
        raise DataError(f"{archive}: not a whole zip archive: {error}; fetch or export it again") from None
    for part, what in _OFFICE.items():
        if part in members:
            raise DataError(f"{archive}: {what}; save it as CSV or text, and give that file")
    real = [name for name in members if not any(part.startswith(_CLUTTER) for part in PurePosixPath(name).parts)]
    if wanted in members:
        return str(wanted)
    if wanted is None and len(real) == 1:
        return real[0]
    found = f"it holds {listed(real)}" if real else "it holds no file"
    if wanted is None:
        raise DataError(f"{archive}: a zip archive of {len(real)} files; {found}: name one as archive.member, or as {archive.name}::<file>")
    raise DataError(f"{archive}: no member '{wanted}'; {found}: name one of them")


def _copy_member(archive: Path, name: str, target: Path, max_bytes: int) -> None:
    shown = f"{archive}::{name}"
    too_large = f"{shown}: unpacks to more than archive.max_bytes = {max_bytes}; raise the limit if you trust the archive"
    try:
        with zipfile.ZipFile(archive) as opened:
            if opened.getinfo(name).file_size > max_bytes:
                raise DataError(too_large)
            copied = 0
            with opened.open(name) as member, target.open("wb") as copy:
                while chunk := member.read(_CHUNK_BYTES):
                    copied += len(chunk)
                    if copied > max_bytes:
                        raise DataError(too_large)
                    copy.write(chunk)
    except RuntimeError as error:  # what zipfile raises for a member behind a password, or packed in a way it does not know
        raise DataError(f"{shown}: cannot be unpacked: {error}; pack it again with deflate and without a password") from None
    except _ZIP_FAULTS as error:
        _pass_on_faults_of_the_disk(error)
        raise DataError(f"{shown}: the archive is damaged or cut off: {error}; fetch or export it again") from None


def _pass_on_faults_of_the_disk(error: Exception) -> None:
    """Raise it again if it is not the archive's; a damaged directory sends zipfile to a place before the file's beginning (EINVAL)."""
    if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
        raise error


def load_extra(module: str, extra: str) -> Any:
    """An optional package, imported when it is first needed. Raises ResourceError naming the extra that brings it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise ResourceError(
            f"the Python package '{package}' is not installed, and these files need it; install it with: pip install 'biollm[{extra}]'"
        ) from None
