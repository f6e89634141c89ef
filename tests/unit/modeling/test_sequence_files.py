from __future__ import annotations

import gzip
from pathlib import Path

import polars as pl
import pytest

from biollm.core.errors import ConfigError, DataError
from biollm.modeling.sequence_files import read_sequences


def sequences(file: Path, modality: str, column: str | None = None) -> list[str]:
    return [record.sequence for record in read_sequences([file], modality, column).records]  # type: ignore[arg-type]


def test_fasta_is_read_over_wrapped_lines_and_gzip(tmp_path: Path) -> None:
    text = ">a first\nACGT\nacgu\n>b\nRRN\n"
    (tmp_path / "x.fa").write_text(text)
    (tmp_path / "x.fna.gz").write_bytes(gzip.compress(text.encode()))
    assert sequences(tmp_path / "x.fa", "dna") == sequences(tmp_path / "x.fna.gz", "dna") == ["ACGTACGT", "NNN"]
    assert sequences(tmp_path / "x.fa", "rna") == ["ACGUACGU", "NNN"]


def test_the_stop_at_the_end_of_a_protein_is_dropped_and_one_inside_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.faa").write_text(">a\nMKV*\n")
    assert sequences(tmp_path / "p.faa", "protein") == ["MKV"]
    (tmp_path / "p.faa").write_text(">a\nMK*V\n")
    with pytest.raises(DataError, match=r"p\.faa line 2: record 'a' holds '\*' at position 3; protein sequences may hold ABC"):
        sequences(tmp_path / "p.faa", "protein")


def test_lines_and_the_first_field_of_smi_lines(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("acgt\r\n\nTTT\n")
    read = read_sequences([tmp_path / "x.txt"], "dna")
    assert [r.sequence for r in read.records] == ["ACGT", "TTT"]
    assert read.blank == 1
    (tmp_path / "x.smi").write_text("CCO ethanol\nc1ccccc1\tbenzene\n")
    assert sequences(tmp_path / "x.smi", "smiles") == ["CCO", "c1ccccc1"]
    (tmp_path / "words.txt.gz").write_bytes(gzip.compress("The  gene.\nNaïve\n".encode()))
    assert sequences(tmp_path / "words.txt.gz", "text") == ["The  gene.", "Naïve"]


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.csv.gz", "t.parquet"])
def test_a_column_of_a_table(tmp_path: Path, name: str) -> None:
    table = pl.DataFrame({"id": ["1", "2", "3"], "smiles": ["C[C@@H](Cl)N", None, "CC"]})
    file = tmp_path / name
    if name.endswith("parquet"):
        table.write_parquet(file)
    else:
        text = table.write_csv(separator="\t" if "tsv" in name else ",").encode()
        file.write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    read = read_sequences([file], "smiles", "smiles")
    assert [r.sequence for r in read.records] == ["C[C@@H](Cl)N", "CC"]
    assert read.blank == 1
    with pytest.raises(ConfigError, match=r"has no column 'smile'; it has id, smiles"):
        read_sequences([file], "smiles", "smile")
    with pytest.raises(ConfigError, match="say which column holds the sequences"):
        read_sequences([file], "smiles")


def test_a_text_cell_gives_its_lines(tmp_path: Path) -> None:
    pl.DataFrame({"t": ["one\ntwo", "three"]}).write_csv(tmp_path / "t.csv")
    assert sequences(tmp_path / "t.csv", "text", "t") == ["one", "two", "three"]


def test_a_column_of_numbers_is_refused(tmp_path: Path) -> None:
    pl.DataFrame({"n": [1, 2]}).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match="column 'n' holds Int64, not text"):
        read_sequences([tmp_path / "t.parquet"], "text", "n")


@pytest.mark.parametrize(
    ("name", "content", "modality", "column", "message"),
    [
        (
            "x.fa",
            ">a\nACGT\n>b\nACGT\nACEF\n",
            "dna",
            None,
            r"x\.fa line 5: record 'b' holds 'E' at position 7; dna sequences may hold ACGTUN",
        ),
        ("x.txt", "ACGU\nACGß\n", "rna", None, r"x\.txt line 2 holds 'ß' at position 4; rna sequences may hold ACGTUN"),
        ("x.smi", "CC!\n", "smiles", None, r"x\.smi line 1 holds '!' at position 3; smiles sequences may hold abc"),
        ("x.csv", "s\nMK\nM1\n", "protein", "s", r"x\.csv row 2 \(column 's'\) holds '1' at position 2; protein sequences may hold ABC"),
        ("x.fa", "", "dna", None, r"x\.fa: (holds no dna sequence|not a whole FASTA file)"),
        ("x.txt", "\n\n", "text", None, r"x\.txt: holds no text sequence; expected a text file in UTF-8, one sequence per line"),
        ("x.fa", ">a\n>b\nAC\n", "dna", None, r"x\.fa: record 'a' is empty"),
        ("x.fa", "no header\n", "dna", None, r"x\.fa: not a whole FASTA file"),
    ],
)
def test_bad_files_are_named_with_place_letter_and_what_is_allowed(
    tmp_path: Path, name: str, content: str, modality: str, column: str | None, message: str
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        sequences(tmp_path / name, modality, column)


@pytest.mark.parametrize("name", ["x.fa.gz", "x.txt.gz", "x.csv.gz"])
def test_a_truncated_gzip_file_is_refused(tmp_path: Path, name: str) -> None:
    lines = {"x.fa.gz": ">a\n" + "ACGT" * 5000, "x.txt.gz": "ACGT\nTTGA\n" * 5000, "x.csv.gz": "s\n" + "ACGT\nTTGA\n" * 5000}[name]
    whole = gzip.compress(lines.encode())
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="not a whole "):
        sequences(tmp_path / name, "dna", "s")


def test_lines_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(DataError, match=r"x\.txt: not a whole text file in UTF-8"):
        sequences(tmp_path / "x.txt", "text")
