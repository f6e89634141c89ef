"""Windows read what their place and strand say, however they are placed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from biollm.core.alphabets import canonical, reverse_complement
from biollm.ingest.annotation import Annotation, Intervals
from biollm.ingest.config import Config
from biollm.ingest.sites.config import SiteOptions
from biollm.ingest.sites.join import site_columns, window_lists
from biollm.ingest.sites.read import read_sites
from biollm.ingest.windows import Windows, plan_windows, read_windows, window_hashes


def planned(
    sequence: str, annotated: list[tuple[str, int, int, str]] | None = None, regions: Intervals | None = None, **config: Any
) -> tuple[list[tuple[int, int, str, str]], Counter[str]]:
    """(start, end, strand, letters) of the windows, and what was dropped."""
    source = {"name": "s", "sequences": "x", "annotation": "y"}
    split = {"block_bases": 10_000, "gap_bases": 0}
    settings = Config.model_validate({"sources": [source], "window_bases": 10, "split": split, "max_unknown_fraction": 0, **config})
    letters = np.frombuffer(sequence.encode(), dtype=np.uint8)
    table = pl.DataFrame(annotated or [], schema=["type", "start_0based", "end", "strand"], orient="row")
    windows, dropped = plan_windows(letters, settings, table if annotated else None, regions)
    strands = np.where(windows.minus, "-", "+").tolist()
    return list(
        zip(windows.starts.tolist(), windows.ends.tolist(), strands, read_windows(letters, windows).to_pylist(), strict=True)
    ), Counter({reason: len(lost) for reason, lost in dropped.items()})


SEQUENCE = "".join(np.random.default_rng(0).choice(list("ACGT"), 100))


def test_a_window_on_both_strands_is_a_window_and_its_reverse_complement() -> None:
    found, _ = planned(SEQUENCE[:20], strands="both")
    assert found == [
        (0, 10, "+", SEQUENCE[:10]), (0, 10, "-", reverse_complement(SEQUENCE[:10])),
        (10, 20, "+", SEQUENCE[10:20]), (10, 20, "-", reverse_complement(SEQUENCE[10:20])),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("strand", "anchor", "place"),
    [
        ("+", "start", (26, 33)), ("-", "start", (47, 54)), ("+", "end", (45, 52)), ("-", "end", (28, 35)),
        ("+", "center", (35, 42)), ("-", "center", (37, 44)),
    ],
)  # fmt: skip
def test_a_window_at_an_anchor_lies_upstream_and_downstream_of_it_on_its_strand(strand: str, anchor: str, place: tuple[int, int]) -> None:
    """A feature on [30, 50): its 5' base is 30 on plus, 49 on minus. 4 bases before the anchor, then 3 from the anchor on."""
    features = {"feature": "gene", "anchor": anchor, "before_bases": 4, "after_bases": 3}
    ((start, end, found_strand, letters),), _ = planned(SEQUENCE, [("gene", 30, 50, strand), ("mRNA", 1, 9, "+")], features=features)
    plain = SEQUENCE[start:end]
    assert (start, end, found_strand) == (*place, strand)
    assert letters == (plain if strand == "+" else reverse_complement(plain))


def test_a_promoter_is_what_lies_before_the_first_base_of_its_gene() -> None:
    """Both strands carry the same promoter and gene, read from their own ends."""
    promoter, gene = SEQUENCE[:10], SEQUENCE[10:30]
    genome = promoter + gene + "N" * 20 + reverse_complement(promoter + gene)
    features = {"feature": "gene", "anchor": "start", "before_bases": 10, "after_bases": 2}
    found, _ = planned(genome, [("gene", 10, 30, "+"), ("gene", 50, 70, "-")], features=features)
    assert [letters for *_, letters in found] == [promoter + gene[:2]] * 2


def test_whole_features_are_cut_into_windows_and_those_beyond_the_contig_are_counted() -> None:
    found, _ = planned(SEQUENCE, [("CDS", 5, 30, "+"), ("CDS", 50, 57, "-"), ("CDS", 5, 30, "+")], features={"feature": "CDS"})
    assert [place[:3] for place in found] == [(5, 15, "+"), (15, 25, "+"), (25, 30, "+"), (50, 57, "-")]
    features = {"feature": "CDS", "anchor": "start", "before_bases": 9, "after_bases": 1}
    found, dropped = planned(SEQUENCE, [("CDS", 5, 30, "+"), ("CDS", 40, 50, "+")], features=features)
    assert [place[:2] for place in found] == [(31, 41)]
    assert dropped["beyond_the_contig"] == 1


def test_regions_keep_the_windows_that_lie_inside_whole() -> None:
    found, dropped = planned(SEQUENCE, regions=np.array([[0, 25], [39, 61]]))
    assert [place[0] for place in found] == [0, 10, 40, 50]
    assert dropped["outside_the_regions"] == 6


def test_places_beyond_two_to_the_31_are_exact(tmp_path: Path) -> None:
    """A sparse file of 2.1 gigabases, of which only the end is written: windows, their letters, and sites in them."""
    length, tail = 2**31 + 2000, "".join(np.random.default_rng(1).choice(list("ACGT"), 1000))
    letters = np.memmap(tmp_path / "sparse", dtype=np.uint8, mode="w+", shape=(length,))
    letters[-1000:] = np.frombuffer(tail.encode(), dtype=np.uint8)
    begin = length - 1000
    (tmp_path / "far.bed").write_text(f"c\t{begin}\t{begin + 40}\tx\t0\t-\n")
    features = Annotation([tmp_path / "far.bed"]).on("c", length)
    source = {"name": "s", "sequences": "x", "annotation": "y"}
    config = Config.model_validate({"sources": [source], "window_bases": 20, "features": {"feature": "interval"}})
    windows, _ = plan_windows(letters, config, features, None)
    assert windows.starts.tolist() == [begin, begin + 20] > [2**31] * 2
    assert read_windows(letters, windows).to_pylist() == [reverse_complement(tail[:20]), reverse_complement(tail[20:40])]
    (tmp_path / "far.bedgraph").write_text(f"c\t{begin + 3}\t{begin + 4}\t7\n")
    (sites,) = read_sites(tmp_path / "far.bedgraph", "bedgraph", SiteOptions())
    position, level, _ = site_columns(sites)
    (levels,) = window_lists(position, [level], windows.starts[:1], windows.ends[:1], windows.minus[:1])
    assert [i for i, value in enumerate(levels[0].as_py()) if value is not None] == [16], "of 20 bases, read backwards"


@given(st.text("ACGTN", min_size=1, max_size=60), st.text("ACGTN", min_size=1, max_size=60))
def test_two_windows_have_one_hash_if_they_read_the_same_on_either_strand(one: str, other: str) -> None:
    def hashes(sequence: str) -> int:
        windows = Windows(np.array([0]), np.array([len(sequence)]), np.array([False]))
        return int(window_hashes(np.frombuffer(sequence.encode(), dtype=np.uint8), windows)[0])

    assert hashes(one) == hashes(reverse_complement(one))
    assert (hashes(one) == hashes(other)) == (canonical(one) == canonical(other))
