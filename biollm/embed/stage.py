"""Embed: embeddings of the whole corpus by each model of the pipeline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import polars as pl

from biollm.core.files import write_json
from biollm.core.job import Job
from biollm.core.progress import progress
from biollm.embed.config import Config
from biollm.embed.diagnostics import diagnose
from biollm.embed.embedder import Embedder, open_model
from biollm.embed.output import EmbeddingWriter
from biollm.embed.shuffling import choose_donors, fit_tracks
from biollm.modeling.base import normal_folder
from biollm.modeling.channels import OTHER_OPERATORS, FusionSpec
from biollm.modeling.corpus import ROW, TrackTable, evenly, read_records
from biollm.modeling.encoding import IntArray
from biollm.modeling.fusion import read_spec
from biollm.modeling.tracks import RecordTracks

TITLES = {
    "base": "untouched base model",
    "expand": "expanded, untrained",
    "pretrain": "adapted",
    "pretrain_without_tracks": "adapted, tracks withheld",
    "pretrain_shuffled_tracks": "adapted, tracks of another record",
}
_DIAGNOSED_RECORDS = 100
_ROWS_PER_CHUNK = 2048
# The tracks of some rows of the corpus; None: the model finds what it reads by itself, or reads none.
TracksOf = Callable[[pl.DataFrame], list[RecordTracks] | None]
TrackUse = Literal["own", "none", "shuffled"]


@dataclass(frozen=True)
class EmbeddingSet:
    """One file of embeddings: by which model of which stage, and with which tracks."""

    name: str
    title: str
    folder: Path
    stage: str
    tracks: TrackUse = "own"


def run(job: Job[Config]) -> dict[str, Any]:
    records = read_records(job.input("ingest"))
    sets: dict[str, Any] = {}
    for planned in _plan(job):
        embedder = _open(planned, job)
        tokens = _write(embedder, records, _tracks(planned, embedder, records, job), job.out / f"{planned.name}.parquet")
        sets[planned.name] = {
            "title": planned.title,
            "dim": embedder.dimension,
            "records": records.height,
            "tokens": tokens,
            "precision": embedder.precision,
            "fidelity": vars(embedder.fidelity) if embedder.fidelity else None,
            **({"model_digest": job.inputs[planned.stage].digest} if planned.stage in job.inputs else {}),
        }
    config = job.config
    if diagnosis := _diagnose(job, records):
        write_json(job.out / "diagnostics.json", diagnosis)
    return {"sets": sets, "pooling": config.pooling, "layer": config.layer, "strands": config.strands}


def _plan(job: Job[Config]) -> list[EmbeddingSet]:
    folders = {name: normal_folder(job.base_folder())[0] if name == "base" else job.input(name) for name in job.config.models}
    planned = [EmbeddingSet(name, TITLES[name], folder, name) for name, folder in folders.items()]
    ablations: list[tuple[str, TrackUse]] = []
    if job.config.without_tracks:
        ablations.append(("pretrain_without_tracks", "none"))
    if job.config.shuffled_tracks:
        ablations.append(("pretrain_shuffled_tracks", "shuffled"))
    planned += [EmbeddingSet(name, TITLES[name], job.input("pretrain"), "pretrain", tracks) for name, tracks in ablations]
    if "pretrain" in job.config.models:
        for folder in sorted((job.input("pretrain") / OTHER_OPERATORS).glob("*")):
            title = f"adapted, tracks by {folder.name.replace('_', ' ')}"
            planned.append(EmbeddingSet(f"fused_{folder.name}", title, folder, "pretrain"))
    return planned


def _diagnose(job: Job[Config], records: pl.DataFrame) -> list[dict[str, Any]]:
    """How far vectors see measured shares, before the adaptation and after, on test records; nothing for other models."""
    if "expand" not in job.inputs or "pretrain" not in job.inputs:
        return []
    spec = read_spec(job.input("pretrain"))
    measured = spec.measured_names if spec else []
    if not measured:
        return []
    chosen = evenly(records.filter(pl.col("split") == "test"), _DIAGNOSED_RECORDS)
    table = TrackTable(job.input("ingest"), measured)
    models = {name: _open(EmbeddingSet(name, TITLES[name], job.input(name), name), job) for name in ("expand", "pretrain")}
    return diagnose(models, chosen["sequence"].to_list(), _own(table, chosen))


def _open(planned: EmbeddingSet, job: Job[Config]) -> Embedder:
    modality = job.facts_of("ingest")["modality"]
    return open_model(planned.folder, job.config, modality=modality, is_base=planned.name == "base", with_tracks=planned.tracks != "none")


def _tracks(planned: EmbeddingSet, embedder: Embedder, records: pl.DataFrame, job: Job[Config]) -> TracksOf:
    spec = embedder.fusion
    if spec is None or planned.tracks == "none":
        return _no_tracks
    measured = spec.measured_names
    table = TrackTable(job.input("ingest"), measured) if measured else None
    if planned.tracks == "shuffled":
        return partial(_of_others, spec, table, records, choose_donors(records["split"].to_list(), _lengths(records), job.seed))
    return _no_tracks if table is None else partial(_own, table)


def _no_tracks(chunk: pl.DataFrame) -> None:
    return None


def _own(table: TrackTable, chunk: pl.DataFrame) -> list[RecordTracks]:
    return [table[row] for row in chunk[ROW].to_list()]


def _of_others(
    spec: FusionSpec, table: TrackTable | None, records: pl.DataFrame, donors: IntArray, chunk: pl.DataFrame
) -> list[RecordTracks]:
    """All channels of each record's donor, those that follow from a sequence too."""
    found = []
    for row, length in zip(chunk[ROW].to_list(), _lengths(chunk), strict=True):
        donor = int(donors[row])
        computed = spec.computed(records["sequence"][donor].upper())
        found.append(fit_tracks({**computed, **(table[donor] if table is not None else {})}, length))
    return found


def _lengths(records: pl.DataFrame) -> list[int]:
    return records["sequence"].str.len_chars().to_list()


def _write(embedder: Embedder, records: pl.DataFrame, tracks_of: TracksOf, path: Path) -> int:
    """Stream ids and vectors to Parquet, chunk by chunk: memory is bounded by the chunk, not by the corpus. Gives the number of tokens."""
    tokens = 0
    with EmbeddingWriter(path, embedder.dimension) as writer:
        for start in progress(range(0, records.height, _ROWS_PER_CHUNK), f"embeddings, {path.stem}", unit="chunk"):
            chunk = records.slice(start, _ROWS_PER_CHUNK)
            names = chunk["id"].to_list()
            found = embedder.embed_counted(chunk["sequence"].to_list(), tracks_of(chunk), names=names, show_progress=False)
            writer.write(names, found.vectors)
            tokens += int(found.tokens.sum())
    return tokens
