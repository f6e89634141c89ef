"""Summing the two strands of a CpG."""

from __future__ import annotations

import polars as pl

_SITE = ["contig", "plus_0based", "modification"]


class StrandMerger:
    """Sums the reads of both strands of each CpG onto the C of the + strand; all other sites pass through.

    A CpG of which one strand has been read waits for the other, at the latest until `rest`; so memory is that of the CpGs that have one
    strand in the file, or of all if the file is sorted by strand.
    """

    def __init__(self) -> None:
        self.found = False
        self._waiting: pl.DataFrame | None = None

    def add(self, sites: pl.DataFrame) -> pl.DataFrame:
        """The CpGs that are complete now, and the other sites. Expects and gives `level` and `coverage` in Float64, level null without
        reads."""
        mergeable = (pl.col("context") == "CG") & pl.col("strand").is_in(["+", "-"]) & pl.col("coverage").is_not_null()
        mergeable = mergeable.fill_null(False)
        halves = sites.filter(mergeable).select(
            "contig",
            (pl.col("position_0based") - (pl.col("strand") == "-").cast(pl.Int64)).alias("plus_0based"),
            "modification",
            (pl.col("level") * pl.col("coverage")).alias("methylated"),
            "coverage",
            pl.lit(1).alias("strands"),
        )
        others = sites.filter(~mergeable)
        self.found = self.found or halves.height > 0
        if self._waiting is not None:
            halves = pl.concat([self._waiting, halves])
        summed = halves.group_by(_SITE, maintain_order=True).agg(pl.col("methylated", "coverage", "strands").sum())
        self._waiting = summed.filter(pl.col("strands") < 2)
        return pl.concat([others, _as_sites(summed.filter(pl.col("strands") >= 2), others)])

    def rest(self) -> pl.DataFrame:
        """The CpGs of which the file holds one strand."""
        assert self._waiting is not None
        return _as_sites(self._waiting, None)


def _as_sites(summed: pl.DataFrame, like: pl.DataFrame | None) -> pl.DataFrame:
    sites = summed.select(
        "contig",
        pl.col("plus_0based").alias("position_0based"),
        pl.lit("+").alias("strand"),
        pl.lit("CG").alias("context"),
        "modification",
        (pl.col("methylated") / pl.when(pl.col("coverage") > 0).then("coverage")).alias("level"),
        "coverage",
    )
    return sites if like is None else sites.select(like.columns)
