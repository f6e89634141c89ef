"""Sequence files of every form: told by name or content, whole or refused, in any order."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import pysam
import pytest
import zstandard

from biollm.core.errors import DataError
from biollm.ingest.annotation import Annotation
from biollm.ingest.config import SequencePolicy
from biollm.ingest.genomes import read_genome

GENBANK = (
    "LOCUS       c                         12 bp    DNA     linear   UNK 01-JAN-2000\nDEFINITION  a thing.\nACCESSION   c\nVERSION     c\n"
    "FEATURES             Location/Qualifiers\n     gene            1..6\nORIGIN\n        1 acgtacgtac gt\n//\n"
)
EMBL = (
    "ID   c; SV 1; linear; genomic DNA; STD; UNC; 12 BP.\nXX\nAC   c;\nXX\nFH   Key             Location/Qualifiers\nFH\n"
    "FT   gene            1..6\nXX\nSQ   Sequence 12 BP;\n     acgtacgtac gt" + " " * 60 + "12\n//\n"
)
GFF = "##gff-version 3\nc\tx\tgene\t1\t6\t.\t+\t.\tID=g\n##FASTA\n>c\nACGTACGTACGT\n"


def two_bit(sequences: dict[str, str], version: int = 0) -> bytes:
    """A 2bit file; runs of N and of lower case become blocks."""

    def blocks(letters: str, inside: str) -> bytes:
        marks = [letter in inside for letter in letters] + [False]
        starts = [i for i, mark in enumerate(marks) if mark and not (i and marks[i - 1])]
        lengths = [marks.index(False, start) - start for start in starts]
        return struct.pack(f"<I{len(starts)}I{len(starts)}I", len(starts), *starts, *lengths)

    records = []
    for letters in sequences.values():
        codes = ["TCAG".find(letter) % 4 for letter in letters.upper()] + [0] * (-len(letters) % 4)
        packed = bytes(a << 6 | b << 4 | c << 2 | d for a, b, c, d in zip(*[iter(codes)] * 4, strict=True))
        records.append(struct.pack("<I", len(letters)) + blocks(letters, "Nn") + blocks(letters, "acgtn") + b"\0" * 4 + packed)
    at, index = 16 + sum(5 + len(name) for name in sequences), b""
    for name, record in zip(sequences, records, strict=True):
        index += bytes([len(name)]) + name.encode() + struct.pack("<I", at)
        at += len(record)
    return struct.pack("<4I", 0x1A412743, version, len(sequences), 0) + index + b"".join(records)


TWO_BIT = {"c": "ACGTNNNNacgtACGTA", "d": "NNGGCCaattNN"}


def read(*files: Path) -> list[tuple[str, str]]:
    return [(contig.name, contig.sequence.tobytes().decode()) for contig in read_genome(files, SequencePolicy())]


@pytest.mark.parametrize("pack", ["plain", "gzip", "bgzip", "zstd"])
def test_a_2bit_genome_is_read_plain_and_compressed(tmp_path: Path, pack: str) -> None:
    content, file = two_bit(TWO_BIT), tmp_path / {"plain": "a.2bit", "zstd": "a.2bit.zst"}.get(pack, "a.2bit.gz")
    if pack == "bgzip":
        with pysam.BGZFile(str(file), "wb") as out:
            out.write(content)
    else:
        file.write_bytes({"plain": bytes, "gzip": gzip.compress, "zstd": zstandard.compress}[pack](content))
    assert read(file) == [(name, letters.upper()) for name, letters in TWO_BIT.items()]


def test_a_2bit_file_that_is_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    whole, file = two_bit(TWO_BIT), tmp_path / "a.2bit"
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"a\.2bit: .*(fetch it again|make the file again)"):
            read(file)
    file.write_bytes(gzip.compress(whole[:60]))
    with pytest.raises(DataError, match=r"a\.2bit: .*would end at byte .*, but the file has 60: it is cut off; fetch it again"):
        read(file)


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (0, 0x1A412744, "not with the signature of 2bit"),
        (4, 1, "version 1 of 2bit; expected 0"),
        (8, 0, "holds no sequence"),
        (8, 10**9, "name 3 in the index is"),
        (18, 3, "begins at byte 3, inside the index"),
        (28, 10**9, "cut off"),  # bases of c
        (32, 10**9, "cut off"),  # number of its N blocks
        (36, 16, "the N blocks of sequence 'c' overlap or lie beyond its 17 bases"),
    ],
)
def test_a_2bit_file_whose_numbers_do_not_fit_is_refused(tmp_path: Path, at: int, value: int, message: str) -> None:
    content, file = bytearray(two_bit(TWO_BIT)), tmp_path / "a.2bit"
    content[at : at + 4] = struct.pack("<I", value)
    file.write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.2bit: .*{message}"):
        read(file)


@pytest.mark.parametrize(
    "content",
    [">c\nACGTACGTACGT\n", "@c\nACGTACGTACGT\n+\nIIIIIIIIIIII\n", GENBANK, EMBL, GFF, two_bit({"c": "ACGTACGTACGT"})],
    ids=["fasta", "fastq", "genbank", "embl", "gff", "2bit"],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_file_without_a_suffix_is_told_by_its_content(tmp_path: Path, content: str | bytes, packed: bool) -> None:
    raw = content.encode() if isinstance(content, str) else content
    (tmp_path / "standard-input").write_bytes(gzip.compress(raw) if packed else raw)
    ((name, sequence),) = read(tmp_path / "standard-input")
    assert (name.removesuffix(".1"), sequence) == ("c", "ACGTACGTACGT")


@pytest.mark.parametrize("content", [GENBANK, EMBL, GFF])
def test_features_without_a_suffix_are_told_by_their_content(tmp_path: Path, content: str) -> None:
    (tmp_path / "standard-input").write_text(content)
    ((name, _),) = read(tmp_path / "standard-input")
    assert Annotation([tmp_path / "standard-input"]).intervals(name, 12, "gene").tolist() == [[0, 6]]


def test_a_suffix_is_believed(tmp_path: Path) -> None:
    (tmp_path / "a.fa").write_text("@c\nACGT\n+\nIIII\n")
    with pytest.raises(DataError, match="this looks like FASTQ"):
        read(tmp_path / "a.fa")


def test_files_are_read_in_the_order_of_their_first_names(tmp_path: Path) -> None:
    contents: dict[str, str | bytes] = {
        "w.fa": "\n>b x\nAC\n>a2\nGG\n", "x.gff": GFF, "y.2bit": two_bit({"e": "TT"}), "z.fastq": "@a\nAA\n+\nII\n",
        "z2.gbk": GENBANK.replace("ACCESSION   c\nVERSION     c", "ACCESSION   d\nVERSION     d"),
    }  # fmt: skip
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    files = [tmp_path / name for name in contents]
    wanted = read(*files)
    assert [name for name, _ in wanted] == ["a", "b", "a2", "c", "d", "e"]
    assert read(*reversed(files)) == wanted
