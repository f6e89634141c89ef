"""Upstream artifacts with a known signal, made with the same function as the real ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from biollm.classify.config import Config
from biollm.core.artifacts import Artifact, make_artifact
from biollm.core.job import Job

_RECORDS = {"train": 160, "validation": 80, "test": 80}
_DIMENSIONS = 6


def _artifact(folder: Path, stage: str, tables: dict[str, pl.DataFrame], facts: dict[str, Any]) -> Artifact:
    def fill(out: Path, work: Path) -> dict[str, Any]:
        for name, table in tables.items():
            table.write_parquet(out / name)
        return facts

    return make_artifact(
        folder / stage, stage=stage, key=stage * 8, config={}, seed=0, inputs={}, reproducibility="made for a test", fill=fill
    )


def _records(rng: np.random.Generator) -> pl.DataFrame:
    """Groups of five records; positives are richer in GC, so that k-mers know something."""
    split = [name for name, count in _RECORDS.items() for _ in range(count)]
    positive = rng.random(len(split)) < 0.4
    sequences = ["".join(rng.choice(list("ACGT"), 60, p=[0.2, 0.3, 0.3, 0.2] if p else [0.25] * 4)) for p in positive]
    return pl.DataFrame(
        {
            "id": [f"r{i}" for i in range(len(split))],
            "sequence": sequences,
            "split": split,
            "group": [f"{name}-{i // 5}" for i, name in enumerate(split)],
            "label_coding": positive.astype(np.int8),
        }
    )


def _embeddings(records: pl.DataFrame, signal: float, rng: np.random.Generator) -> pl.DataFrame:
    vectors = rng.normal(size=(len(records), _DIMENSIONS)).astype(np.float32)
    vectors[:, 0] += signal * records["label_coding"].to_numpy()
    return pl.DataFrame({"id": records["id"], "embedding": pl.Series(vectors, dtype=pl.Array(pl.Float32, _DIMENSIONS))})


@pytest.fixture
def classify_job(tmp_path: Path) -> Callable[..., Job[Config]]:
    """classify_job(config, signals={set: strength}, records=…, embeddings=…, predictions=…) -> a job in a fresh folder.

    records, embeddings and predictions are functions from the good table to the one that is written; without `predictions`
    there is no stage finetune.
    """
    made = iter(range(100))

    def make(
        config: dict[str, Any] | None = None,
        signals: dict[str, float] | None = None,
        records: Callable[[pl.DataFrame], pl.DataFrame] = lambda table: table,
        embeddings: Callable[[pl.DataFrame], pl.DataFrame] = lambda table: table,
        predictions: Callable[[pl.DataFrame], pl.DataFrame] | None = None,
    ) -> Job[Config]:
        folder = tmp_path / str(next(made))
        rng = np.random.default_rng(5)
        corpus = _records(rng)
        signals = signals or {"base": 0.2, "expand": 0.5, "pretrain": 3.0}
        sets = {f"{name}.parquet": embeddings(_embeddings(corpus, signal, rng)) for name, signal in signals.items()}
        facts = {"sets": {name: {"dim": _DIMENSIONS} for name in signals}}
        inputs = {
            "ingest": _artifact(folder, "ingest", {"records.parquet": records(corpus)}, {"tracks": []}),
            "embed": _artifact(folder, "embed", sets, facts),
        }
        if predictions is not None:
            scored = corpus.filter(pl.col("split") != "train")
            scores = 0.2 + 0.6 * scored["label_coding"].cast(pl.Float64)
            good = pl.DataFrame({"id": scored["id"], "score": scores}).with_columns(method=pl.lit("lora"))
            inputs["finetune"] = _artifact(folder, "finetune", {"predictions.parquet": predictions(good)}, {})
        out = folder / "classify"
        out.mkdir()
        settings = Config(**{"bootstrap_samples": 200, "heads": ["logistic"]} | (config or {}))
        return Job(settings, 7, inputs, out, folder / "work", folder / "logs", folder, "base")

    return make
