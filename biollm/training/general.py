"""Text outside the domain: what is mixed in against forgetting, and what is held out to measure it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from biollm.core.errors import DataError, repeated
from biollm.core.streams import read_lines

_DOCUMENT_CHARACTERS = 2000
_LINE = " line "


def read_documents(files: Iterable[Path]) -> dict[str, str]:
    """Documents of whole lines, up to about 2,000 characters each, by a name that says file and first line. Equal ones are read once."""
    files = list(files)
    above = Path(os.path.commonpath([file.parent for file in files])) if repeated(file.name for file in files) else None
    documents: dict[str, str] = {}
    for file in files:
        named = file.name if above is None else file.relative_to(above).as_posix()
        lines: list[str] = []
        first, size = 1, 0
        for number, line in read_lines(file):
            if not line.strip():
                continue
            if size + len(line) > _DOCUMENT_CHARACTERS and lines:
                documents.setdefault("\n".join(lines), f"{named}{_LINE}{first}")
                lines, first, size = [], number, 0
            lines.append(line)
            size += len(line)
        if lines:
            documents.setdefault("\n".join(lines), f"{named}{_LINE}{first}")
    return {name: text for text, name in documents.items()}


def groups_of(names: Sequence[str]) -> list[str]:
    """The group of each document, by its name: its file, or where all are of one file each its own."""
    files = [name.rpartition(_LINE)[0] for name in names]
    return files if len(set(files)) > 1 else list(names)


def divide(documents: dict[str, str], held_out_fraction: float) -> tuple[dict[str, str], dict[str, str]]:
    """(documents to train on, documents held out): those with the smallest hashes of their text, whatever order they come in.

    Raises DataError if there are not two.
    """
    if len(documents) < 2:
        raise DataError(f"general.text gives {len(documents)} documents, too few to hold some out; name more text")
    by_hash = sorted(documents, key=lambda name: hashlib.sha256(documents[name].encode()).digest())
    chosen = set(by_hash[: min(len(documents) - 1, max(1, round(held_out_fraction * len(documents))))])
    return {n: t for n, t in documents.items() if n not in chosen}, {n: t for n, t in documents.items() if n in chosen}
