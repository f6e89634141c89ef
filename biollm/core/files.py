"""Files written whole or not at all, and their digests."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from biollm.core.errors import ConfigError, ResourceError
from biollm.core.progress import say

M = TypeVar("M", bound=BaseModel)
_CHUNK_BYTES = 1 << 20


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes. Raises ResourceError if it may not be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except PermissionError:
        raise ResourceError(f"{path}: cannot be read: permission was denied; give yourself the right to read it") from None
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """Hex sha256 of a JSON value in one canonical spelling (sorted keys, no spaces)."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def canonical_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def files_below(folder: Path) -> list[Path]:
    """Every regular file below `folder`, sorted by its relative path. Links are listed, not followed into folders."""
    return sorted((p for p in folder.rglob("*") if p.is_file() or p.is_symlink()), key=lambda p: p.relative_to(folder).as_posix())


def sync(path: Path) -> None:
    """Push a file's or a folder's content to the disk, so that a power cut after this line loses nothing of it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text_atomic(path: Path, text: str) -> None:
    """Replace `path` by `text`: readers see the old content or the new one, never a part."""
    staged = path.with_name(f".{path.name}.tmp")
    with staged.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    staged.replace(path)
    sync(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write JSON that people can read: sorted keys, two spaces. NaN and infinity raise ValueError."""
    write_text_atomic(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def make_once(file: Path, make: Callable[[Path], None]) -> Path:
    """A file that make(path) writes, unless it is there whole; one that was cut or damaged is made again.

    Beside it stand its sha256, size and time: where size and time are as they were, nothing is read again, however large it is.
    """
    told = file.with_name(f"{file.name}.sha256")
    if file.is_file() and told.is_file():
        before = told.read_bytes().split()
        if before[1:] == _size_and_time(file):
            return file
        if before[:1] == [sha256_file(file).encode()]:
            _tell(file, told)
            return file
        say(f"{file.name} is damaged, and made again")
    file.parent.mkdir(parents=True, exist_ok=True)
    told.unlink(missing_ok=True)
    make(file)
    sync(file)
    _tell(file, told)
    return file


def _tell(file: Path, told: Path) -> None:
    write_text_atomic(told, b" ".join([sha256_file(file).encode(), *_size_and_time(file)]).decode() + "\n")


def _size_and_time(file: Path) -> list[bytes]:
    status = file.stat()
    return [str(status.st_size).encode(), str(status.st_mtime_ns).encode()]


def read_json(path: Path) -> Any:
    """Read a JSON file that the user or an artifact brought.

    Raises ConfigError naming file, line and column if it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid JSON ({error}); restore the file from where it came") from error


def read_sidecar(path: Path, model: type[M]) -> M:
    """Read a JSON file that biollm wrote beside a model. Raises ConfigError naming it if it is damaged or of another version."""
    try:
        return model.model_validate(read_json(path))
    except ValidationError as error:
        detail = error.errors()[0]
        where = ".".join(str(part) for part in detail["loc"])
        raise ConfigError(
            f"{path}: not a file that this version of biollm reads ({where}: {detail['msg']}); make the folder again"
        ) from None
