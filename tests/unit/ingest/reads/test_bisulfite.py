from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pysam
import pytest
from hypothesis import given
from hypothesis import strategies as st

from biollm.core.alphabets import reverse_complement
from biollm.core.errors import DataError
from biollm.ingest.reads.bam import Reference
from biollm.ingest.reads.bisulfite import bisulfite_text, convert, restore_cytosines
from biollm.ingest.reads.config import ReadOptions
from biollm.ingest.reads.modifications import to_bases
from biollm.ingest.reads.records import read_records

Record = Callable[..., pysam.AlignedSegment]
Write = Callable[..., Path]

# The genome at chr1:10, and by hand what is methylated on each strand: the first CpG on both, the CAG on plus only.
#            0123456789012345
_GENOME = "ATCGACAGTTCTACGA"
_PLUS___ = "ATCGACAGTTTTATGA"  # C at 2 and 5 kept; C at 10 (CHH) and 13 (CG) read as T
_PLUS_XM = "..Z..X....h..z.."
_MINUS__ = "ATCGACAATTCTACAA"  # along the reference: G at 3 kept; G at 7 (CTG) and 14 (CG) read as A
_MINUSXM = "...Z...x......z."
_BISMARK = [  # flag, XR, XG, as Bismark writes the four kinds of reads of a directional library
    ("OT read 1", 99, "CT", "CT"),
    ("OT read 2", 147, "GA", "CT"),
    ("OB read 1", 83, "CT", "GA"),
    ("OB read 2", 163, "GA", "GA"),
]


def read(file: Path, reference: Reference | None = None, **options: Any) -> tuple[pl.DataFrame, dict[str, int]]:
    batches = read_records(file, ReadOptions(kind="bisulfite", **options), reference)
    return pl.concat(list(batches)), batches.counts


