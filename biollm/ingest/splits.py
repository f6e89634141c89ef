"""Splits that do not leak: what belongs together stays together, and so does what reads the same.

A record has a *key* (its position block, contig, source, group, cluster of similar records, or its own id). Keys that share a sequence, on
either strand, are joined into one *group*, and a group is in one split.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from biollm.core.seeding import derive_seed, generator
from biollm.corpus.columns import SPLITS
from biollm.ingest.config import SplitConfig

Ints = NDArray[np.int64]
Codes = NDArray[np.uint8]  # numbers of SPLITS


@dataclass(frozen=True)
class Grouping:
    """of_row: (rows,) number of each record's group; names: of each group, as `group_records` chose it."""

    of_row: NDArray[np.int32]
    names: list[str]

    def take(self, rows: NDArray[np.bool_]) -> Grouping:
        """The groups of some of the rows; those without any are gone."""
        left, of_row = np.unique(self.of_row[rows], return_inverse=True)
        return Grouping(of_row.astype(np.int32), [self.names[group] for group in left.tolist()])


def group_records(keys: Ints, names: Sequence[str] | Callable[[Ints], list[str]] | None, hashes: NDArray[np.uint64]) -> Grouping:
    """Groups of records: those with one key, and those whose sequences have one hash.

    keys: (rows,) numbers in the order by which the first key of a group is chosen, which names it; names: of all keys, or what gives those
    of some. None: keys mean nothing by themselves, so a group is named after the smallest of its hashes, which no copy of a record changes.
    """
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    twins = np.flatnonzero(ordered[1:] == ordered[:-1])
    rows, other_rows = order[twins + 1], order[twins]
    del order, ordered
    distinct, inverse = np.unique(keys, return_inverse=True)
    of_row = inverse.astype(np.int32)
    del inverse
    one, other = of_row[rows], of_row[other_rows]
    edges = coo_array((np.ones(len(one), dtype=np.int8), (one, other)), shape=(len(distinct), len(distinct)))
    _, label = connected_components(edges, directed=False)
    _, first = np.unique(label, return_index=True)  # the first key of each component, in the order of the labels
    rank = np.argsort(np.argsort(first))
    chosen = distinct[np.sort(first)]
    of_row = rank[label].astype(np.int32)[of_row]
    if names is None:
        smallest = np.full(len(chosen), np.iinfo(np.uint64).max, dtype=np.uint64)
        np.minimum.at(smallest, of_row, hashes)
        return Grouping(of_row, [f"{number:016x}" for number in smallest.tolist()])
    return Grouping(of_row, names(chosen) if callable(names) else [names[key] for key in chosen.tolist()])


def assign_splits(groups: Grouping, strata: pl.Series, config: SplitConfig, balanced: bool, seed: int) -> Codes:
    """The split of each group, as its number in SPLITS.

    Balanced: within each stratum groups come in seeded order, large ones first, and each goes where most records are still missing; so
    every split has its share of every stratum. A group of several strata counts for that of its first record. strata: (rows,).
    Stable: a hash of seed and name decides for each group alone.
    """
    if not balanced:
        return np.array([SPLITS.index(_by_hash(name, config, seed)) for name in groups.names], dtype=np.uint8)
    sizes = np.bincount(groups.of_row, minlength=len(groups.names))
    _, first = np.unique(groups.of_row, return_index=True)
    home: dict[str, list[int]] = defaultdict(list)
    for group, stratum in enumerate(strata.gather(first).to_list()):
        home[stratum].append(group)
    splits = np.zeros(len(groups.names), dtype=np.uint8)
    shares = {"train": 1 - config.validation - config.test, "validation": config.validation, "test": config.test}
    for stratum, members in sorted(home.items()):
        total = int(sizes[members].sum())
        missing = {split: share * total for split, share in shares.items()}
        by_name = sorted(members, key=lambda group: groups.names[group])
        order = generator(seed, "split", stratum).permutation(by_name).tolist()
        for group in sorted(order, key=lambda group: -sizes[group]):  # stable: the seeded order decides among equals
            split = max(missing, key=lambda name: missing[name])
            splits[group] = SPLITS.index(split)
            missing[split] -= int(sizes[group])
    return splits


def _by_hash(name: str, config: SplitConfig, seed: int) -> str:
    digest = hashlib.blake2b(name.encode(), digest_size=8, key=derive_seed(seed, "split").to_bytes(8, "big")).digest()
    share = int.from_bytes(digest, "big") / 2**64
    return "test" if share < config.test else "validation" if share < config.test + config.validation else "train"


def in_gap(contig_of_row: Ints, starts: Ints, ends: Ints, split_of_row: Codes, config: SplitConfig) -> NDArray[np.bool_]:
    """Whether windows lie too close to a block border behind which another split begins. (rows,)

    Half the gap is kept free on each side of such a border, so two splits are never closer than `gap_bases`.
    """
    block = starts // config.block_bases
    width = int(block.max(initial=0)) + 3
    place = contig_of_row * width + block + 1
    known, index = np.unique(place, return_index=True)
    half = config.gap_bases / 2

    def differs(step: int) -> NDArray[np.bool_]:
        at = np.minimum(np.searchsorted(known, place + step), len(known) - 1)
        return np.asarray((known[at] == place + step) & (split_of_row[index[at]] != split_of_row))

    near_start = differs(-1) & (starts < block * config.block_bases + half)
    near_end = differs(1) & (ends > (block + 1) * config.block_bases - half)
    return np.asarray(near_start | near_end)
