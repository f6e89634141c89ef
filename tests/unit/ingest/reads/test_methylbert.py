from __future__ import annotations

import csv
import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from biollm.core.errors import DataError
from biollm.ingest.reads.config import ReadOptions
from biollm.ingest.reads.methylbert import read_methylbert_table

_HEADER = "name\tflag\tref_name\tref_pos\textra\tdna_seq\tmethyl_seq\tctype"
_ROW = {
    "name": "a",
    "flag": "83",
    "ref_name": "chr2",
    "ref_pos": "11",
    "extra": "x",
    "dna_seq": "ACG CGT GTC TCG CGA",
    "methyl_seq": "12202",
    "ctype": "T",
}


def write(tmp_path: Path, *rows: dict[str, str], header: str = _HEADER) -> Path:
    file = tmp_path / "reads.csv"
    lines = ["\t".join((_ROW | row).values()) for row in rows]
    file.write_text("\n".join([header, *lines]) + "\n")
    return file


def refusal(file: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_methylbert_table(file)
    return str(caught.value)


def test_a_row_becomes_a_read_with_values_at_its_cpgs(tmp_path: Path) -> None:
    frame = read_methylbert_table(write(tmp_path, {}, {"flag": "163", "ctype": "N"}, {}))
    assert frame.schema == pl.Schema(
        {
            "id": pl.String,
            "contig": pl.String,
            "start_0based": pl.Int64,
            "end": pl.Int64,
            "group": pl.String,
            "sequence": pl.String,
            "track_5mC": pl.List(pl.Float32),
            "label_ctype": pl.String,
        }
    )
    assert frame.row(0) == ("a/1", "chr2", 10, 17, "a", "ACGTCGA", [None, 1, None, None, 0, None, None], "T")
    assert frame["id"].to_list() == ["a/1", "a/2", "a/1#2"]
    assert frame["group"].unique().to_list() == ["a"]
    assert frame["label_ctype"].to_list() == ["T", "N", "T"]


@pytest.mark.parametrize(("letters", "text"), [("no", "ACGTCGAC"), ("called", "ACGTTGAC"), ("all", "ACGTTGAT")])
def test_a_table_is_written_as_bisulfite_sequencing_would_read_it(tmp_path: Path, letters: Any, text: str) -> None:
    file = write(tmp_path, {"dna_seq": "ACG CGT GTC TCG CGA GAC", "methyl_seq": "122022"})
    frame = read_methylbert_table(file, ReadOptions(kind="methylbert", convert_cytosines=letters))
    assert frame["sequence"].to_list() == [text]
    assert frame["track_5mC"].to_list() == [[None, 1, None, None, 0, None, None, None]], "the values stay where they were"


def test_gzip_reads_alike(tmp_path: Path) -> None:
    file = write(tmp_path, {})
    plain = read_methylbert_table(file)
    file.write_bytes(gzip.compress(file.read_bytes()))
    assert read_methylbert_table(file).equals(plain)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"dna_seq": "ACG CGT GTC TCG"}, "line 3: methyl_seq has 5 letters and dna_seq 4 3-mers"),
        ({"dna_seq": "ACGT"}, "line 3: dna_seq 'ACGT' is not a row of 3-mers"),
        ({"dna_seq": "ACG,CGT,GTC,TCG,CGA"}, "line 3: dna_seq 'ACG,CGT,GTC,TCG,CGA' is not a row of 3-mers with one space between them"),
        ({"dna_seq": ""}, "line 3: dna_seq '' is not a row of 3-mers"),
        ({"dna_seq": "ACG CGT GTC TCG GGA"}, "line 3: the 3-mers of dna_seq do not overlap by two bases"),
        ({"dna_seq": "ACG CGT GTJ TJG JGA"}, "line 3: dna_seq holds 'J' at base 5"),
        ({"methyl_seq": "12232"}, "line 3: methyl_seq holds '3'"),
        ({"methyl_seq": "21202"}, "line 3: methyl_seq calls 3-mer 2 'CGT', which has no CpG in its middle"),
        ({"ctype": ""}, "line 3: the ctype is empty"),
        ({"name": ""}, "line 3: the name is empty"),
        ({"ref_pos": "0"}, "line 3: flag '83' and ref_pos '0'; expected whole numbers, ref_pos from 1"),
        ({"flag": "x"}, "line 3: flag 'x' and ref_pos '11'"),
        ({"extra": "x\ty"}, "line 3: 9 tab-separated columns; the header has 8"),
    ],
)
def test_a_wrong_row_is_named_by_line(row: dict[str, str], message: str, tmp_path: Path) -> None:
    assert f"reads.csv {message}" in refusal(write(tmp_path, {}, row))


def test_a_table_of_another_kind_is_refused(tmp_path: Path) -> None:
    assert "reads.csv line 1: no column 'dna_seq'" in refusal(write(tmp_path, {}, header=_HEADER.replace("dna_seq", "seq")))
    assert "line 1: no column 'name'" in refusal(write(tmp_path, {}, header=_HEADER.replace("\t", ",")))
    assert "reads.csv: holds no read behind its header" in refusal(write(tmp_path))


def test_real_reads_agree_with_bismarks_own_letters(shared: Callable[[str], Path]) -> None:
    """The table's CpG calls against XM of the same rows (gapless ones), and the counts that its source names."""
    folder = shared("human_tumour_normal_reads_methylbert")
    frames = {name: read_methylbert_table(folder / name) for name in ("train_seq.csv", "test_seq.csv")}
    assert [len(frame) for frame in frames.values()] == [1429, 612]
    train, test = (set(frame["group"]) for frame in frames.values())
    assert len(train & test) == 429, "mates of one molecule lie in both files"
    compared = 0
    for name, frame in frames.items():
        assert frame["id"].is_unique().all()
        with (folder / name).open(newline="") as text:
            rows = list(csv.DictReader(text, delimiter="\t"))
        for row, read in zip(rows, frame.iter_rows(named=True), strict=True):
            if row["cigar"] != f"{len(row['seq'])}M":
                continue
            expected: list[float | None] = [None] * (len(row["seq"]) + 1)
            for place, letter in enumerate(row["XM"]):
                if letter in "zZ":
                    expected[place - (row["XG"] == "GA")] = float(letter == "Z")  # both strands at the C of the plus strand
            inner = slice(1, len(read["sequence"]) - 1)
            assert read["track_5mC"][inner] == expected[inner]
            compared += len(read["sequence"])
    assert compared > 200_000
