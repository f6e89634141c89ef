"""Files of any size into a folder of embeddings: shard by shard, each whole or not there, and continued where a run was cut.

OUT/part-00000.parquet …   columns id, embedding; row i of all parts is record i of the input
OUT/manifest.json          what they are made of (model, input, settings), and once whole, how many; written first and last
OUT/.lock                  held by the one process that writes
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from biollm.core.artifacts import package_versions
from biollm.core.errors import ArtifactError, ConfigError, DataError, ResourceError, storage_error
from biollm.core.files import files_below, read_sidecar, sha256_file, sha256_json, sync, write_json
from biollm.core.progress import progress, say
from biollm.core.resources import digest_folder, model_folder
from biollm.embed.embedder import Embedder
from biollm.embed.inputs import Batch, is_fasta, read_batches, track_columns
from biollm.embed.output import EmbeddingWriter
from biollm.embed.settings import Settings
from biollm.modeling.vocabulary import DomainVocabulary

MANIFEST = "manifest.json"
_LOCK = ".lock"


class Made(BaseModel):
    """`manifest.json`. made_from decides what the vectors are; records and parts are known once the folder is whole."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    made_from: dict[str, Any]
    dimension: int
    versions: dict[str, str]
    complete: bool = False
    records: int | None = None
    parts: int | None = None
    fidelity: dict[str, float | int] | None = None


@dataclass(frozen=True)
class FileJob:
    """A file (or a folder of Parquet parts) to embed, and where to. settings: an Embedder's; to 'auto', FASTA is sequences."""

    model: str
    source: Path
    out: Path
    settings: Settings
    column: str = "sequence"
    id_column: str | None = None
    rows_per_part: int = 8192


def embed_file(job: FileJob) -> Made:
    """Embed a file of any number of records in bounded memory; the same call again goes on behind the last whole part.

    Raises ArtifactError if the folder was begun from another model, input or setting, naming it, if another process writes there, or if
    a part is damaged; ResourceError if the file system refuses a write; and what Embedder and read_batches raise.
    """
    if not job.source.exists():
        raise ResourceError(f"{job.source}: no such file; give a FASTA or Parquet file")
    try:
        job.out.mkdir(parents=True, exist_ok=True)
        with _only_writer(job.out):
            return _embed(job)
    except OSError as error:
        if refused := storage_error(error, job.out):
            raise refused from error
        raise


def _embed(job: FileJob) -> Made:
    job = replace(job, settings=_settings(job))
    made_from = _made_from(job)
    before = _begun(job.out, made_from)
    if before is not None and before.complete:
        _whole_parts(job.out, job.rows_per_part, before)
        say(f"embed-file: up to date, nothing to do -> {job.out}")
        return before
    done = _whole_parts(job.out, job.rows_per_part, None) if before is not None else 0
    embedder = Embedder(job.model, **dict(job.settings))
    embedder.tell_unread(track_columns(job.source))
    fidelity = vars(embedder.fidelity) if embedder.fidelity else None
    made = Made(made_from=made_from, dimension=embedder.dimension, versions=package_versions(), fidelity=fidelity)
    write_json(job.out / MANIFEST, made.model_dump())
    if done:
        say(f"embed-file: {done} whole parts are there; going on behind them")
    records, part = done * job.rows_per_part, done
    batches = read_batches(
        job.source, job.rows_per_part, column=job.column, id_column=job.id_column, channels=embedder.measured_tracks, skip=records
    )
    for batch in progress(_exactly(batches, job.rows_per_part), f"embeddings of {job.source.name}", unit="part"):
        _write_part(job.out / part_name(part), embedder, batch)
        records, part = records + len(batch.ids), part + 1
    if not records:
        raise DataError(f"{job.source}: holds no record; give a file with records")
    whole = made.model_copy(update={"complete": True, "records": records, "parts": part})
    write_json(job.out / MANIFEST, whole.model_dump())
    return whole


def part_name(number: int) -> str:
    return f"part-{number:05d}.parquet"


def _settings(job: FileJob) -> Settings:
    """The settings, with FASTA as sequences where the model knows any: then their parts hold what `Embedder.embed` of the file gives."""
    vocabulary = DomainVocabulary.load(model_folder(job.model))
    if job.settings.input != "auto" or vocabulary is None or not vocabulary.sequence_modalities or not is_fasta(job.source):
        return job.settings
    return job.settings.model_copy(update={"input": "sequence"})