def refusal(file: Path, reference: Reference | None = None, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(file, reference, **options)
    return str(caught.value)


def genome() -> Reference:
    return Reference({"chr1": to_bases(("N" * 10 + _GENOME).ljust(1000, "N"))}, "genome.fa")


def bismark(record: Record, flag: int, xr: str, xg: str, **more: Any) -> pysam.AlignedSegment:
    sequence, xm = (_PLUS___, _PLUS_XM) if xg == "CT" else (_MINUS__, _MINUSXM)
    return record("r", sequence, 10, flag=flag, XR=xr, XG=xg, **({"XM": xm} | more))


@pytest.mark.parametrize(("kind", "flag", "xr", "xg"), _BISMARK, ids=[row[0] for row in _BISMARK])
def test_each_kind_of_bismark_read_is_given_along_its_converted_strand(
    kind: str, flag: int, xr: str, xg: str, write_bam: Write, record: Record
) -> None:
    frame, _ = read(write_bam([bismark(record, flag, xr, xg)]))
    row = frame.row(0, named=True)
    assert row["id"] == f"r/{kind[-1]}"
    assert (row["contig"], row["start_0based"], row["end"]) == ("chr1", 10, 26)
    if xg == "CT":
        assert (row["strand"], row["sequence"], row["calls"]) == ("+", _PLUS___, _PLUS_XM)
        assert {i: v for i, v in enumerate(row["track_5mC"]) if v is not None} == {2: 1, 5: 1, 10: 0, 13: 0}
    else:
        assert (row["strand"], row["sequence"], row["calls"]) == ("-", reverse_complement(_MINUS__), _MINUSXM[::-1])
        assert {i: v for i, v in enumerate(row["track_5mC"]) if v is not None} == {1: 0, 8: 0, 12: 1}


@pytest.mark.parametrize(("kind", "flag", "xr", "xg"), _BISMARK, ids=[row[0] for row in _BISMARK])
def test_calls_over_the_reference_are_those_of_the_tag(kind: str, flag: int, xr: str, xg: str, write_bam: Write, record: Record) -> None:
    tagged, _ = read(write_bam([bismark(record, flag, xr, xg)]))
    untagged, counts = read(write_bam([bismark(record, flag, xr, xg, XM=None)]), genome())
    assert untagged.equals(tagged)
    assert (counts["reads_checked"], counts["calls_off_reference"]) == (1, 0)


def test_calls_over_the_reference_leave_out_variants_insertions_and_clips(write_bam: Write, record: Record) -> None:
    # T clipped, T inserted behind the A at 14 of the reference, a deletion of its T at 19, and A where the reference has C at 20
    made = record("r", "TATCGATCAGTATACGA", 10, "1S5M1I4M1D6M", XG="CT")
    frame, _ = read(write_bam([made]), genome())
    assert frame["calls"].to_list() == ["...Z...X......Z.."]


def test_calls_at_the_end_of_the_contig_have_an_unknown_context(write_bam: Write, record: Record) -> None:
    reference = Reference({"chr1": to_bases("N" * 10 + "ACNCAC"), "chr2": to_bases("N")})
    contigs = {"chr1": 16, "chr2": 1}
    file = write_bam([record("r", "ACATAC", 10, XG="CT", contigs=contigs)], contigs=contigs)
    frame, _ = read(file, reference)
    assert frame["calls"].to_list() == [".U.h.U"]


def test_contexts_choose_which_letters_give_values(write_bam: Write, record: Record) -> None:
    file = write_bam([record("r", "CTCTCTCT", XG="CT", XM="ZzXxHhUu")])
    for contexts, expected in {
        ("CG",): [1, 0, *[None] * 6],
        ("CHG", "CHH"): [None, None, 1, 0, 1, 0, None, None],
        ("unknown",): [*[None] * 6, 1, 0],
    }.items():
        frame, _ = read(file, contexts=contexts)
        assert frame["track_5mC"].to_list() == [expected]
        assert frame["calls"].to_list() == ["ZzXxHhUu"], "the letters stay whole"


def test_cytosines_are_restored_where_asked_for(write_bam: Write, record: Record) -> None:
    file = write_bam([bismark(record, flag, xr, xg) for _, flag, xr, xg in _BISMARK[::2]])
    frame, _ = read(file, restore_cytosines=True)
    assert frame["sequence"].to_list() == [_GENOME, reverse_complement(_GENOME)]


def test_reads_without_strand_or_calls_are_counted(write_bam: Write, record: Record) -> None:
    reads = [record("no xg", XM="........"), record("no xm", XG="CT"), bismark(record, 0, "CT", "CT")]
    _, counts = read(write_bam(reads))
    assert (counts["records"], counts["kept"], counts["dropped_no_xg"], counts["dropped_no_xm"]) == (3, 1, 1, 1)
    assert "none of 2 records is left (dropped: 1 no_xg, 1 no_xm)" in refusal(write_bam(reads[:2]))
    _, counts = read(write_bam([record("u", flag=4, XG="CT"), *reads[2:]]), genome(), keep_unmapped=True)
    assert (counts["kept"], counts["dropped_no_xm"]) == (1, 1), "an unmapped read has no reference to be called on"


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"XG": "CT", "XM": "..z"}, "read 'bad': XM has 3 letters and the sequence 4 bases"),
        ({"XG": "CT", "XM": "..zq"}, "read 'bad': XM holds 'q' at base 4; expected letters of .zZxXhHuU"),
        ({"XG": "TC", "XM": "...."}, "read 'bad': XG is 'TC'; expected CT (plus strand) or GA (minus strand)"),
        ({"XG": "CT", "XM": "z..."}, "read 'bad': XM calls 'z' on C at base 1 of the + strand"),
        ({"XG": "CT", "XM": ".Z.."}, "read 'bad': XM calls 'Z' on T at base 2 of the + strand"),
        ({"XG": "GA", "XM": "Z..."}, "read 'bad': XM calls 'Z' on G at base 4 of the - strand"),
    ],
)
def test_tags_that_do_not_fit_name_file_and_read(tags: dict[str, Any], message: str, write_bam: Write, record: Record) -> None:
    assert f"reads.bam: {message}" in refusal(write_bam([record("bad", "CTGA", **tags)]))


def test_calls_that_most_lie_off_the_reference_are_refused(write_bam: Write, record: Record) -> None:
    file = write_bam([record("r", _PLUS___, 11, XG="CT", XM=_PLUS_XM)])
    assert "in 1 of 1 reads (100.0%) most calls lie on another base of the reference" in refusal(file, genome())


# --- text -----------------------------------------------------------------------------------------------------------------------


