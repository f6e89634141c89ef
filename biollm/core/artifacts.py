"""Artifacts: folders that are either whole or not there.

    results/<recipe>/
        ingest/                 an artifact: its files and manifest.json
        .ingest.partial/        being written; renamed to ingest/ when whole
        .ingest.replaced/       the previous artifact during the instant of the exchange
        .ingest.lock            held while a process works on the stage; the kernel frees it however that process dies
        .pretrain.work/<key>/   what a killed run may continue from; removed when the artifact is whole. Where a stage sealed
                                a part of it, that is hours of work: then a run with another key is refused

A manifest has two digests. The **key** says what the artifact was made from (stage, config, seed, code, inputs): an artifact
whose key is the wanted one is not made again. The **digest** says what is in it: the files' names and contents.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from biollm.core.errors import ArtifactError, ConfigError, storage_error
from biollm.core.files import files_below, read_json, sha256_file, sha256_json, sync, write_json
from biollm.core.machine import describe_machine, peak_memory_mib

SEAL = "seal.json"  # in a folder within the work of a stage: sha256 of its files, written last
_MADE_FROM = "made_from.json"
MANIFEST = "manifest.json"
SCHEMA_VERSION = 1
# Some libraries write files that only their owner may read; results are for the whole lab.
_FILE_MODE = 0o644
# The packages whose versions can change a result; they are recorded with every artifact.
_RECORDED_PACKAGES = (
    "biollm", "torch", "transformers", "tokenizers", "deepspeed", "accelerate", "peft", "safetensors", "numpy",
    "polars", "pyarrow", "dnaio", "scikit-learn", "xgboost", "skops", "altair",
)  # fmt: skip


class Manifest(BaseModel):
    """What an artifact is, what it was made from, and what it cost. `manifest.json` in every artifact folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int
    stage: str
    key: str
    digest: str
    config: dict[str, Any]
    seed: int
    inputs: dict[str, str]
    files: dict[str, str]
    facts: dict[str, Any]
    reproducibility: str
    versions: dict[str, str]
    machine: dict[str, Any]
    wall_seconds: float
    peak_memory_mib: float
    manifest_sha256: str


@dataclass(frozen=True)
class Artifact:
    """A finished stage: its folder and manifest."""

    folder: Path
    manifest: Manifest

    @property
    def digest(self) -> str:
        return self.manifest.digest

    @property
    def facts(self) -> dict[str, Any]:
        return self.manifest.facts


def content_digest(files: dict[str, str]) -> str:
    """The digest of an artifact from the sha256 of each of its files, by relative path."""
    return sha256_json(files)


def open_artifact(folder: Path) -> Artifact:
    """Open an artifact and check every byte of it against its manifest.

    Raises ArtifactError naming the file if one is missing, added or changed, or if the manifest itself was changed.
    """
    remedy = f"remove the folder {folder} and run again"
    path = folder / MANIFEST
    if not path.is_file():
        raise ArtifactError(f"{folder}: no artifact here ({MANIFEST} is missing); {remedy}")
    try:
        values = read_json(path)
        manifest = Manifest.model_validate(values)
    except (ConfigError, ValidationError):
        raise ArtifactError(f"{path}: not a manifest that this version of biollm wrote; {remedy}") from None
    if _manifest_sha256(values) != manifest.manifest_sha256:
        raise ArtifactError(f"{path}: changed after it was written (its own sha256 differs); {remedy}")
    found = {file.relative_to(folder).as_posix(): file for file in files_below(folder) if file != path}
    if unlike := sorted(found.keys() ^ manifest.files.keys()):
        state = "was added" if unlike[0] in found else "is missing"
        raise ArtifactError(f"{folder / unlike[0]}: {state} after the artifact was written; {remedy}")
    for name, file in found.items():
        if not file.is_file() or sha256_file(file) != manifest.files[name]:
            raise ArtifactError(f"{file}: changed after it was written (sha256 differs from the manifest's); {remedy}")
    return Artifact(folder, manifest)


