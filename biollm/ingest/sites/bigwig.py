"""bigWig files: a value per base, read in stretches of bounded size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import polars as pl

from biollm.core.errors import DataError, ResourceError

_STRETCH_BASES = 1 << 20
R = TypeVar("R")


def read_bigwig(file: Path) -> Iterator[pl.DataFrame]:
    """contig, position_0based and value (Float64, never NaN) of every base that has one, contig by contig.

    Raises DataError for a damaged file.
    """
    try:
        import pybigtools  # type: ignore[import-untyped]
    except ImportError:
        raise ResourceError(f"{file}: reading bigWig needs the package pybigtools; pip install pybigtools") from None
    with file.open("rb") as raw:  # not by its name: pybigtools refuses those that do not end in .bw or .bigWig
        reader = _read(file, lambda: pybigtools.open(raw))
        for contig, bases in _read(file, lambda: reader.chroms()).items():
            for start in range(0, bases, _STRETCH_BASES):
                end = min(start + _STRETCH_BASES, bases)
                values = _read(file, lambda: reader.values(contig, start, end, fillna=None))  # noqa: B023 (called at once)
                known = np.flatnonzero(~np.isnan(values))
                if len(known):
                    names = pl.repeat(contig, len(known), eager=True)
                    yield pl.DataFrame({"contig": names, "position_0based": known + start, "value": values[known]})


def _read(file: Path, ask: Callable[[], R]) -> R:
    try:
        return ask()
    except BaseException as error:
        # pybigtools 0.3 panics on a damaged block: pyo3's PanicException is no Exception, and no module gives it
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise DataError(f"{file}: not a whole bigWig file: {error}; fetch or export it again") from None
        raise
