"""Embed: embeddings of the whole corpus by each model of the pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from biollm.core.job import Job
from biollm.core.progress import progress
from biollm.embed.config import Config
from biollm.embed.embedder import Embedder
from biollm.modeling.base import normal_folder
from biollm.modeling.corpus import read_records

TITLES = {
    "base": "untouched base model",
    "expand": "expanded, untrained",
    "pretrain": "adapted",
    "pretrain_without_tracks": "adapted, tracks withheld",
}
_ROWS_PER_CHUNK = 512


def run(job: Job[Config]) -> dict[str, Any]:
    records = read_records(job.input("ingest"))
    sets: dict[str, Any] = {}
    for name, folder, with_tracks in _models(job):
        # The base has no domain vocabulary: it reads a sequence as the text that it is to it.
        embedder = Embedder(
            folder,
            input="text" if name == "base" else "sequence",
            tracks="computed" if with_tracks else "off",
            tokens_per_batch=job.config.tokens_per_batch,
        )
        _write(embedder, records, job.out / f"{name}.parquet", TITLES[name])
        sets[name] = {
            "title": TITLES[name],
            "dim": embedder.dimension,
            "records": records.height,
            "tokens": embedder.count_tokens(records["sequence"].to_list()),
        }
    return {"sets": sets, "pooling": "mean"}


def _models(job: Job[Config]) -> list[tuple[str, Path, bool]]:
    """Name, folder and whether tracks are used, for each set of embeddings."""
    models: list[tuple[str, Path, bool]] = []
    for name in job.config.models:
        models.append((name, normal_folder(job.base_folder())[0] if name == "base" else job.input(name), True))
    if job.config.without_tracks:
        models.append(("pretrain_without_tracks", job.input("pretrain"), False))
    return models


def _write(embedder: Embedder, records: pl.DataFrame, path: Path, title: str) -> None:
    """Stream ids and vectors to Parquet, chunk by chunk: memory is bounded by the chunk, not by the corpus."""
    schema = pa.schema([("id", pa.string()), ("embedding", pa.list_(pa.float32(), embedder.dimension))])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        chunks = range(0, records.height, _ROWS_PER_CHUNK)
        for start in progress(chunks, f"embeddings, {title}", unit="chunk"):
            chunk = records.slice(start, _ROWS_PER_CHUNK)
            vectors = embedder.embed(chunk["sequence"].to_list(), names=chunk["id"].to_list(), show_progress=False)
            flat = pa.array(vectors.ravel(), type=pa.float32())
            columns = [pa.array(chunk["id"].to_list()), pa.FixedSizeListArray.from_arrays(flat, embedder.dimension)]
            writer.write_table(pa.table(columns, schema=schema))
