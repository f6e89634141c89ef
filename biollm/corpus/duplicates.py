"""Which rows of a table say what another row says already."""

from __future__ import annotations

import numpy as np
import polars as pl

from biollm.core.alphabets import Modality
from biollm.core.errors import DataError
from biollm.corpus.similarity import encode, identical_rows, near_pairs

SCHEMA = {"row": pl.Int64, "kept_row": pl.Int64, "kind": pl.String, "similarity": pl.Float64}


def find_duplicates(table: pl.DataFrame, modality: Modality, near: float | None = None, sequence: str = "sequence") -> pl.DataFrame:
    """The rows that may go because an earlier one stays: one line for each, in row order.

    table: a column of sequences; with a column `id`, the earlier row is the one with the smaller id (as text), and the result does not
    depend on the order of the rows; without, the one that stands first.
    near: Jaccard index (0 to 1] of the sets of k-mers (see similarity.PLANS) from which on two rows count as near; None: only equal ones.
    Returns row, kept_row (numbers from 0 in `table`), kind ("exact", "reverse_complement" of DNA and RNA, or "near") and similarity (exact
    Jaccard index; 1 for the first two). Case is folded where it means nothing; texts are equal if their words are. A kept row is never
    dropped itself: of a chain a ~ b ~ c with a unlike c, b goes and c stays. Low-complexity and very short rows have no near ones.
    Raises DataError if the column is missing or `near` is out of range.
    """
    if sequence not in table.columns:
        raise DataError(f"the table has no column '{sequence}'; it has {', '.join(table.columns)}")
    if near is not None and not 0 < near <= 1:
        raise DataError(f"near is {near}; expected a Jaccard index above 0 and up to 1, for example 0.8")
    numbered = table.with_row_index("\x00row")
    ordered = numbered.sort(pl.col("id").cast(pl.String), maintain_order=True) if "id" in table.columns else numbered
    order = ordered["\x00row"].to_numpy().astype(np.int64)
    encoded = encode(ordered[sequence], modality)
    twins, same_strand = identical_rows(encoded), identical_rows(encoded, strands=False)
    kept, similarity, is_near = twins.copy(), np.ones(len(twins)), np.zeros(len(twins), dtype=bool)
    if near is not None:
        heads = np.flatnonzero(twins == np.arange(len(twins)))
        pairs = near_pairs(encoded.take(heads), near)
        for one, other, jaccard in zip(heads[pairs.first], heads[pairs.second], pairs.similarity, strict=True):  # sorted by `one`
            if not is_near[one] and not is_near[other]:
                kept[other], similarity[other], is_near[other] = one, jaccard, True
        kept, similarity, is_near = kept[twins], similarity[twins], is_near[twins]
    rows = np.flatnonzero(kept != np.arange(len(kept)))
    kinds = np.where(is_near[rows], "near", np.where(same_strand[rows] == same_strand[twins[rows]], "exact", "reverse_complement"))
    columns = {"row": order[rows], "kept_row": order[kept[rows]], "kind": kinds.astype(str), "similarity": similarity[rows]}
    return pl.DataFrame(columns, schema=SCHEMA).sort("row")
