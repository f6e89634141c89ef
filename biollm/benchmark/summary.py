"""Means, standard deviations and ranks of what was scored. Pure: numbers in, numbers out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from biollm.benchmark.scoring import Entry, Kind
from biollm.classify.measures import Measure


@dataclass(frozen=True)
class Summary:
    """One entry on one table. mean: over the seeds that could be measured, None if none; sd: of a sample, None for fewer than two (so also
    where one fit stands for all seeds).

    rank: 1 is the best by the mean; entries with equal means share the middle of their ranks.
    """

    name: str
    kind: Kind
    mean: float | None
    sd: float | None
    rank: float | None
    values: list[float | None]
    note: str = ""


@dataclass(frozen=True)
class MeanRank:
    """An entry's mean rank over the tables that it was scored on. wins: how often no entry was better; equals at the top all win."""

    name: str
    kind: Kind
    mean_rank: float
    tables: int
    wins: int


def summarise(entries: Sequence[Entry], measure: Measure) -> list[Summary]:
    """The entries of a table, the best first; those without a mean last."""
    values = [np.array([found[measure.name] for found in entry.measures], dtype=np.float64) for entry in entries]
    known = [column[~np.isnan(column)] for column in values]
    means = [float(column.mean()) if len(column) else None for column in known]
    signs = -1 if measure.higher_is_better else 1
    scored = [i for i, mean in enumerate(means) if mean is not None]
    ranked = rankdata([round(signs * float(means[i]), 12) for i in scored])  # type: ignore[arg-type]  # None is left out
    rank_of = {i: float(rank) for i, rank in zip(scored, ranked, strict=True)}
    found = [
        Summary(
            entry.name,
            entry.kind,
            means[i],
            float(known[i].std(ddof=1)) if len(known[i]) > 1 else None,
            rank_of.get(i),
            [None if np.isnan(value) else float(value) for value in values[i]],
            entry.note,
        )
        for i, entry in enumerate(entries)
    ]
    return sorted(found, key=lambda one: (one.rank is None, one.rank or 0))


def mean_ranks(tables: Sequence[Sequence[Summary]]) -> list[MeanRank]:
    """Over all tables: the entries of the most tables first, of these the best first. An entry that a table does not have (no letters by
    position, …) is not ranked there, and a rank over other tables is not to be held against one over all."""
    ranks: dict[tuple[str, Kind], list[float]] = {}
    wins: Counter[tuple[str, Kind]] = Counter()
    for table in tables:
        best = min((one.rank for one in table if one.rank is not None), default=None)
        for one in table:
            if one.rank is not None:
                ranks.setdefault((one.name, one.kind), []).append(one.rank)
                wins[one.name, one.kind] += one.rank == best
    found = [MeanRank(*who, float(np.mean(of)), len(of), wins[who]) for who, of in ranks.items()]
    return sorted(found, key=lambda one: (-one.tables, one.mean_rank, one.name))
