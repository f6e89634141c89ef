"""Splits that do not leak, over made-up genomes with repeats, gaps and both strands."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass

import numpy as np
import polars as pl
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from biollm.core.alphabets import canonical, reverse_complement
from biollm.corpus.columns import SPLITS
from biollm.ingest.config import Config, SplitConfig
from biollm.ingest.splits import Grouping, assign_splits, in_gap
from biollm.ingest.stage import _assign, _group_windows


@dataclass(frozen=True)
class Placed:
    """Where a window lies, and what it reads: all that a split depends on."""

    source: str
    contig: str
    start_0based: int
    end: int
    sequence: str


class Windows(list[Placed]):
    """A list that a failing property prints in one line."""

    def __repr__(self) -> str:
        return f"<{len(self)} windows>"


def genome(seed: int, contigs: int, length: int, repeats: int, holes: int) -> dict[str, str]:
    """Random contigs with copied stretches (half of them on the other strand) and stretches of N."""
    rng = random.Random(seed)
    sequences = {f"c{i}": rng.choices("ACGT", k=length) for i in range(contigs)}
    names = sorted(sequences)
    for _ in range(repeats):
        source, target, size = rng.choice(names), rng.choice(names), 40
        a, b = rng.randrange(length - size), rng.randrange(length - size)
        copy = "".join(sequences[source][a : a + size])
        sequences[target][b : b + size] = reverse_complement(copy) if rng.random() < 0.5 else copy
    for _ in range(holes):
        name, size = rng.choice(names), rng.randrange(1, length // 2)
        start = rng.randrange(length - size)
        sequences[name][start : start + size] = "N" * size
    return {name: "".join(letters) for name, letters in sequences.items()}


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[Placed], Config, int]:
    sequences = genome(draw(st.integers(0, 10**6)), draw(st.integers(1, 3)), 600, draw(st.integers(0, 3)), draw(st.integers(0, 2)))
    width, stride = draw(st.integers(8, 40)), draw(st.integers(3, 60))
    split = {
        "block_bases": draw(st.integers(1, 200)),
        "gap_bases": draw(st.integers(0, 120)),
        "validation": draw(st.sampled_from([0.1, 0.3])),
        "test": draw(st.sampled_from([0.1, 0.3])),
    }
    try:
        config = Config.model_validate(
            {"sources": [{"name": "s", "sequences": "x"}], "window_bases": width, "stride_bases": stride, "split": split}
        )
    except ValidationError:  # a recipe that is refused cannot leak
        assume(False)
    windows = Windows(
        Placed(f"s{int(name[1:]) % 2}", name, start, start + width, sequence[start : start + width])
        for name, sequence in sequences.items()
        for start in range(0, len(sequence) - width + 1, stride)
        if "N" not in sequence[start : start + width]
    )
    assume(windows)
    return windows, config, draw(st.integers(0, 5))


def splits_of(windows: list[Placed], config: Config, seed: int) -> tuple[list[str], list[bool]]:
    contigs = sorted({w.contig for w in windows})
    plan = pl.DataFrame(
        {
            "source": [w.source for w in windows],
            "contig": [w.contig for w in windows],
            "contig_index": [contigs.index(w.contig) for w in windows],
            "start_0based": [w.start_0based for w in windows],
            "end": [w.end for w in windows],
            "hash": pl.Series([hash64(canonical(w.sequence)) for w in windows], dtype=pl.UInt64),
        }
    )
    split = _assign(plan, _group_windows(plan, config, "block", None), config, "block", seed)
    close = in_gap(plan["contig_index"].to_numpy(), plan["start_0based"].to_numpy(), plan["end"].to_numpy(), split, config.split)
    return [SPLITS[number] for number in split], (~close).tolist()


def hash64(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _empty_block_between() -> tuple[list[Placed], Config, int]:
    """Three blocks of 40 with the middle one unknown: windows of 10 in the outer ones lie 40 apart, and the gap asks for 60."""
    config = Config.model_validate(
        {
            "sources": [{"name": "s", "sequences": "x"}],
            "window_bases": 10,
            "split": {"block_bases": 40, "gap_bases": 60, "validation": 0.3, "test": 0.3},
        }
    )
    rng = random.Random(0)
    windows = [
        Placed("s", "c", s, s + 10, "".join(rng.choices("ACGT", k=10)))
        for block in (0, 2, 4, 6)
        for s in range(block * 40, block * 40 + 40, 10)
    ]
    return windows, config, 0


@settings(max_examples=150)
@given(cases())
def test_no_two_windows_of_different_splits_on_a_contig_lie_closer_than_the_gap(case: tuple[list[Placed], Config, int]) -> None:
    check_gap(case)


def test_the_gap_holds_across_a_block_without_windows() -> None:
    try:
        case = _empty_block_between()
    except ValidationError:  # refusing such a recipe keeps the promise too
        return
    check_gap(case)


def check_gap(case: tuple[list[Placed], Config, int]) -> None:
    windows, config, seed = case
    of, kept = splits_of(windows, config, seed)
    left = [(w, s) for w, s, k in zip(windows, of, kept, strict=True) if k]
    for i, (a, split_a) in enumerate(left):
        for b, split_b in left[i + 1 :]:
            if a.contig == b.contig and split_a != split_b:
                distance = max(a.start_0based, b.start_0based) - min(a.end, b.end)
                assert distance >= config.split.gap_bases, (a, split_a, b, split_b)


@given(cases())
def test_equal_windows_and_reverse_complements_share_a_split(case: tuple[list[Placed], Config, int]) -> None:
    windows, config, seed = case
    of, _ = splits_of(windows, config, seed)
    seen: dict[str, str] = {}
    for window, split in zip(windows, of, strict=True):
        assert seen.setdefault(canonical(window.sequence), split) == split


@given(cases())
def test_a_block_is_never_torn_and_every_window_has_a_split(case: tuple[list[Placed], Config, int]) -> None:
    windows, config, seed = case
    of, kept = splits_of(windows, config, seed)
    assert len(of) == len(kept) == len(windows)
    assert set(of) <= {"train", "validation", "test"}
    seen: dict[tuple[str, int], str] = {}
    for window, split in zip(windows, of, strict=True):
        assert seen.setdefault((window.contig, window.start_0based // config.split.block_bases), split) == split


@given(cases())
def test_splits_are_a_function_of_windows_and_seed(case: tuple[list[Placed], Config, int]) -> None:
    windows, config, seed = case
    assert splits_of(windows, config, seed) == splits_of(windows, config, seed)


@example(2)
@given(st.integers(0, 1000))
def test_shares_are_met_when_groups_are_small(seed: int) -> None:
    config = Config.model_validate(
        {
            "sources": [{"name": "s", "sequences": "x"}],
            "window_bases": 20,
            "split": {"block_bases": 20, "gap_bases": 0, "validation": 0.15, "test": 0.2},
        }
    )
    rng = random.Random(seed)
    windows = [Placed("s", "c", s, s + 20, "".join(rng.choices("ACGT", k=20))) for s in range(0, 4000, 20)]
    of, _ = splits_of(windows, config, seed)
    assert (of.count("train"), of.count("validation"), of.count("test")) == (130, 30, 40)


def assigned(names: list[str], config: SplitConfig) -> list[int]:
    grouping, strata = Grouping(np.arange(len(names), dtype=np.int32), names), pl.Series([""] * len(names))
    return assign_splits(grouping, strata, config, balanced=False, seed=3).tolist()


@given(st.sets(st.text("abcd", min_size=1, max_size=6), min_size=1, max_size=40), st.data())
def test_a_stable_split_never_moves_when_records_are_added(names: set[str], data: st.DataObject) -> None:
    config, listed = SplitConfig(by="random", assign="stable"), sorted(names)
    some = data.draw(st.lists(st.sampled_from(listed), min_size=1, unique=True))

    def split(chosen: list[str]) -> dict[str, int]:
        grouping = Grouping(np.arange(len(chosen), dtype=np.int32), chosen)
        return dict(
            zip(chosen, assign_splits(grouping, pl.Series([""] * len(chosen)), config, balanced=False, seed=3).tolist(), strict=True)
        )

    whole = split(listed)
    assert all(whole[name] == number for name, number in split(some).items())


def test_stable_shares_are_met_over_many_records() -> None:
    config, names = SplitConfig(by="random", assign="stable", validation=0.15, test=0.2), [f"r{i}" for i in range(20_000)]
    found = assigned(names, config)
    shares = np.bincount(found, minlength=3) / len(names)
    assert np.abs(shares - [0.65, 0.15, 0.2]).max() < 0.015, shares
