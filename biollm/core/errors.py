"""The errors a user can cause. Each message says the place, what was expected, what was found and what to do.

Anything else that is raised is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

import errno
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path


class BiollmError(Exception):
    """Base of every error that a user can cause and mend."""


class ConfigError(BiollmError):
    """A recipe, a command-line option or a model folder asks for something that cannot be."""


class DataError(BiollmError):
    """A record of the input is not what its format or the recipe says."""


class ArtifactError(BiollmError):
    """An artifact is missing, damaged, or made by something else than the recipe at hand."""


class ResourceError(BiollmError):
    """The machine lacks something: a package, disk space, a writable folder."""


def first_line(error: BaseException) -> str:
    """What a library's error says, in one line; its kind where it says nothing.

    >>> first_line(ValueError("no header\\nfound in 3 files")), first_line(ValueError())
    ('no header', 'ValueError')
    """
    return (str(error).splitlines() or [type(error).__name__])[0]


def repeated(names: Iterable[str]) -> list[str]:
    """Those that stand there more than once, in alphabetical order.

    >>> repeated(["b", "a", "c", "b", "a"])
    ['a', 'b']
    """
    return sorted(name for name, number in Counter(names).items() if number > 1)


def listed(names: Sequence[str], most: int = 12) -> str:
    """Some names for a message.

    >>> listed(["a", "b", "c", "d"], most=2)
    'a, b and 2 more'
    """
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


_STORAGE_ERRNOS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would exceed the file-size limit (ulimit -f)",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission was denied",
    errno.EPERM: "permission was denied",
    errno.EEXIST: "a file is in the place of the folder",
    errno.ENOTDIR: "a file is in the place of a folder above it",
}
# What torch.save says of every write that came back short, whatever the system's reason.
_TORCH_WROTE_A_PART = re.compile(r"inline_container\.cc:\d+\] \. unexpected pos \d+ vs \d+")
_CUT_BY_TORCH = "the disk is full, or a quota or the file-size limit (ulimit -f) is reached"


def storage_error(error: BaseException, place: Path) -> ResourceError | None:
    """The one-line error for a write that the file system refused, or None if `error` is something else.

    Libraries in Rust and C++ (safetensors, pyarrow) report the errno only inside their message, so the text is read too; torch does not
    report it at all.
    """
    number = getattr(error, "errno", None)
    if number is None and (found := re.search(r"os error (\d+)|\[errno (\d+)\]", str(error), re.IGNORECASE)):
        number = int(found.group(1) or found.group(2))
    refused = _CUT_BY_TORCH if _TORCH_WROTE_A_PART.search(str(error)) else _STORAGE_ERRNOS.get(number or 0)
    if refused is None:
        return None
    touched = getattr(error, "filename", None)
    if touched and number in (errno.EACCES, errno.EPERM) and not _is_written(Path(str(touched)).absolute(), place.absolute()):
        return ResourceError(f"{touched}: cannot be read: permission was denied; give yourself the right to read it")
    return ResourceError(
        f"{place}: cannot write: {refused}; nothing finished before was changed. "
        "Free space or choose another folder with --out, then run the same command again"
    )


def _is_written(path: Path, place: Path) -> bool:
    """Whether making the artifact `place` writes `path`: folders above it, its own names beside it, the logs, and all below these."""
    if path == place or path in place.parents:
        return True
    if place.parent not in path.parents:
        return False
    name = path.relative_to(place.parent).parts[0]
    return name in (place.name, "logs") or name.startswith(f".{place.name}.")