def test_text_shows_methylation_and_can_be_undone() -> None:
    assert bisulfite_text(_GENOME, _PLUS_XM) == _PLUS___
    assert bisulfite_text(_PLUS___, _PLUS_XM) == _PLUS___
    assert restore_cytosines(_PLUS___, _PLUS_XM) == _GENOME


@pytest.mark.parametrize("function", [bisulfite_text, restore_cytosines])
@pytest.mark.parametrize(
    ("sequence", "calls", "message"),
    [
        ("ACG", ".Z", "a bisulfite read has 3 bases and 2 call letters"),
        ("ACG", "..Z", "call 'Z' sits on 'G' at base 3; calls sit on C or T of the converted strand"),
        ("ACG", ".Q.", "the calls hold 'Q' at base 2; expected letters of .zZxXhHuU"),
    ],
)
def test_calls_that_do_not_fit_their_text_are_refused(function: Callable[[str, str], str], sequence: str, calls: str, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        function(sequence, calls)


def test_conversion_changes_unmethylated_cytosines_of_one_strand() -> None:
    none, every = np.zeros(16, dtype=bool), np.ones(16, dtype=bool)
    assert convert(_GENOME, none, "+") == "ATTGATAGTTTTATGA"
    assert convert(_GENOME, none, "-") == "ATCAACAATTCTACAA"
    assert convert(_GENOME, every, "+") == convert(_GENOME, every, "-") == _GENOME
    kept = none.copy()
    kept[[2, 5]] = True
    assert convert(_GENOME, kept, "+") == _PLUS___
    with pytest.raises(DataError, match="a sequence of 16 bases has a methylation mask of 3"):
        convert(_GENOME, none[:3], "+")


@given(st.text("ACGTN", max_size=60), st.randoms(use_true_random=False))
def test_the_minus_strand_is_the_plus_strand_of_the_other_side(sequence: str, random: Any) -> None:
    mask = np.array([random.random() < 0.5 for _ in sequence], dtype=bool)
    other_side = convert(reverse_complement(sequence), mask[::-1], "+")
    assert convert(sequence, mask, "-") == reverse_complement(other_side)


# --- real reads -----------------------------------------------------------------------------------------------------------------


def real_rows(shared: Callable[[str], Path]) -> list[dict[str, str]]:
    with (shared("human_tumour_normal_reads_methylbert") / "test_seq.csv").open(newline="") as text:
        return list(csv.DictReader(text, delimiter="\t"))


def test_calls_of_real_reads_over_their_reference_are_those_of_bismark(
    shared: Callable[[str], Path], write_bam: Write, record: Record
) -> None:
    """515 gapless reads, each on a contig of its own: the reference that its 3-mers spell. Its last base is not in the table."""
    rows = [row for row in real_rows(shared) if row["cigar"] == f"{len(row['seq'])}M"]
    spelt = {
        f"c{i}": "".join([row["dna_seq"][0], *(kmer[1] for kmer in row["dna_seq"].split()), row["dna_seq"][-1]])
        for i, row in enumerate(rows)
    }
    contigs = {name: len(sequence) + 1 for name, sequence in spelt.items()}
    reads = []
    for i, row in enumerate(rows):
        flag = int(row["flag"]) & ~0x400
        reads.append(record(row["name"], row["seq"], 0, flag=flag, contig=f"c{i}", contigs=contigs, XG=row["XG"], XM=row["XM"]))
    tagged, _ = read(write_bam(reads, contigs=contigs))
    for made in reads:
        made.set_tag("XM", None)
    reference = Reference({name: to_bases(sequence + "N") for name, sequence in spelt.items()})
    untagged, counts = read(write_bam(reads, contigs=contigs), reference)
    assert untagged.select("id", "strand", "sequence").equals(tagged.select("id", "strand", "sequence"))
    differ = compared = 0
    for theirs, ours, strand in zip(tagged["calls"], untagged["calls"], tagged["strand"], strict=True):
        inner = slice(3, -3)  # the table's reference ends with the read, so contexts cannot be told there
        assert strand in "+-"
        differ += sum(a != b for a, b in zip(theirs[inner], ours[inner], strict=True))
        compared += sum(a != "." for a in theirs[inner])
    assert (len(rows), differ) == (515, 0)
    assert compared > 10_000
    assert counts["calls_off_reference"] == 0
