"""What the page says about single records: maps that `biollm mutagenesis` and `biollm attention` made, drawn again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl

from biollm.core.errors import ConfigError, DataError
from biollm.core.files import read_json, sha256_file
from biollm.core.job import Job
from biollm.core.pictures import SUBSTITUTIONS, attention_map, substitution_map
from biollm.report import charts
from biollm.report.config import Config
from biollm.report.content import Figure, Section, Source
from biollm.report.numbers import count, decimal, signed

# Of all pictures together: about 3 of the 5 MB that a page may have.
_MOST_CELLS = 40_000
_SIDE_PIXELS = 520


def draw(job: Job[Config]) -> list[Figure]:
    """The files that report.pictures names, as figures.

    Raises ConfigError for what is no such file and for more cells than a page holds, DataError for a damaged one.
    """
    figures: list[Figure] = []
    left = _MOST_CELLS
    for resource in job.config.pictures:
        for path in job.files(resource):
            if path.suffix not in _READERS:
                raise ConfigError(f"{path}: no picture; name mutagenesis.parquet or attention.json, as the commands of these names write")
            cells, drawn = _READERS[path.suffix](path, len(figures))
            left -= cells
            if left < 0:
                raise ConfigError(
                    f"{path}: with it the pictures have {count(_MOST_CELLS - left)} cells, and a page holds {count(_MOST_CELLS)}; "
                    "name fewer, or make them smaller: mutagenesis with --start, --end and --step, attention with --layer and --head"
                )
            figures += drawn
    return figures


def pictures(figures: list[Figure]) -> Section | None:
    """The section of these figures; None without any."""
    if not figures:
        return None
    prose = ["Single records, chosen by whoever made this report: they show what the model reads there; how well it does, the scores tell."]
    return Section("pictures", "What the model looks at", prose, figures)


def _substitutions(path: Path, number: int) -> tuple[int, Iterator[Figure]]:
    """The number of cells in the file, and a figure for each record."""
    try:
        table = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{path}: not a whole Parquet table; make it again with: biollm mutagenesis") from error
    if dict(table.schema) != SUBSTITUTIONS or not table.height:
        raise ConfigError(
            f"{path}: no table of substitutions, whose columns are {', '.join(SUBSTITUTIONS)}; make one with: biollm mutagenesis"
        )
    source = Source("mutagenesis", sha256_file(path))
    records = table.partition_by("id", maintain_order=True)
    return table.height, (_mutagenesis(record["id"][0], record, source, number + i) for i, record in enumerate(records))


def _mutagenesis(name: str, table: pl.DataFrame, source: Source, number: int) -> Figure:
    up, down = table.row(int(table["effect"].arg_max() or 0), named=True), table.row(int(table["effect"].arg_min() or 0), named=True)
    says = "; ".join(f"{r['reference']}{r['position_0based'] + 1}{r['letter']} {signed(r['effect'])}" for r in (up, down))
    own = table["score"][0] - table["effect"][0]
    return Figure(
        id=f"picture-{number}",
        title=f"Every substitution in {name}",
        caption=f"Change of the {table['unit'][0]}, which is {decimal(own)} for the sequence itself. Strongest both ways: {says}.",
        alt=f"Heat map of positions by letters for {name}; strongest effects: {says}.",
        spec=charts.fitted(substitution_map(table)),
        sources=[source],
        is_wide=True,
    )


def _attention(path: Path, number: int) -> tuple[int, Iterator[Figure]]:
    """The number of cells in the file, and its figure."""
    found = read_json(path)
    try:
        labels, layers, heads, weights = (found[key] for key in ("labels", "layers", "heads", "weights"))
        if np.shape(weights) != (len(layers), len(heads), len(labels), len(labels)):
            raise ValueError(np.shape(weights))
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: no attention map; make one with: biollm attention") from error

    def draw() -> Iterator[Figure]:
        yield Figure(
            id=f"picture-{number}",
            title="Attention",
            caption=f"Which of {len(labels)} tokens looks at which; each row sums to 1. Choices below the heading: layer and head.",
            alt=f"Heat map of the attention between {len(labels)} tokens.",
            spec=charts.fitted(attention_map(labels, layers, heads, weights).properties(height=_SIDE_PIXELS)),
            sources=[Source("attention", sha256_file(path))],
            is_wide=True,
        )

    return len(layers) * (len(heads) + (len(heads) > 1)) * len(labels) ** 2, draw()


_READERS: dict[str, Callable[[Path, int], tuple[int, Iterator[Figure]]]] = {".parquet": _substitutions, ".json": _attention}
