from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pysam
import pytest

from biollm.core.errors import ConfigError, DataError
from biollm.ingest.reads import pileup as module
from biollm.ingest.reads.bam import Reference
from biollm.ingest.reads.config import ReadOptions
from biollm.ingest.reads.modifications import to_bases
from biollm.ingest.reads.pileup import SCHEMA, pileup

Record = Callable[..., pysam.AlignedSegment]
Write = Callable[..., Path]
_N = None


def pile(file: Path, reference: Reference | None = None, **options: Any) -> tuple[pl.DataFrame, dict[str, int]]:
    batches = pileup(file, ReadOptions(**options), reference)
    frame = pl.concat(list(batches))
    assert frame.schema == SCHEMA
    return frame, batches.counts


def sites(frame: pl.DataFrame) -> list[tuple[Any, ...]]:
    return frame.select("contig", "position_0based", "strand", "context", "modification", "level", "coverage").rows()


def refusal(file: Path, reference: Reference | None = None, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        pile(file, reference, **options)
    return str(caught.value)


def genome(chr1: str) -> Reference:
    return Reference({"chr1": to_bases(chr1.ljust(1000, "N"))}, "genome.fa")


def test_levels_are_modified_among_valid_calls_per_strand(write_bam: Write, record: Record) -> None:
    reads = [
        record("a", "TCGA", MM="C+m?,0;", ML=[128]),
        record("b", "TCGA", MM="C+m?,0;", ML=[127]),
        record("c", "TCGA", MM="C+m?,0;", ML=[0]),
        record("d", "TCGA", flag=16, MM="C+m?,0;", ML=[255]),
    ]
    frame, counts = pile(write_bam(reads))
    assert sites(frame) == [
        ("chr1", 11, "+", _N, "5mC", pytest.approx(1 / 3), 3),
        ("chr1", 12, "-", _N, "5mC", 1, 1),
    ]
    assert counts == {"records": 4, "kept": 4, "calls": 4}


def test_calls_between_the_thresholds_are_not_valid(write_bam: Write, record: Record) -> None:
    reads = [record(f"r{ml}", "TCGA", MM="C+m?,0;", ML=[ml]) for ml in (10, 100, 156, 240)]
    frame, _ = pile(write_bam(reads), call_threshold=0.75)
    assert sites(frame) == [("chr1", 11, "+", _N, "5mC", 0.5, 2)]
    frame, _ = pile(write_bam([record("r", "TCGA", MM="C+m?,0;", ML=[127])]), call_threshold=128.5 / 256)
    assert sites(frame) == [("chr1", 11, "+", _N, "5mC", 0, 1)], "both thresholds belong to the valid calls"
    frame, _ = pile(write_bam(reads[1:3]), call_threshold=0.75)
    assert sites(frame) == [("chr1", 11, "+", _N, "5mC", None, 0)], "no valid call: missing, not unmethylated"


def test_insertions_deletions_clips_and_gaps_move_what_lies_behind_them(write_bam: Write, record: Record) -> None:
    # CC clipped, C at 10, C inserted, C at 11, deletion of 12-13, C at 14, gap of 100, C at 115
    frame, _ = pile(write_bam([record("a", "CCCCCCC", 10, "2S1M1I1M2D1M100N1M", MM="C+m.;")]))
    assert frame["position_0based"].to_list() == [10, 11, 14, 115]


def test_the_opposite_strand_of_a_read_counts_on_the_opposite_strand(write_bam: Write, record: Record) -> None:
    forward = record("a", "TCGA", MM="G-m?,0;", ML=[255])
    reverse = record("b", "TCGA", flag=16, MM="G-m?,0;", ML=[255])
    frame, _ = pile(write_bam([forward, reverse]))
    assert frame.select("position_0based", "strand").rows() == [(11, "+"), (12, "-")]


def test_each_modification_is_judged_on_its_own(write_bam: Write, record: Record) -> None:
    frame, _ = pile(write_bam([record("a", "ACA", MM="C+mh?,0;A+a?,1;", ML=[20, 230, 255])]), modifications=("6mA", "5mC", "5hmC"))
    assert [row[1:3] + row[4:] for row in sites(frame)] == [(11, "+", "5hmC", 1, 1), (11, "+", "5mC", 0, 1), (12, "+", "6mA", 1, 1)]


def test_context_is_that_of_the_reference(write_bam: Write, record: Record) -> None:
    reference = genome("N" * 10 + "CGCAGCTTACN")
    file = write_bam([record("a", "CGCAGCTTAC", MM="C+m.;A+a.;G-m.;")])
    frame, _ = pile(file, reference, modifications=("5mC", "6mA"))
    assert [(row[1] - 10, row[2], row[3], row[4]) for row in sites(frame)] == [
        *[(0, "+", "CG", "5mC"), (1, "-", "CG", "5mC"), (2, "+", "CHG", "5mC"), (3, "+", None, "6mA"), (4, "-", "CHG", "5mC")],
        *[(5, "+", "CHH", "5mC"), (8, "+", None, "6mA"), (9, "+", None, "5mC")],
    ]
    frame, _ = pile(file, reference, modifications=("5mC", "6mA"), contexts=("CG", "unknown"))
    assert (frame["position_0based"] - 10).to_list() == [0, 1, 3, 8, 9]


def test_without_a_reference_contexts_are_those_of_each_read(write_bam: Write, record: Record) -> None:
    file = write_bam([record("a", "CGC", MM="C+m.;"), record("b", "CTC", MM="C+m.;")])
    frame, _ = pile(file, contexts=("CG",))
    assert sites(frame) == [("chr1", 10, "+", _N, "5mC", 0, 1)]


def test_sites_off_the_reference_are_left_out_and_counted(write_bam: Write, record: Record) -> None:
    reference = genome("N" * 10 + "CGTGCG")
    good = [record(f"r{i}", "CGTGCG", MM="C+m.;") for i in range(2)]
    error = record("error", "CGCGCG", MM="C+m.;")
    frame, counts = pile(write_bam([*good, error]), reference)
    assert (frame["position_0based"] - 10).to_list() == [0, 4]
    assert (counts["sites_off_reference"], counts["calls_off_reference"]) == (1, 1)
    assert (counts["sites_checked"], counts["sites_refuted"]) == (2, 0), "one of three reads is an error, not another reference"


def test_a_reference_that_most_reads_contradict_is_refused(write_bam: Write, record: Record) -> None:
    file = write_bam([record("a", "CGTGCG", MM="C+m.;"), record("b", "CGTGCG", flag=16, MM="C+m.;")])
    shifted = genome("N" * 9 + "CGTGCG")
    found = refusal(file, shifted)
    assert "sites (" in found
    assert "lie on another base of the reference than the modification needs; at most 1.0% may (max_off_reference)" in found
    _, counts = pile(file, shifted, max_off_reference=1.0)
    assert counts["sites_refuted"] == counts["sites_off_reference"] > 0


def test_reads_out_of_order_are_refused_with_the_command(write_bam: Write, record: Record) -> None:
    reads = [record("a", start_0based=20, MM="C+m.;"), record("b", start_0based=10, MM="C+m.;")]
    file = write_bam(reads, sort_order="unsorted")
    assert f"the order of reads is unsorted; a pileup needs them by position: samtools sort -o sorted.bam {file}" in refusal(file)
    file = write_bam(reads)
    found = refusal(file)
    assert "read 'b' at chr1:10 lies before the read ahead of it, though the header says that the reads are sorted" in found
    assert f"samtools sort -o sorted.bam {file}" in found
    file = write_bam([record("a", contig="chr2", MM="C+m.;"), record("b", MM="C+m.;")])
    assert "read 'b' at chr1:10 lies before" in refusal(file)


def test_contigs_follow_one_another(write_bam: Write, record: Record) -> None:
    frame, _ = pile(write_bam([record("a", start_0based=50, MM="C+m.;"), record("b", contig="chr2", start_0based=5, MM="C+m.;")]))
    assert frame.select("contig", "position_0based").rows() == [("chr1", 51), ("chr1", 55), ("chr2", 6), ("chr2", 10)]


def test_unmapped_reads_have_no_site_and_nothing_left_is_refused(write_bam: Write, record: Record) -> None:
    file = write_bam([record("u", flag=4, MM="C+m.;")])
    assert "none of 1 records is left (dropped: 1 unmapped)" in refusal(file, keep_unmapped=True)


def test_bisulfite_reads_are_referred_to_their_own_tool(write_bam: Write) -> None:
    with pytest.raises(ConfigError, match="bismark_methylation_extractor"):
        pileup(write_bam([]), ReadOptions(kind="bisulfite"))


def by_hand(reads: list[pysam.AlignedSegment], threshold: float) -> dict[tuple[int, str], tuple[int, int]]:
    """(position, strand) -> modified and valid calls, base by base with htslib's own parser and positions."""
    found: dict[tuple[int, str], tuple[int, int]] = {}
    for read in reads:
        places = read.get_reference_positions(full_length=True)
        for (_, opposite, code), calls in (read.modified_bases or {}).items():
            for place, value in calls:
                if code != "m" or places[place] is None:
                    continue
                probability = (value + 0.5) / 256
                # htslib's strand is that of the record as it is held
                site = (places[place], "-" if opposite else "+")
                modified, valid = found.get(site, (0, 0))
                is_modified = probability >= threshold
                found[site] = (modified + is_modified, valid + (is_modified or 1 - probability >= threshold))
    return found


def random_reads(record: Record, number: int, seed: int) -> list[pysam.AlignedSegment]:
    random = np.random.default_rng(seed)
    reads = []
    for i in range(number):
        lengths = random.integers(1, 12, 7)
        cigar = "".join(f"{n}{op}" for n, op in zip(lengths, "SMIMDMS", strict=True))
        bases = int(lengths[[0, 1, 2, 3, 5, 6]].sum())
        sequence = "".join(random.choice(list("ACGT"), bases))
        flag = int(random.choice([0, 16]))
        mm, ml = "", []
        for head, base in (("C+m?", "C"), ("G-m?", "G")):
            have = sequence.count(base if flag == 0 else {"C": "G", "G": "C"}[base])
            listed = np.sort(random.choice(have, int(random.integers(0, have + 1)), replace=False)) if have else []
            mm += head + "".join(f",{delta}" for delta in np.diff(listed, prepend=-1) - 1) + ";"
            ml += random.integers(0, 256, len(listed)).tolist()
        start = int(random.integers(0, 900))
        reads.append(record(f"r{i}", sequence, start, cigar, flag, MM=mm, ML=ml))
    return sorted(reads, key=lambda read: int(read.reference_start))


@pytest.mark.parametrize("held", [1, 50, 2_000_000])
def test_any_reads_sum_up_as_counted_by_hand_whatever_is_held(
    held: int, write_bam: Write, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_HELD_CALLS", held)
    reads = random_reads(record, 400, seed=5)
    expected = by_hand(reads, 0.7)
    frame, _ = pile(write_bam(reads), call_threshold=0.7)
    ours = {
        (p, s): (round((level or 0) * n), int(n))
        for p, s, level, n in frame.select("position_0based", "strand", "level", "coverage").rows()
    }
    assert ours == expected
    assert len(expected) > 1000
    assert frame["position_0based"].is_sorted()


def test_what_the_reference_says_does_not_depend_on_what_is_held(write_bam: Write, record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_bam(random_reads(record, 300, seed=7))
    reference = genome("".join(np.random.default_rng(8).choice(list("ACGTN"), 1000)))
    frame, counts = pile(file, reference, max_off_reference=1.0)
    assert 0 < counts["sites_refuted"] < counts["sites_checked"] < len(frame) + counts["sites_off_reference"]
    monkeypatch.setattr(module, "_HELD_CALLS", 1)
    in_pieces, counts_in_pieces = pile(file, reference, max_off_reference=1.0)
    assert in_pieces.equals(frame)
    assert counts_in_pieces == counts


def test_finished_sites_leave_while_reads_still_come(write_bam: Write, record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_HELD_CALLS", 100)
    monkeypatch.setattr(module, "BATCH_SITES", 40)
    batches = pileup(write_bam(random_reads(record, 400, seed=6)), ReadOptions())
    frames, most = [], 0
    for frame in batches:
        frames.append(frame)
        most = max(most, sum(tally.held for tally in batches._tallies.values()))
    assert len(frames) > 20
    assert max(len(frame) for frame in frames) <= 40
    assert most < 1000
    whole = pl.concat(frames)
    assert not whole.select("position_0based", "strand").is_duplicated().any()


# --- real files -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(shared: Callable[[str], Path]) -> Path:
    return shared("human_gm12878_chr19_modbam")


def real_reference(folder: Path, name: str) -> Reference:
    """chr19 of hg38, N but for the stretch that was rebuilt from the reads; its name says where it lies, 1-based."""
    head, *lines = (folder / f"NAPA.{name}.ref_from_md.fa").read_text().split("\n")
    start = int(head.split(":")[1].split("-")[0]) - 1
    bases = np.full(58_617_616, ord("N"), dtype=np.uint8)
    stretch = to_bases("".join(lines).upper())
    bases[start : start + len(stretch)] = stretch
    return Reference({"chr19": bases}, f"NAPA.{name}.ref_from_md.fa")


def real_sites(folder: Path, name: str, **options: Any) -> tuple[dict[int, tuple[int, float]], dict[str, int]]:
    """CpGs with their strands merged: position of the C on the plus strand -> coverage, per cent methylated."""
    frame, counts = pile(folder / f"NAPA.{name}.bam", real_reference(folder, name), contexts=("CG",), min_mapq=0, **options)
    assert frame["context"].unique().to_list() == ["CG"]
    merged = (
        frame.with_columns(
            modified=pl.col("level") * pl.col("coverage"), c=pl.col("position_0based") - (pl.col("strand") == "-").cast(pl.Int64)
        )
        .group_by("c")
        .agg(pl.col("coverage").sum(), pl.col("modified").sum())
    )
    return {c: (round(n), round(100 * modified / n, 2)) for c, n, modified in merged.rows()}, counts


def expected_sites(folder: Path, name: str) -> dict[int, tuple[int, float]]:
    rows = [line.split("\t") for line in (folder / f"NAPA.{name}.cpg.bedmethyl").read_text().splitlines()]
    return {int(row[1]): (int(row[9]), float(row[10])) for row in rows}


@pytest.mark.parametrize(("name", "number"), [("ont", 4038), ("hifi", 1425)])
def test_real_pileups_equal_the_expected_ones(name: str, number: int, folder: Path) -> None:
    """Positions, coverage and per cent of every CpG. The expected tables count listed calls only, as skipped_bases: unknown does."""
    ours, counts = real_sites(folder, name, skipped_bases="unknown")
    expected = expected_sites(folder, name)
    assert len(expected) == number
    assert ours.keys() == expected.keys()
    assert {c: n for c, (n, _) in ours.items()} == {c: n for c, (n, _) in expected.items()}
    assert max(abs(ours[c][1] - expected[c][1]) for c in expected) < 0.011, "two digits"
    assert counts["sites_refuted"] < 0.01 * counts["sites_checked"]


def test_hifi_cpgs_that_mm_skips_without_a_mode_are_unmodified_by_the_specification(folder: Path) -> None:
    ours, _ = real_sites(folder, "hifi")
    expected = expected_sites(folder, "hifi")
    assert len(ours.keys() - expected.keys()) == 1
    for c, (coverage, percent) in expected.items():
        assert ours[c][0] >= coverage
        assert round(ours[c][0] * ours[c][1] / 100) == round(coverage * percent / 100), "only unmodified calls come on top"
    assert sum(ours[c][0] > expected[c][0] for c in expected) == 198


@pytest.mark.parametrize(("mod", "off"), [("5mC", 1), ("6mA", 1)])
def test_a_reference_shifted_by_one_base_is_refused(mod: str, off: int, folder: Path) -> None:
    bases = np.roll(real_reference(folder, "ont").bases("chr19"), off)
    found = refusal(folder / "NAPA.ont.bam", Reference({"chr19": bases}), modifications=(mod,))
    assert "lie on another base of the reference" in found


def test_all_modifications_of_a_real_file_lie_on_their_bases(folder: Path) -> None:
    reference = real_reference(folder, "hifi")
    frame, counts = pile(folder / "NAPA.hifi.bam", reference, modifications=("5mC", "6mA"))
    genome = reference.bases("chr19")
    for mod, strand, base in (("5mC", "+", "C"), ("5mC", "-", "G"), ("6mA", "+", "A"), ("6mA", "-", "T")):
        places = frame.filter((pl.col("modification") == mod) & (pl.col("strand") == strand))["position_0based"].to_numpy()
        assert len(places) > 10_000
        assert (genome[places] == ord(base)).all()
    assert counts["sites_refuted"] < 0.01 * counts["sites_checked"]
