from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pysam
import pytest
from pydantic import ValidationError

from biollm.core.alphabets import reverse_complement
from biollm.core.errors import DataError
from biollm.ingest.reads import records
from biollm.ingest.reads.bam import Alignments, Reference, reference_places
from biollm.ingest.reads.config import ReadOptions
from biollm.ingest.reads.modifications import to_bases
from biollm.ingest.reads.pileup import pileup
from biollm.ingest.reads.records import iterate_reads, read_records, unique_id

Record = Callable[..., pysam.AlignedSegment]
Write = Callable[..., Path]
_LISTED = {"MM": "C+m?,0;", "ML": [200]}
_HIGH = np.float32(200.5 / 256)


def read(file: Path, reference: Reference | None = None, **options: Any) -> tuple[pl.DataFrame, dict[str, int]]:
    batches = read_records(file, ReadOptions(**options), reference)
    return pl.concat(list(batches)), batches.counts


@pytest.mark.parametrize(
    ("letters", "options", "forward"),
    [
        ("no", {}, "ACGCGCAGC"),
        ("called", {}, "ACGTGCAGC"),
        ("all", {}, "ACGTGTAGT"),
        ("called", {"call_threshold": 0.9}, "ACGTGCAGC"),
        ("all", {"call_threshold": 0.9}, "ATGTGTAGT"),
        ("all", {"modifications": ("5mC", "5hmC")}, "ACGTGCAGT"),
        ("called", {"modifications": ("5mC", "5hmC")}, "ACGTGCAGC"),
    ],
)
def test_native_reads_are_written_as_bisulfite_sequencing_would_read_the_molecule(
    write_bam: Write, record: Record, letters: str, options: dict[str, Any], forward: str
) -> None:
    """The calls: C1 at 0.79 methylated, C3 at 0.1; C5 only 0.8 hydroxymethylated; C8 none; on either strand."""
    tags = {"MM": "C+m?,0,0;C+h?,2;", "ML": [201, 25, 205]}
    molecule = "ACGCGCAGC"
    file = write_bam([record("a", molecule, 10, **tags), record("b", reverse_complement(molecule), 20, flag=16, **tags)])
    frame, _ = read(file, convert_cytosines=letters, **options)
    assert frame["sequence"].to_list() == [forward, forward]
    assert frame["track_5mC"].list.len().to_list() == [9, 9]


