"""skops files with the same bytes for the same model.

skops numbers objects by their memory address (`__id__` in schema.json, and the names of the array files) and stamps the zip
entries with the time of day, so that two dumps of one model differ. Here the numbers are given anew in order of appearance and
the time is fixed. The file stays an ordinary skops file: `skops.io.load(path)`.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import skops.io

_SCHEMA = "schema.json"
_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)


def dump_stable(model: Any, path: Path) -> None:
    """Write a fitted scikit-learn model as a skops file whose bytes depend on the model only."""
    path.write_bytes(renumber(skops.io.dumps(model)))


def renumber(archive: bytes) -> bytes:
    """The skops archive with memory addresses replaced by 0, 1, 2 … in order of appearance, and without times."""
    numbers: dict[str, int] = {}

    def number(address: str) -> int:
        return numbers.setdefault(address, len(numbers))

    def rename(file: str) -> str:
        address, dot, suffix = file.partition(".")
        return f"{number(address)}{dot}{suffix}"

    def rewrite(node: Any) -> Any:
        if isinstance(node, list):
            return [rewrite(item) for item in node]
        if not isinstance(node, dict):
            return node
        # Only a node of skops has an __id__; a parameter of the model that is called "file" is left as it is.
        is_node = "__id__" in node
        return {
            key: number(str(value)) if key == "__id__" else rename(value) if is_node and key == "file" else rewrite(value)
            for key, value in node.items()
        }

    with zipfile.ZipFile(io.BytesIO(archive)) as source:
        schema = rewrite(json.loads(source.read(_SCHEMA)))
        entries = {rename(name): source.read(name) for name in source.namelist() if name != _SCHEMA}
    entries[_SCHEMA] = json.dumps(schema, indent=2).encode()
    stable = io.BytesIO()
    with zipfile.ZipFile(stable, "w", zipfile.ZIP_STORED) as target:
        for name in sorted(entries):
            target.writestr(zipfile.ZipInfo(name, _ZIP_EPOCH), entries[name])
    return stable.getvalue()