def make_artifact(
    folder: Path,
    *,
    stage: str,
    key: str,
    config: dict[str, Any],
    seed: int,
    inputs: dict[str, str],
    reproducibility: str,
    fill: Callable[[Path, Path], dict[str, Any]],
    decides: dict[str, Any] | None = None,
) -> Artifact:
    """Make an artifact whole or not at all.

    decides: the part of the config that decides the result, all of it if None; what differs elsewhere keeps no run from going on.

    fill(out, work) writes the files into `out` and returns the facts for the manifest; `work` keeps what a killed run may
    continue from, and is empty for another key. An older artifact in `folder` stays until the new one is whole.
    Raises ArtifactError if a run with another key was cut and left sealed work, naming what differs; ResourceError if the file
    system refuses a write; whatever `fill` raises passes through.
    """
    started = time.monotonic()
    partial, replaced = folder.with_name(f".{folder.name}.partial"), folder.with_name(f".{folder.name}.replaced")
    works = folder.with_name(f".{folder.name}.work")
    work = works / key[:16]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_name(f".{folder.name}.lock"), stage):
            if replaced.exists() and not folder.exists():
                replaced.rename(folder)  # killed between the two renames below
            made_from = {"config": config if decides is None else decides, "seed": seed, "inputs": inputs}
            others = [p for p in works.glob("*") if p != work]
            for other in others:
                _refuse_to_discard(other, stage, made_from)
            _remove(partial, replaced, *others)
            try:
                partial.mkdir()
                work.mkdir(parents=True, exist_ok=True)
                write_json(work / _MADE_FROM, made_from)
                facts = fill(partial, work)
                for file in files_below(partial):
                    file.chmod(_FILE_MODE)
                    sync(file)
                files = {file.relative_to(partial).as_posix(): sha256_file(file) for file in files_below(partial)}
                values: dict[str, Any] = {
                    "schema_version": SCHEMA_VERSION,
                    "stage": stage,
                    "key": key,
                    "digest": content_digest(files),
                    "config": config,
                    "seed": seed,
                    "inputs": inputs,
                    "files": files,
                    "facts": facts,
                    "reproducibility": reproducibility,
                    "versions": package_versions(),
                    "machine": describe_machine(),
                    "wall_seconds": round(time.monotonic() - started, 2),
                    "peak_memory_mib": round(peak_memory_mib(), 1),
                }
                values["manifest_sha256"] = _manifest_sha256(values)
                write_json(partial / MANIFEST, values)
                if folder.exists():
                    folder.rename(replaced)
                partial.rename(folder)
                sync(folder.parent)
            except BaseException:
                _remove(partial)
                if replaced.exists() and not folder.exists():
                    replaced.rename(folder)  # the second rename failed
                raise
            _remove(replaced, works)
    except Exception as error:
        if refused := storage_error(error, folder):
            raise refused from error
        raise
    return Artifact(folder, Manifest.model_validate(values))


def package_versions() -> dict[str, str]:
    """Versions of the installed packages that can change a result, read without importing them."""
    versions = {"python": platform.python_version()}
    for name in _RECORDED_PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _refuse_to_discard(work: Path, stage: str, made_from: dict[str, Any]) -> None:
    """Raises ArtifactError if the work of a run that was cut holds something sealed; says how that run differs from the present one."""
    if not any(work.rglob(SEAL)):
        return
    try:
        before = read_json(work / _MADE_FROM)
    except (FileNotFoundError, ConfigError):
        before = {}
    told = [f"{key} was {_shown(old)}, is {_shown(new)}" for key, old, new in _differences(before, made_from)]
    raise ArtifactError(
        f"{work}: a run of the stage '{stage}' was cut here, and this one would not go on from it: "
        f"{'; '.join(told) or 'biollm itself, its packages or the thread count changed'}. "
        f"Put that back to go on, or remove {work} to begin anew"
    )


def _differences(old: Any, new: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(key, old value, new value) where two nested values differ; lists of two lengths differ as a whole."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            yield from _differences(old.get(name), new.get(name), f"{key}.{name}" if key else name)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from _differences(one, other, f"{key}.{i}")
    elif old != new:
        yield key, old, new


def _shown(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    if len(text) <= 60:
        return text
    return f"{text[:57]}…" + (f" ({len(value)} in all)" if isinstance(value, list) else "")


def _manifest_sha256(values: dict[str, Any]) -> str:
    return sha256_json({name: value for name, value in values.items() if name != "manifest_sha256"})


def _remove(*paths: Path) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)


@contextmanager
def _locked(path: Path, stage: str) -> Iterator[None]:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ArtifactError(
                f"{path.parent}: another process is running the stage '{stage}' there; wait for it, or choose another --out"
            ) from None
        yield
