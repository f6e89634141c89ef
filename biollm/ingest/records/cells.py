"""Cells of a single-cell experiment as sentences: the names of their genes, the most expressed first."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from biollm.core.errors import first_line, listed
from biollm.core.streams import check_head
from biollm.ingest.records.config import RecordOptions
from biollm.ingest.records.source import Record, Source, load_extra

_CELLS_AT_ONCE = 1024


def read_h5ad(source: Source, options: RecordOptions) -> Iterator[Record]:
    """Cells of an AnnData file; the number is the row, the id the cell's name, the columns of obs are the fields.

    A sentence holds the `cells.genes` most expressed genes, ties in the order of var; genes that were not seen are left out. Scaling a
    cell to a total of 10,000 and taking log1p changes no rank, so ranks of X are those of Cell2Sentence (Levine et al. 2024, ICML).
    With `cells.medians`, X (counts) is divided by each gene's non-zero median first: Geneformer's ranks (Theodoris et al. 2023, Nature).
    X is read from the disk in blocks of cells. Raises DataError for a file that is no AnnData, negative or missing expression, and gene
    names that are blank or hold white space; ResourceError without the package anndata.
    """
    with source.path.open("rb") as head:
        start = head.read(1024)
    if not start.startswith(b"\x89HDF\r\n\x1a\n"):
        if not start.startswith(b"\x89HDF"):
            check_head(source.path, start)
        raise source.error("not an HDF5 file, so no .h5ad; unpack it if it is compressed, fetch or export it again", 1, "row")
    anndata = load_extra("anndata", "cells")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            table = anndata.read_h5ad(source.path, backed="r")
        except Exception as error:  # h5py and anndata raise many kinds for a damaged file; all mean the same here
            raise source.error(f"not a whole AnnData file: {_reason(error)}; fetch or export it again", 1, "row") from None
    try:
        yield from _cells(source, options, table)
    finally:
        table.file.close()


def _cells(source: Source, options: RecordOptions, table: Any) -> Iterator[Record]:
    settings = options.cells
    genes = _gene_names(source, table, settings.gene_names)
    medians = _medians(source, table, settings.medians)
    wanted = [column for column in dict.fromkeys(options.columns().values()) if column in table.obs.columns]
    columns = {name: table.obs[name].astype(object).where(table.obs[name].notna(), None).tolist() for name in wanted}
    known: dict[str, Any] = dict.fromkeys(map(str, table.obs.columns))
    names = [str(name) for name in table.obs_names]
    for begin in range(0, table.n_obs, _CELLS_AT_ONCE):
        end = min(begin + _CELLS_AT_ONCE, table.n_obs)
        try:
            block = table.X[begin:end]
        except Exception as error:  # as above
            raise source.error(f"its expression cannot be read: {_reason(error)}; fetch or export it again", begin + 1, "row") from None
        for row, (kept, values) in enumerate(_expressed(block), start=begin):
            if not np.isfinite(values).all() or (values < 0).any():
                raise source.error(
                    "X holds negative or missing expression (scaled?); write counts, or their logarithm, to X", row + 1, "row"
                )
            shown = values / medians[kept] if medians is not None else values
            order = np.argsort(-shown, kind="stable")[: settings.genes]
            fields = known | {name: values_of[row] for name, values_of in columns.items()}
            yield Record(row + 1, fields, names[row], " ".join(genes[kept[order]]))


def _expressed(block: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of each cell the genes that are not zero, in the order of var, and their values."""
    if hasattr(block, "tocsr"):
        block = block.tocsr()
        block.sum_duplicates()
        for row in range(block.shape[0]):
            part = slice(block.indptr[row], block.indptr[row + 1])
            kept = block.data[part] != 0
            yield block.indices[part][kept], block.data[part][kept]
    else:
        for values in np.asarray(block):
            kept = np.flatnonzero(values != 0)
            yield kept, values[kept]


def _gene_names(source: Source, table: Any, column: str | None) -> np.ndarray:
    if column is not None and column not in table.var.columns:
        raise source.error(
            f"var has no column '{column}' (cells.gene_names); it has {listed([str(c) for c in table.var.columns])}", 1, "row"
        )
    names = np.array([str(name) for name in (table.var_names if column is None else table.var[column])], dtype=object)
    for number, name in enumerate(names, start=1):
        if not name or len(name.split()) != 1 or name != name.strip():
            raise source.error(
                f"gene {number} of var is called {name!r:.40}; a name is one word: rename it, or choose cells.gene_names", 1, "row"
            )
    return names


def _medians(source: Source, table: Any, column: str | None) -> np.ndarray | None:
    if column is None:
        return None
    if column not in table.var.columns:
        raise source.error(f"var has no column '{column}' (cells.medians); it has {listed([str(c) for c in table.var.columns])}", 1, "row")
    try:
        medians = table.var[column].to_numpy(dtype=np.float64)
    except (ValueError, TypeError):
        raise source.error(
            f"the column '{column}' of var (cells.medians) holds no numbers; give each gene's non-zero median", 1, "row"
        ) from None
    if not np.isfinite(medians).all() or (medians <= 0).any():
        raise source.error(f"the column '{column}' of var (cells.medians) has values that are missing or not above 0; mend it", 1, "row")
    return np.asarray(medians)


def _reason(error: Exception) -> str:
    return first_line(error)[:160]
