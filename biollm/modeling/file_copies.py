"""Bytes from file to file: in the kernel where it can, holes as holes."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from typing import BinaryIO

from biollm.core.errors import ResourceError

CHUNK_BYTES = 1 << 24


def copy_bytes(source: BinaryIO, out: BinaryIO, begin: int, length: int) -> None:
    """Append source[begin : begin + length] to `out`, in the kernel where it can; what is a hole there becomes one here."""
    out.flush()
    place = out.tell() - begin
    for first, last in _data_extents(source.fileno(), begin, begin + length):
        _copy_extent(source.fileno(), out.fileno(), first, place + first, last - first, source.name)
    out.seek(place + begin + length)


def _data_extents(source: int, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """The parts of source[begin:end] that are no holes; all of it where the file system does not tell."""
    at = begin
    while at < end:
        try:
            first = os.lseek(source, at, os.SEEK_DATA)
            last = os.lseek(source, first, os.SEEK_HOLE)
        except AttributeError:
            first, last = at, end
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                return
            first, last = at, end
        if first >= end:
            return
        yield first, min(last, end)
        at = last


def _copy_extent(source: int, out: int, begin: int, place: int, length: int, name: str) -> None:
    copy: Callable[..., int] | None = getattr(os, "copy_file_range", None)
    while length:
        done = 0
        if copy is not None:
            try:
                done = copy(source, out, min(length, 1 << 30), begin, place)
            except OSError as error:
                if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM):
                    raise
        if not done:
            copy = None  # not between these file systems
            data = os.pread(source, min(length, CHUNK_BYTES), begin)
            if not data:
                raise ResourceError(f"{name}: became shorter while it was copied; let nothing write to the base folder, and run again")
            done = os.pwrite(out, data, place)
        begin, place, length = begin + done, place + done, length - done
