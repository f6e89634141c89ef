"""Finding a site that stands twice in a file of any size and order."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

KEY = ["contig", "position_0based", "strand", "modification", "context"]
_PAGE_BITS = 16


class OrderedSites:
    """The duplicates of a file whose sites come in order; of one that does not, the fact.

    Memory: the sites of one position per contig. `in_order` turns False when a batch begins before the end of what earlier ones of its
    contig covered; from then on only `SiteSet` can tell.
    """

    def __init__(self) -> None:
        self.in_order = True
        self._last: pl.DataFrame | None = None  # the sites at the last position of each contig

    def add(self, sites: pl.DataFrame) -> int | None:
        """The number within the batch of a site that stands there for the second time, or None."""
        repeated = _first_repeated(sites)
        if repeated is not None or not self.in_order:
            return repeated
        keys = sites.select(KEY)
        position, last = pl.col("position_0based"), keys.filter(pl.col("position_0based") == pl.col("position_0based").max().over("contig"))
        if self._last is not None:
            ends = self._last.group_by("contig").agg(position.first().alias("end"))
            begins = keys.group_by("contig").agg(position.min().alias("begin")).join(ends, on="contig")
            if begins.select((pl.col("begin") < pl.col("end")).any()).item():
                self.in_order = False
                return None
            if begins.select((pl.col("begin") == pl.col("end")).any()).item():
                again = keys.with_row_index("number").join(self._last, on=KEY, nulls_equal=True, how="semi")
                if again.height:
                    return int(again["number"].min())  # type: ignore[arg-type]
            last = pl.concat([self._last, last])
            last = last.filter(position == position.max().over("contig"))
        self._last = last
        return None


class SiteSet:
    """All sites of a file as bits, 8 KiB per 65,536 bases, strand, context and modification that it holds sites of."""

    def __init__(self) -> None:
        self._pages: dict[tuple[object, ...], NDArray[np.uint8]] = {}

    def add(self, sites: pl.DataFrame) -> int | None:
        """The number within the batch of a site that an earlier batch held, or None. Within one batch, `OrderedSites` has looked."""
        kinds = ["contig", "strand", "modification", "context"]
        for key, part in sites.with_row_index("number").group_by(kinds):
            positions = part["position_0based"].to_numpy()
            order = np.argsort(positions)
            pages = positions[order] >> _PAGE_BITS
            for indices in np.split(order, np.flatnonzero(np.diff(pages)) + 1):
                inside = positions[indices] & ((1 << _PAGE_BITS) - 1)
                page = (*key, int(positions[indices[0]]) >> _PAGE_BITS)
                bits = self._pages.setdefault(page, np.zeros(1 << (_PAGE_BITS - 3), dtype=np.uint8))
                masks = np.left_shift(1, inside & 7).astype(np.uint8)
                if (seen := (bits[inside >> 3] & masks) > 0).any():
                    return int(part["number"][int(indices[int(seen.argmax())])])
                np.bitwise_or.at(bits, inside >> 3, masks)
        return None


def _first_repeated(sites: pl.DataFrame) -> int | None:
    same_contig = pl.col("contig") == pl.col("contig").shift()
    rising = pl.col("position_0based") > pl.col("position_0based").shift()
    steps = sites.select((rising | ~same_contig).all().alias("rising"), (~same_contig).sum().alias("changes")).row(0)
    if steps[0] and steps[1] + 1 <= sites["contig"].n_unique():
        return None  # every contig once, its positions rising: nothing can stand twice
    repeated = ~pl.struct(KEY).is_first_distinct()
    if not sites.select(pl.struct(KEY).is_duplicated().any()).item():
        return None
    return int(sites.select(repeated.arg_true().first()).item())
