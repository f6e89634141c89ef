"""Splits that do not leak: whole position blocks, joined where they share a window on either strand, with a gap between splits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from biollm.core.alphabets import canonical
from biollm.core.seeding import generator
from biollm.ingest.config import SplitConfig

Block = tuple[str, int]  # contig, number of the block on it


@dataclass(frozen=True)
class Placed:
    """Where a window lies, and what it reads: all that a split depends on."""

    source: str
    contig: str
    start_0based: int
    end: int
    sequence: str


def group_blocks(windows: Sequence[Placed], block_bases: int) -> dict[Block, str]:
    """Join blocks that share a window (or its reverse complement) into groups: block -> name of its group.

    Two windows with the same canonical sequence always end in one group, however far apart they lie.
    """
    parent: dict[Block, Block] = {}

    def root(block: Block) -> Block:
        while parent[block] != block:
            parent[block] = parent[parent[block]]
            block = parent[block]
        return block

    first_with: dict[str, Block] = {}
    for window in windows:
        block = (window.contig, window.start_0based // block_bases)
        parent.setdefault(block, block)
        twin = root(first_with.setdefault(canonical(window.sequence), block))
        low, high = sorted((twin, root(block)))
        parent[high] = low
    return {block: "{}:{}".format(*root(block)) for block in parent}


def assign_splits(windows: Sequence[Placed], groups: dict[Block, str], config: SplitConfig, seed: int) -> dict[str, str]:
    """Give each group to train, validation or test: group -> split.

    Within each source, groups come in seeded order, large ones first, and each goes where most windows are still missing; so
    every split has its share of every source. A group that spans sources counts for the source of its first window.
    """
    sizes: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    home: dict[str, str] = {}
    for window in windows:
        group = groups[window.contig, window.start_0based // config.block_bases]
        sizes[home.setdefault(group, window.source)][group] += 1
    shares = {"train": 1 - config.validation - config.test, "validation": config.validation, "test": config.test}
    splits: dict[str, str] = {}
    for source, of_group in sorted(sizes.items()):
        total = sum(of_group.values())
        missing = {split: share * total for split, share in shares.items()}
        order = generator(seed, "split", source).permutation(sorted(of_group)).tolist()
        for group in sorted(order, key=lambda name: -of_group[name]):  # stable: the seeded order decides among equals
            split = max(missing, key=lambda name: missing[name])
            splits[group] = split
            missing[split] -= of_group[group]
    return splits


def in_gap(window: Placed, groups: dict[Block, str], splits: dict[str, str], config: SplitConfig) -> bool:
    """Whether a window lies too close to a block border behind which another split begins.

    Half the gap is kept free on each side of such a border, so two splits are never closer than `gap_bases`.
    """

    def split_of(number: int) -> str | None:
        group = groups.get((window.contig, number))
        return splits[group] if group is not None else None

    block = window.start_0based // config.block_bases
    own, half = split_of(block), config.gap_bases / 2
    before, after = split_of(block - 1), split_of(block + 1)
    near_start = before not in (None, own) and window.start_0based < block * config.block_bases + half
    near_end = after not in (None, own) and window.end > (block + 1) * config.block_bases - half
    return near_start or near_end
