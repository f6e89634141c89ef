"""Methylation written into the letters of a sequence."""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from biollm.core.errors import DataError
from biollm.ingest.config import CytosineLetters
from biollm.ingest.sites.modifications import BASE_OF

_UNMETHYLATED = {"C": "T"}  # what bisulfite makes of them; a G tells of the other strand, which this read is not
_METHYLATED = {"C": "M", "G": "W"}
_ROUNDING = 1e-5  # of levels in 32 bits


def check_levels(sites: pl.DataFrame, where: str) -> None:
    """Raises DataError for sites that cannot say whether a C is methylated: a level outside 0..1, a modification that does not sit on C.

    sites: a site frame; null modifications, of files that do not say, pass. where: the track, for the message.
    """
    wrong = sites.filter((pl.col("level") < 0) | (pl.col("level") > 1 + _ROUNDING))
    place = "{contig} position {position_0based} (from 0)"
    if wrong.height:
        row = wrong.row(0, named=True)
        raise DataError(
            f"{where}: {place.format(**row)} has the value {row['level']:g}; cytosines are written by levels of 0 to 1: if it counts in "
            "percent, say unit: percent in the track's sites; if it is no methylation, take the track out of cytosines.tracks"
        )
    on_c = [name for name, base in BASE_OF.items() if base == "C"]
    other = sites.filter(pl.col("modification").is_not_null() & ~pl.col("modification").is_in(on_c))
    if other.height:
        row = other.row(0, named=True)
        raise DataError(
            f"{where}: {place.format(**row)} is a site of {row['modification']}, which does not sit on C; choose the track's methylation "
            "with modifications: [5mC], or take the track out of cytosines.tracks"
        )


def write_cytosines(sequences: pa.Array, levels: list[NDArray[np.float32]], options: CytosineLetters) -> pa.Array:
    """Windows with their cytosines written as asked. sequences: (n,) strings; levels: of each track, (residues of all windows,), in the
    direction of each window, NaN = no value."""
    texts = sequences.to_pylist()
    flat = np.frombuffer("".join(texts).encode("ascii"), dtype=np.uint8).copy()
    for level in levels:
        if options.written == "methylation":
            chosen, letters = level >= options.threshold, _METHYLATED
        else:
            chosen, letters = level < options.threshold, _UNMETHYLATED  # neither where there is no value
        for letter, written in letters.items():
            flat[chosen & (flat == ord(letter))] = ord(written)
    whole, ends = flat.tobytes().decode("ascii"), np.cumsum([len(text) for text in texts])
    return pa.array([whole[end - len(text) : end] for end, text in zip(ends, texts, strict=True)], type=sequences.type)
