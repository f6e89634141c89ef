"""Embeddings in two dimensions, for the eye only: nothing on the page is computed from these points."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from biollm.core.seeding import derive_seed, generator
from biollm.corpus.columns import LABEL

FloatArray = npt.NDArray[np.float64]

# A neighbour graph of fewer records says little, and UMAP takes its seconds to start (its loops are compiled anew in every process).
UMAP_RECORDS = 500
_NEIGHBOURS = 15
# UMAP sees the first components only: they hold what distances are made of, and 20 times fewer numbers.
_UMAP_COMPONENTS = 50
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


def map_embeddings(embeddings: Path, sample: pl.DataFrame, seed: int) -> EmbeddingMap:
    """Project the sampled records of one embedding set: principal components, and UMAP of 500 records or more."""
    vectors = sample.join(pl.read_parquet(embeddings), on="id", maintain_order="left")["embedding"].to_numpy().astype(np.float64)
    components, share = principal_components(vectors, _UMAP_COMPONENTS)
    views = {"PCA": components[:, :2]}
    if len(vectors) >= UMAP_RECORDS:
        views["UMAP"] = umap_layout(components, seed)
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


def umap_layout(vectors: FloatArray, seed: int) -> FloatArray:
    """(rows, 2) coordinates that keep neighbours together. Seeded, and so in one thread: equal runs on one machine give equal bits.

    Source: L. McInnes, J. Healy, J. Melville, UMAP, arXiv:1802.03426.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that a seed means one thread, and that TensorFlow is not there
        from umap import UMAP  # three seconds: only where it is used

        layout = UMAP(n_neighbors=_NEIGHBOURS, random_state=derive_seed(seed, "report", "umap") % 2**32, n_jobs=1)
        return np.asarray(layout.fit_transform(vectors), dtype=np.float64)