def refusal(file: Path, reference: Reference | None = None, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(file, reference, **options)
    return str(caught.value)


def genome(chr1: str, chr2: str = "") -> Reference:
    return Reference({"chr1": to_bases(chr1.ljust(1000, "N")), "chr2": to_bases(chr2.ljust(500, "N"))}, "genome.fa")


def test_a_read_has_its_place_and_a_value_per_base(write_bam: Write, record: Record) -> None:
    frame, counts = read(write_bam([record("a", "ACGTACGT", 10, "2S3M1D3M", MM="C+m?,0;", ML=[200])]))
    assert frame.schema == pl.Schema(
        {
            "id": pl.String,
            "contig": pl.String,
            "start_0based": pl.Int64,
            "end": pl.Int64,
            "strand": pl.String,
            "group": pl.String,
            "sequence": pl.String,
            "track_5mC": pl.List(pl.Float32),
        }
    )
    assert frame.rows() == [("a", "chr1", 10, 17, "+", "a", "ACGTACGT", [None, float(_HIGH), *[None] * 6])]
    assert counts == {"records": 1, "kept": 1, "calls": 1, "reads_without_calls": 0}


def test_a_reverse_read_is_given_as_it_was_sequenced(write_bam: Write, record: Record) -> None:
    # MM counts in the direction of the molecule, whose first C is the last G of what BAM holds
    frame, _ = read(write_bam([record("a", "ACGTTTGA", flag=16, MM="C+m?,0;", ML=[200])]))
    row = frame.row(0, named=True)
    assert (row["strand"], row["sequence"]) == ("-", reverse_complement("ACGTTTGA"))
    assert row["track_5mC"] == [None, float(_HIGH), *[None] * 6]
    assert row["sequence"][1] == "C"


def test_every_kind_of_loss_is_counted_once(write_bam: Write, record: Record) -> None:
    lost = [
        record("unmapped", flag=4, **_LISTED),
        record("secondary", flag=256, **_LISTED),
        record("supplementary", flag=2048, **_LISTED),
        record("duplicate", flag=1024, **_LISTED),
        record("failed", flag=512, **_LISTED),
        record("low", mapq=9, **_LISTED),
        record("no tag"),
        record("clipped", cigar="5H8M", **_LISTED),
        record("clipped at the end", cigar="8M5H", **_LISTED),
        record("cut", MN=9, **_LISTED),
        record("clipped and cut", cigar="8M5H", MN=13, **_LISTED),
        record("secondary without sequence", None, flag=256, cigar="8M"),
        record("secondary duplicate", flag=256 + 1024, **_LISTED),
    ]
    kept = [
        record("a", **_LISTED),
        record("b", cigar="5H8M", MN=8, **_LISTED),
        record("c", mapq=255, **_LISTED),
        record("d", mapq=10, **_LISTED),
    ]
    frame, counts = read(write_bam([*lost, *kept]))
    assert frame["id"].to_list() == ["a", "b", "c", "d"]
    assert counts == {
        "records": 17,
        "kept": 4,
        "dropped_unmapped": 1,
        "dropped_secondary": 3,
        "dropped_supplementary": 1,
        "dropped_duplicate": 1,
        "dropped_qc_fail": 1,
        "dropped_low_mapq": 1,
        "dropped_no_mm": 1,
        "dropped_hard_clipped_without_mn": 2,
        "dropped_mn_disagrees": 2,
        "calls": 4,
        "reads_without_calls": 0,
    }
    assert counts["records"] == counts["kept"] + sum(number for key, number in counts.items() if key.startswith("dropped_"))


def test_unmapped_reads_and_pieces_are_kept_where_asked_for(write_bam: Write, record: Record) -> None:
    file = write_bam([record("a", **_LISTED), record("a", flag=2048 + 16, **_LISTED), record("u", flag=4, **_LISTED)])
    frame, _ = read(file, keep_unmapped=True, keep_supplementary=True)
    assert frame["id"].to_list() == ["a", "a#2", "u"]
    assert frame["group"].to_list() == ["a", "a", "u"]
    assert frame.row(2, named=True) | {"sequence": "", "track_5mC": []} == {
        **{"id": "u", "group": "u", "sequence": "", "track_5mC": []},
        **{"contig": None, "start_0based": None, "end": None, "strand": None},
    }
    reads = list(iterate_reads(file, ReadOptions(keep_unmapped=True), {}))
    assert [found.mapped for found in reads] == [True, False]


def test_mates_share_a_group_and_differ_in_id(write_bam: Write, record: Record) -> None:
    frame, _ = read(write_bam([record("a", flag=1 + 64, **_LISTED), record("a", flag=1 + 128 + 16, **_LISTED)]))
    assert frame["id"].to_list() == ["a/1", "a/2"]
    assert frame["group"].to_list() == ["a", "a"]


def test_ids_stay_unique_whatever_the_names_are() -> None:
    numbers: dict[str, int] = {}
    assert [unique_id(name, numbers) for name in ("a", "a#2", "a", "a", "a#2", "b")] == ["a", "a#2", "a#3", "a#4", "a#2#2", "b"]
    assert [unique_id(name, numbers) for name in ("c", "c", "c#2")] == ["c", "c#2", "c#2#2"]


def test_modifications_are_columns_of_their_own_and_others_are_counted(write_bam: Write, record: Record) -> None:
    file = write_bam([record("a", "ACCA", MM="C+m?,0;C+h?,1;A+a?,0;T-a?;", ML=[200, 10, 20])])
    frame, counts = read(file, modifications=("5hmC", "6mA", "4mC"))
    assert frame.columns[-3:] == ["track_5hmC", "track_6mA", "track_4mC"]
    assert frame["track_5hmC"].to_list() == [[None, None, 10.5 / 256, None]]
    assert frame["track_6mA"].to_list() == [[20.5 / 256, None, None, None]]
    assert frame["track_4mC"].to_list() == [[None] * 4]
    assert counts["calls_not_wanted_5mC"] == 1


def test_both_strands_of_one_read_become_one_track(write_bam: Write, record: Record) -> None:
    frame, counts = read(write_bam([record("a", "CG", MM="C+m?,0;G-m?,0;", ML=[255, 0])]))
    assert frame["track_5mC"].to_list() == [[255.5 / 256, 0.5 / 256]]
    frame, counts = read(write_bam([record("a", "CG", MM="N+m?,0;N-m?,0,0;", ML=[255, 0, 0])]))
    assert frame["track_5mC"].to_list() == [[255.5 / 256, 0.5 / 256]]
    assert counts["calls_hidden_by_other_strand"] == 1


def test_contexts_limit_cytosines_and_leave_adenines(write_bam: Write, record: Record) -> None:
    file = write_bam([record("a", "CGACTGCAACG", MM="C+m.;G-m.;A+a.;")])
    options: dict[str, Any] = {"modifications": ("5mC", "6mA")}
    frame, _ = read(file, contexts=("CG",), **options)
    assert frame["track_5mC"].to_list() == [[0, 0, None, None, None, None, None, None, None, 0, 0]]
    assert frame["track_6mA"].to_list() == [[None, None, 0, None, None, None, None, 0, 0, None, None]]
    frame, _ = read(file, contexts=("CHG", "CHH"), **options)
    assert frame["track_5mC"].to_list() == [[None, None, None, 0, None, 0, 0, None, None, None, None]]


def test_ambiguous_bases_become_n_and_are_counted(write_bam: Write, record: Record) -> None:
    frame, counts = read(write_bam([record("a", "RCYN", MM="C+m?,0;", ML=[1]), record("b", "RCYM", flag=16, MM="G+o?,0;", ML=[1])]))
    assert frame["sequence"].to_list() == ["NCNN", "NNGN"]
    assert counts["bases_folded_to_N"] == 5


def test_batches_are_bounded_and_lose_no_read(write_bam: Write, record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_bam([record(f"r{i}", "ACGT" * (i + 1), **_LISTED) for i in range(9)])
    whole, counts = read(file)
    monkeypatch.setattr(records, "BATCH_BASES", 30)
    batches = read_records(file, ReadOptions())
    frames = list(batches)
    assert len(frames) > 3
    assert pl.concat(frames).equals(whole)
    assert batches.counts == counts
    assert next(batches, None) is None


def test_old_tag_names_are_read(write_bam: Write, record: Record) -> None:
    frame, _ = read(write_bam([record("a", "AC", Mm="C+m,0;", Ml=[200])]))
    assert frame["track_5mC"].to_list() == [[None, float(_HIGH)]]


# --- refusals -------------------------------------------------------------------------------------------------------------------


def test_a_file_that_is_cut_off_is_refused(write_bam: Write, record: Record, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    whole = write_bam([record(f"r{i}", "ACGT" * 50, **_LISTED) for i in range(2000)]).read_bytes()
    for bytes_kept in (len(whole) - 28, len(whole) - 1, len(whole) // 2, 100):
        file = tmp_path / "cut.bam"
        file.write_bytes(whole[:bytes_kept])
        found = refusal(file)
        assert found.startswith(f"{file}: ")
        assert found.endswith("fetch or write it again")
    file.write_bytes(whole[:-28])
    assert f"{file}: the BAM file has no end block, so its end is missing" in refusal(file)
    assert capfd.readouterr().err == "", "what htslib prints is in our message"


def test_damage_in_the_middle_names_the_last_whole_read(write_bam: Write, record: Record, capfd: pytest.CaptureFixture[str]) -> None:
    file = write_bam([record(f"r{i}", "ACGT" * 50, XX=f"{i * i}", **_LISTED) for i in range(5000)])
    whole = bytearray(file.read_bytes())
    whole[len(whole) * 3 // 4] ^= 0xFF
    file.write_bytes(whole)
    found = refusal(file)
    assert re.search(r"reads.bam: damaged behind read 'r\d+' \(.*\); fetch or write it again", found)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("content", [b"", b"hello\n", b"\x1f\x8b", b">a\nACGT\n"])
def test_what_is_no_bam_is_refused(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "x.bam"
    file.write_bytes(content)
    assert f"{file}: not a BAM file" in refusal(file)


def test_sam_text_and_absent_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.sam"
    file.write_text("@SQ\tSN:chr1\tLN:9\nr\t4\t*\t0\t0\t*\t*\t0\t0\tACGT\t*\n")
    assert f"{file}: not a BAM file (SAM and CRAM are not read); make one: samtools view -b -o reads.bam {file}" in refusal(file)
    assert refusal(tmp_path / "absent.bam") == f"{tmp_path / 'absent.bam'}: no such file"


def test_a_bam_without_reads_or_without_usable_ones_is_refused(write_bam: Write, record: Record) -> None:
    assert "reads.bam: holds no record" in refusal(write_bam([]))
    found = refusal(write_bam([record("a"), record("b", flag=4)]))
    assert "none of 2 records is left (dropped: 1 no_mm, 1 unmapped)" in found


def test_mapped_reads_need_a_header_that_names_their_contigs(write_bam: Write, record: Record) -> None:
    bare = write_bam([record("u", flag=4, contigs={}, **_LISTED)], contigs={})
    frame, _ = read(bare, keep_unmapped=True)
    assert frame["contig"].to_list() == [None]
    assert "none of 1 records is left (dropped: 1 unmapped)" in refusal(bare)


def test_a_record_without_sequence_is_refused_by_name(write_bam: Write, record: Record) -> None:
    found = refusal(write_bam([record("a", **_LISTED), record("starred", None, cigar="8M")]))
    assert "reads.bam: read 'starred' has no sequence ('*')" in found


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"MM": "C+m?,0,0,0;", "ML": [1, 1, 1]}, "read 'bad': MM entry 'C+m?' runs to the C number 3, but the read has 2"),
        ({"MM": "C+m?,0;", "ML": [1, 1]}, "read 'bad': MM needs 1 probabilities, and ML holds 2"),
        ({"MM": "C+m?,0;"}, "read 'bad': MM needs 1 probabilities, and there is no ML"),
        ({"MM": "C+m?,0;", "ML": "7"}, "read 'bad': ML is not of the type B,C"),
        ({"MM": 7}, "read 'bad': MM is not text"),
        ({"MM": "C+m,0"}, "read 'bad': MM does not end in ';'"),
    ],
)
def test_tags_that_do_not_fit_name_file_and_read(tags: dict[str, Any], message: str, write_bam: Write, record: Record) -> None:
    found = refusal(write_bam([record("good", **_LISTED), record("bad", **tags)]))
    assert f"reads.bam: {message}" in found
    assert "carry MM, ML and MN through every tool" in found


def test_equal_signs_for_bases_are_refused(write_bam: Write, record: Record) -> None:
    assert "read 'a' holds '=' (as the reference)" in refusal(write_bam([record("a", "AC==", **_LISTED)]))


def test_an_alignment_beyond_its_contig_is_refused(write_bam: Write, record: Record) -> None:
    found = refusal(write_bam([record("a", "ACGT", start_0based=998, **_LISTED)]))
    assert "read 'a' ends at 1002, but 'chr1' has 1000 bases" in found


@pytest.mark.parametrize(
    ("cigar", "message"),
    [("9M", "damaged behind the header"), ("", "read 'a' is marked as mapped, but has no position or no CIGAR")],
)
def test_an_alignment_that_cannot_be_is_refused(cigar: str, message: str, write_bam: Write, record: Record) -> None:
    made = record("a", "ACGT", **_LISTED)
    made.cigarstring = cigar
    assert f"reads.bam: {message}" in refusal(write_bam([made]))


def test_a_damaged_tag_is_not_taken_for_an_absent_one(write_bam: Write, record: Record) -> None:
    file = write_bam([record("good", **_LISTED), record("bad", **_LISTED)])
    with pysam.BGZFile(str(file)) as stream:
        whole = stream.read()
    before, _, behind = whole.rpartition(b"MMZC+m")
    with pysam.BGZFile(str(file), "wb") as out:
        out.write(before + b"MM!C+m" + behind)
    assert "reads.bam: the tags of read 'bad' are damaged" in refusal(file)


@pytest.mark.parametrize("seed", range(4))
def test_records_with_random_damage_are_read_or_refused(seed: int, write_bam: Write, record: Record, tmp_path: Path) -> None:
    """Inside the compression, whose checksums are right: no other error than ours may come out."""
    made = [
        record(f"r{i}", "ACGTACGTTCGA", 10 + i, "3S4M1I1D4M", flag=16 * (i % 2), MM="C+mh?,1,0;A+a.,0;", ML=[9, 8, 7, 6, 5])
        for i in range(9)
    ]
    with pysam.BGZFile(str(write_bam(made))) as stream:
        whole = stream.read()
    random = np.random.default_rng(seed)
    file = tmp_path / "damaged.bam"
    messages = []
    for _ in range(100):
        damaged = np.frombuffer(whole, dtype=np.uint8).copy()
        places = random.integers(0, len(damaged), int(random.choice([1, 2, 5])))
        damaged[places] = random.integers(0, 256, len(places))
        with pysam.BGZFile(str(file), "wb") as out:
            out.write(damaged.tobytes())
        options = ReadOptions(min_mapq=0, keep_unmapped=True, keep_supplementary=True)
        for read_all in (read_records, pileup):
            try:
                list(read_all(file, options))
            except DataError as error:
                messages.append(str(error))
    assert len(messages) > 20
    assert all(message.startswith(f"{file}: ") for message in messages)


# --- against the reference ------------------------------------------------------------------------------------------------------


def test_calls_on_the_right_base_of_either_strand_pass(write_bam: Write, record: Record) -> None:
    reads = [record("a", "TCGA", MM="C+m?,0;", ML=[1]), record("b", "TCGA", flag=16, MM="C+m?,0;G-m?,0;", ML=[1, 1])]
    _, counts = read(write_bam(reads), genome("N" * 10 + "TCGA"))
    assert (counts["reads_checked"], counts["calls_off_reference"], counts["reads_off_reference"]) == (2, 0, 0)


def test_a_single_call_off_the_reference_is_counted_and_kept(write_bam: Write, record: Record) -> None:
    file = write_bam([record("a", "CGCGCG", MM="C+m?,0,0,0;", ML=[1, 1, 1])])
    frame, counts = read(file, genome("N" * 10 + "CGTGCG"))
    assert (counts["calls_off_reference"], counts["reads_off_reference"]) == (1, 0)
    assert frame["track_5mC"].list.drop_nulls().list.len().to_list() == [3]


@pytest.mark.parametrize("flag", [0, 16])
def test_reads_of_which_most_calls_are_off_are_refused(flag: int, write_bam: Write, record: Record) -> None:
    file = write_bam([record("a", "CGCGCG", flag=flag, MM="C+m?,0,0,0;", ML=[1, 1, 1])])
    shifted = genome("N" * 9 + "CGCGCG")  # the same bases, one to the left
    assert "in 1 of 1 reads (100.0%) most calls lie on another base of the reference than the modification needs" in refusal(file, shifted)
    _, counts = read(file, shifted, max_off_reference=1.0)
    assert counts["reads_off_reference"] == 1


def test_a_wrong_reference_is_told_before_a_long_file_ends(write_bam: Write, record: Record) -> None:
    file = write_bam([record(f"r{i}", "CGCG", MM="C+m?,0;", ML=[1]) for i in range(1500)])
    assert "in 1000 of 1000 reads" in refusal(file, genome("T" * 20))


def test_another_assembly_is_refused(write_bam: Write, record: Record) -> None:
    file = write_bam([record("a", **_LISTED)])
    assert "reads lie on 'chr1', which genome.fa lacks (it holds 1, 2)" in refusal(
        file, Reference({"1": to_bases("A"), "2": to_bases("A")}, "genome.fa")
    )
    assert "'chr1' has 1000 bases in the header and 3 in genome.fa; this is another assembly" in refusal(
        file, Reference({"chr1": to_bases("ACG")}, "genome.fa")
    )


def test_the_reference_may_be_a_file(write_bam: Write, record: Record, tmp_path: Path) -> None:
    fasta = tmp_path / "genome.fa"
    fasta.write_text(">chr1\n" + "n" * 10 + "\ntcga\n" + "N" * 986 + "\n")
    batches = read_records(write_bam([record("a", "TCGA", MM="C+m?,0;", ML=[1])]), ReadOptions(reference=str(fasta)))
    assert len(list(batches)) == 1
    counts = batches.counts
    assert (counts["reads_checked"], counts["calls_off_reference"]) == (1, 0)


# --- alignment ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cigar", ["8M", "2S6M", "5H8M", "1S2M1I1D2M2S", "3M100N5M", "2M2I2D4M1H", "1=1X2I1P4=", "4I4M", "8I"])
def test_places_are_those_of_htslib(cigar: str, record: Record) -> None:
    made = record("a", "ACGTACGT", 10, cigar)
    assert [None if place < 0 else place for place in reference_places(made)] == made.get_reference_positions(full_length=True)


# --- options --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modifications": ("5mc",)}, "modifications holds '5mc'; expected one of 5mC, 5hmC"),
        ({"modifications": ("5mC", "5mC")}, "modifications has 5mC twice"),
        ({"kind": "bisulfite", "modifications": ("6mA",)}, "kind bisulfite knows only the modification 5mC"),
        ({"restore_cytosines": True}, "restore_cytosines is for kind bisulfite"),
        ({"kind": "bisulfite", "convert_cytosines": "called"}, "reads of kind bisulfite are converted already; remove it"),
        ({"modifications": ("5hmC",), "convert_cytosines": "all"}, "needs the calls of 5mC, but modifications is ['5hmC']; add 5mC"),
        ({"kind": "methylbert", "min_mapq": 3}, "a table of reads that were chosen and called already; remove min_mapq"),
        ({"min_mapq": 255}, "less than or equal to 254"),
        ({"call_threshold": 0.4}, "greater than or equal to 0.5"),
        ({"call_treshold": 0.8}, "Extra inputs are not permitted"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(message)):
        ReadOptions(**options)


def test_the_reference_is_an_input_of_the_stage() -> None:
    assert ReadOptions(reference="genome.fa").resources() == ["genome.fa"]
    assert ReadOptions().resources() == []


# --- real files -----------------------------------------------------------------------------------------------------------------


def test_a_real_hifi_file_gives_what_modkit_extracts(shared: Callable[[str], Path]) -> None:
    """Every row of modkit's table, made on CpGs of hg38: read, base of the read, base of the reference, probability.

    The table lacks the reads' CpGs that are not CpGs of hg38 (69), or not aligned (10); of these only the latter can be told here.
    """
    folder = shared("human_modbam_small")
    file = folder / "minimod_example-hifi.bam"
    expected = pl.read_csv(folder / "minimod_example-hifi.modkit_extract.m.CG.bed", separator="\t").select(
        "read_id", place="forward_read_position", at="ref_position", value="mod_qual", strand="ref_mod_strand"
    )
    options = ReadOptions(min_mapq=0)
    with Alignments(file) as alignments:
        places = {str(r.query_name): reference_places(r)[:: -1 if r.is_reverse else 1] for r in alignments.records(options, {})}
    rows = []
    counts: dict[str, int] = {}
    for found in iterate_reads(file, options, counts):
        track = found.tracks["5mC"]
        called = np.flatnonzero(~np.isnan(track))
        at = places[found.name][called]
        assert {found.sequence[place : place + 2] for place in called} == {"CG"}
        rows += [(found.name, int(p), int(a), float(track[p]), found.strand) for p, a in zip(called, at, strict=True)]
    assert (counts["records"], counts["kept"], counts["dropped_no_mm"]) == (50, 46, 4)
    ours = pl.DataFrame(rows, schema=["read_id", "place", "at", "ours", "strand"], orient="row")
    joined = expected.join(ours, on=["read_id", "place", "at", "strand"])
    assert len(joined) == len(expected) == 8690
    assert (joined["value"] - joined["ours"]).abs().max() < 5.1e-8, "modkit rounds to seven digits"  # type: ignore[operator]
    extra = ours.join(expected, on=["read_id", "place"], how="anti")
    assert (len(extra), len(extra.filter(pl.col("at") < 0))) == (79, 10)


@pytest.mark.parametrize(
    ("name", "modification", "kept"),
    [("igv_chr20_mod_call_sample.bam", "5hmC", 6), ("minimod_example-ont.bam", "5hmC", 53), ("minimod_example-ont.bam", "5mC", 53)],
)
def test_calls_of_real_files_are_those_of_htslib(name: str, modification: str, kept: int, shared: Callable[[str], Path]) -> None:
    file = shared("human_modbam_small") / name
    options = ReadOptions(min_mapq=0, modifications=(modification,), skipped_bases="unknown")
    reads = {found.name: found for found in iterate_reads(file, options, {})}
    assert len(reads) == kept
    code = {"5mC": "m", "5hmC": "h"}[modification]
    with pysam.AlignmentFile(str(file)) as bam:
        for record in bam:
            if record.is_supplementary:
                continue
            found = reads[str(record.query_name)]
            theirs = {
                place: (value + 0.5) / 256
                for key, calls in (record.modified_bases_forward or {}).items()
                if key[2] == code
                for place, value in calls
            }
            track = found.tracks[modification]
            assert {int(place): float(track[place]) for place in np.flatnonzero(~np.isnan(track))} == theirs
            assert found.sequence == record.get_forward_sequence()