def _made_from(job: FileJob) -> dict[str, Any]:
    source = job.source
    files = [[path.name, sha256_file(path)] for path in (files_below(source) if source.is_dir() else [source])]
    return {
        "model": digest_folder(model_folder(job.model)),
        "input": sha256_json(files),
        "settings": job.settings.identity(),
        "column": job.column,
        "id_column": job.id_column,
        "rows_per_part": job.rows_per_part,
    }


def _begun(out: Path, made_from: dict[str, Any]) -> Made | None:
    """What was begun in a folder; None if no part of it was made.

    Raises ArtifactError if it is something else, or the folder holds other files.
    """
    path = out / MANIFEST
    if not path.is_file():
        if strange := [file.name for file in sorted(out.iterdir()) if not file.name.startswith(".")]:
            raise ArtifactError(f"{out}: holds {strange[0]}, which embed-file did not write; choose a new folder")
        return None
    try:
        begun = read_sidecar(path, Made)
    except ConfigError as error:
        raise ArtifactError(str(error)) from None
    if not begun.complete and not (out / part_name(0)).is_file():
        return None
    for name, wanted in made_from.items():
        if (found := begun.made_from.get(name)) != wanted:
            if isinstance(found, dict) and isinstance(wanted, dict):
                if not (changes := _changes(found, wanted)):
                    continue
                what = changes[0]
            else:
                what = f"{name} was {_short(found)}, is {_short(wanted)}"
            raise ArtifactError(f"{out}: was begun from something else: {what}; put that back to go on, or choose a new folder")
    return begun


def _changes(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Settings that differ; one that is not set is one that an earlier version did not have."""
    return [f"{n} was {found.get(n)}, is {wanted.get(n)}" for n in {**wanted, **found} if found.get(n) != wanted.get(n)]


def _short(value: Any) -> str:
    return f"{value[:12]}…" if isinstance(value, str) and len(value) == 64 else str(value)


def _whole_parts(out: Path, rows: int, whole: Made | None) -> int:
    """How many parts are there, one after the other. All but the last part of a `whole` folder hold `rows` rows.

    Raises ArtifactError naming a part that is damaged, missing or of other rows.
    """
    number, expected = 0, whole.parts if whole is not None else None
    again = f"remove {out}, and run again"
    while (path := out / part_name(number)).is_file():
        try:
            found = pq.ParquetFile(path).metadata.num_rows
        except (OSError, ValueError):
            remedy = "remove it, and run the same command again" if whole is None else again
            raise ArtifactError(f"{path}: not a whole Parquet file; {remedy}") from None
        wanted = rows if whole is None or whole.records is None else min(rows, whole.records - number * rows)
        if whole is not None and found != wanted:
            raise ArtifactError(f"{path}: holds {found} records, but {wanted} were written; {again}")
        if whole is None and found != rows:  # the last part of the input, cut before the manifest said that all is done
            return number
        number += 1
    if expected is not None and number < expected:
        raise ArtifactError(f"{out / part_name(number)}: is missing of a folder that was whole; {again}")
    return number


def _exactly(batches: Iterator[Batch], rows: int) -> Iterator[Batch]:
    """Batches of `rows` records but for the last, from batches of any size."""
    ids: list[str] = []
    texts: list[str] = []
    tracks: list[Any] = []
    for batch in batches:
        ids, texts = ids + batch.ids, texts + batch.texts
        tracks = tracks + (batch.tracks or [])
        while len(ids) >= rows:
            yield Batch(ids[:rows], texts[:rows], tracks[:rows] or None)
            ids, texts, tracks = ids[rows:], texts[rows:], tracks[rows:]
    if ids:
        yield Batch(ids, texts, tracks or None)


def _write_part(path: Path, embedder: Embedder, batch: Batch) -> None:
    vectors = embedder.embed(batch.texts, batch.tracks, names=batch.ids, show_progress=False)
    staged = path.with_name(f".{path.name}.tmp")
    with EmbeddingWriter(staged, embedder.dimension) as writer:
        writer.write(batch.ids, vectors)
    sync(staged)
    staged.replace(path)
    sync(path.parent)


@contextmanager
def _only_writer(out: Path) -> Iterator[None]:
    with (out / _LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ArtifactError(f"{out}: another process is writing embeddings there; wait for it, or choose another folder") from None
        yield
