"""Embeddings in two dimensions, for the eye only: nothing on the page is computed from these points."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from biollm.core.seeding import generator
from biollm.corpus.columns import LABEL

FloatArray = npt.NDArray[np.float64]

# A neighbour graph of fewer records says little.
UMAP_RECORDS = 500
_NEIGHBOURS = 15
# UMAP sees the first components only: they hold what distances are made of, and 20 times fewer numbers.
_UMAP_COMPONENTS = 50
# The largest coordinate of the places that UMAP begins at: what its authors scale theirs to.
_START_EXTENT = 10.0
# A label of numbers with more values than this is no set of classes.
_CLASSES = 12


@dataclass(frozen=True)
class EmbeddingMap:
    """A set's records in two dimensions, in one view or two.

    points: id, source, label, split, and x_<view>, y_<view> for each view. share: of the variance, per principal component.
    """

    points: list[dict[str, str | float]]
    share: tuple[float, float]
    views: tuple[str, ...] = ("PCA",)


def sample_records(records: Path, label: str | None, limit: int, seed: int) -> pl.DataFrame:
    """id, source, split, label (as text) of at most `limit` records, in corpus order; the same for every set and run with this seed.

    label: None, or the name of one; then only records that have it.
    """
    columns = ["id", "source", "split"]
    if label is None:
        table = pl.read_parquet(records, columns=columns).with_columns(label=pl.lit("record"))
    else:
        table = pl.read_parquet(records, columns=[*columns, LABEL + label]).drop_nulls(LABEL + label)
        table = table.select(*columns, label=label_names(table[LABEL + label], label))
    kept = generator(seed, "report", "map").permutation(table.height)[:limit]
    return table[sorted(kept.tolist())]


def label_names(values: pl.Series, name: str) -> pl.Series:
    """Labels as a legend shows them: yes or no by the label's name, classes as they are, numbers of more than 12 values by their quarter.

    >>> label_names(pl.Series([1, 0]), "coding").to_list()
    ['coding', 'not coding']
    >>> label_names(pl.Series([i / 10 for i in range(20)]), "fitness")[0]
    'fitness, quarter 1 (lowest)'
    """
    if values.dtype == pl.Boolean or (values.dtype.is_numeric() and ((values == 0) | (values == 1)).all()):
        return pl.Series([name if value else f"not {name}" for value in values.to_list()])
    if not values.dtype.is_numeric() or values.n_unique() <= _CLASSES:
        return values.cast(pl.String)
    quarters = np.searchsorted(np.quantile(values.to_numpy(), [0.25, 0.5, 0.75]), values.to_numpy(), side="left")
    named = [f"{name}, quarter 1 (lowest)", f"{name}, quarter 2", f"{name}, quarter 3", f"{name}, quarter 4 (highest)"]
    return pl.Series([named[quarter] for quarter in quarters])


def map_embeddings(embeddings: Path, sample: pl.DataFrame) -> EmbeddingMap:
    """Project the sampled records of one embedding set: principal components, and UMAP of 500 records or more."""
    vectors = sample.join(pl.read_parquet(embeddings), on="id", maintain_order="left")["embedding"].to_numpy().astype(np.float64)
    components, share = principal_components(vectors, _UMAP_COMPONENTS)
    views = {"PCA": components[:, :2]}
    if len(vectors) >= UMAP_RECORDS:
        views["UMAP"] = umap_layout(components)
    points: list[dict[str, str | float]] = sample.select("id", "source", "label", "split").to_dicts()
    for view, coordinates in views.items():
        for point, (x, y) in zip(points, coordinates, strict=True):
            point |= {f"x_{view}": round(float(x), 3), f"y_{view}": round(float(y), 3)}
    return EmbeddingMap(points, share, tuple(views))


def principal_components(vectors: FloatArray, number: int = 2) -> tuple[FloatArray, tuple[float, float]]:
    """Coordinates (rows, at most `number`, at least 2) on the first principal components, and the first two's shares of the variance.

    A component's sign is arbitrary; it is fixed so that its largest loading is positive.
    """
    centred = vectors - vectors.mean(axis=0)
    # The scatter matrix is dimensions squared: for 3,000 records its eigenvectors cost a tenth of the records' SVD.
    variance, axes = np.linalg.eigh(centred.T @ centred)  # ascending
    kept = axes[:, ::-1][:, :number]
    signs = np.sign(kept[np.abs(kept).argmax(axis=0), np.arange(kept.shape[1])])
    first, second = variance[:-3:-1] / (variance.sum() or 1.0)  # all records on one point have no variance to share
    return centred @ (kept * signs), (float(first), float(second))


def umap_layout(components: FloatArray) -> FloatArray:
    """(rows, 2) coordinates that keep neighbours together, of the first principal components of the same rows.

    It begins at the first two components, which keeps what UMAP otherwise loses, the large distances, and serves separate islands too.
    Sources: L. McInnes, J. Healy, J. Melville, UMAP, arXiv:1802.03426; D. Kobak, G. C. Linderman, Initialization is critical for preserving
    global data structure, Nature Biotechnology 39, 2021.
    """
    from scranpy import run_umap

    start = components[:, :2] * (_START_EXTENT / (np.abs(components[:, :2]).max() or 1.0))
    layout = run_umap(components.T, num_neighbors=_NEIGHBOURS, initialize_method="none", initial_coordinates=start)
    return np.asarray(layout, dtype=np.float64)
