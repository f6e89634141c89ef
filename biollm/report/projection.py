"""Embeddings in two dimensions, for the eye only: nothing on the page is computed from these points."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from biollm.core.seeding import generator

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class EmbeddingMap:
    """A set's records on its first two principal components. share: of the variance, per component."""

    points: list[dict[str, str | float]]
    share: tuple[float, float]


def sample_records(records: Path, label: str, limit: int, seed: int) -> pl.DataFrame:
    """id, source, label of at most `limit` records, in corpus order; the same ones for every set and every run with this seed."""
    table = pl.read_parquet(records, columns=["id", "source", f"label_{label}"]).rename({f"label_{label}": "label"}).drop_nulls("label")
    kept = generator(seed, "report", "map").permutation(table.height)[:limit]
    return table[sorted(kept.tolist())]


def map_embeddings(embeddings: Path, sample: pl.DataFrame, label: str) -> EmbeddingMap:
    """Project the sampled records of one embedding set."""
    vectors = sample.join(pl.read_parquet(embeddings), on="id", maintain_order="left")["embedding"].to_numpy().astype(np.float64)
    coordinates, share = principal_components(vectors)
    points: list[dict[str, str | float]] = [
        {
            "id": id_,
            "source": source,
            "label": label if positive else f"not {label}",
            "x": round(float(x), 3),
            "y": round(float(y), 3),
        }
        for (id_, source, positive), (x, y) in zip(sample.select("id", "source", "label").iter_rows(), coordinates, strict=True)
    ]
    return EmbeddingMap(points, share)


def principal_components(vectors: FloatArray) -> tuple[FloatArray, tuple[float, float]]:
    """Coordinates (rows, 2) on the first two principal components, and each one's share of the variance.

    A component's sign is arbitrary; it is fixed so that its largest loading is positive.
    """
    centred = vectors - vectors.mean(axis=0)
    # The scatter matrix is dimensions squared: for 3,000 records its eigenvectors cost a tenth of the records' SVD.
    variance, axes = np.linalg.eigh(centred.T @ centred)  # ascending
    first_two = axes[:, :-3:-1]
    signs = np.sign(first_two[np.abs(first_two).argmax(axis=0), [0, 1]])
    first, second = variance[:-3:-1] / (variance.sum() or 1.0)  # all records on one point have no variance to share
    return centred @ (first_two * signs), (float(first), float(second))
