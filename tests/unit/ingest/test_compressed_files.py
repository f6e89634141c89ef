"""Compressed files: unpacked whole whatever the reader's steps, and refused once they unpack to what no real file does."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from biollm.core import streams
from biollm.core.alphabets import Modality
from biollm.core.errors import DataError
from biollm.core.streams import open_binary, read_lines
from biollm.ingest.config import SequencePolicy
from biollm.ingest.genomes import read_genome
from biollm.ingest.records.config import RecordOptions
from biollm.ingest.records.read import read_records

PACKERS: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "zst": zstandard.compress}


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """256 kB at any ratio, 1 MB at most."""
    monkeypatch.setattr(streams, "_ANY_RATIO_BYTES", 1 << 18)
    monkeypatch.setattr(streams, "_MAX_BYTES", 1 << 20)


def packed(folder: Path, name: str, content: bytes) -> Path:
    file = folder / name
    file.write_bytes(PACKERS[name.rpartition(".")[2]](content))
    return file


@pytest.mark.parametrize("packer", PACKERS)
def test_a_gigabyte_of_zeros_is_refused_with_the_real_limits(tmp_path: Path, packer: str) -> None:
    file = tmp_path / f"bomb.txt.{packer}"
    if packer == "gz":
        file.write_bytes(gzip.compress(bytes(1 << 26), 9) * 16)  # members end to end are one stream
    else:
        file.write_bytes(zstandard.compress(bytes(1 << 30)))
    stream = open_binary(file)
    with pytest.raises(DataError, match=rf"bomb\.txt\.{packer}: .* unpacks to more than .*gzip -dk or zstd -dk, and give the plain file"):
        list(iter(lambda: len(stream.read(1 << 22)), 0))
    stream.close()


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.usefixtures("small_limits")
def test_every_reader_refuses_a_bomb_by_name_and_reads_the_unpacked_file(tmp_path: Path, packer: str) -> None:
    def genome(file: Path) -> object:
        return [len(contig.sequence) for contig in read_genome([file], SequencePolicy())]

    def records(modality: Modality) -> Callable[[Path], object]:
        return lambda file: read_records([file], RecordOptions(), modality).frame.height

    bases = "N" * (1 << 19)
    bombs: dict[str, tuple[str, Callable[[Path], object]]] = {
        "g.fa": (f">a\n{bases}\n", genome),
        "g.fastq": (f"@a\n{bases}\n+\n{bases}\n", genome),
        "g.txt": ("one\n" * (1 << 17), lambda file: sum(1 for _ in read_lines(file))),
        "r.csv": ("sequence\n" + "MKV\n" * (1 << 17), records("protein")),
        "r.xml": (
            "<PubmedArticleSet><PubmedArticle><MedlineCitation><PMID>1</PMID><Article><ArticleTitle>t</ArticleTitle></Article>"
            f"</MedlineCitation></PubmedArticle>{' ' * (1 << 19)}</PubmedArticleSet>",
            records("text"),
        ),
    }
    for name, (content, read) in bombs.items():
        file = packed(tmp_path, f"{name}.{packer}", content.encode())
        with pytest.raises(DataError, match=rf"{name}\.{packer}: the compressed file of [\d,]+ bytes unpacks to more than 262,144"):
            read(file)
        (tmp_path / name).write_text(content)
        assert read(tmp_path / name), "what the message advises works"


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.usefixtures("small_limits")
def test_files_of_usual_ratio_are_read_up_to_the_absolute_limit(tmp_path: Path, packer: str) -> None:
    letters = bytes(random.Random(0).choices(b"ACGT\n", k=1 << 21))  # 3-fold
    whole = packed(tmp_path, f"a.{packer}", letters[: 1 << 20])
    with open_binary(whole) as stream:
        assert stream.read() == letters[: 1 << 20]
    with pytest.raises(DataError, match=r"unpacks to more than 1,048,576"), open_binary(packed(tmp_path, f"b.{packer}", letters)) as stream:
        stream.read()


@pytest.mark.parametrize("step", [1, 7, 4096, 1 << 20])
@pytest.mark.parametrize("packer", PACKERS)
def test_many_frames_give_the_same_bytes_in_steps_of_any_size(tmp_path: Path, packer: str, step: int) -> None:
    pieces = [b"", b"one\n", bytes(9000), random.Random(1).randbytes(5000), b"", b"end"]
    file = tmp_path / f"x.{packer}"
    file.write_bytes(b"".join(map(PACKERS[packer], pieces)))
    with open_binary(file) as stream:
        found = b"".join(iter(lambda: stream.read(step), b""))
    assert found == b"".join(pieces)
    buffer = bytearray(20_000)
    with open_binary(file) as stream:
        assert buffer[: stream.readinto(buffer)] == b"".join(pieces)  # type: ignore[attr-defined]


def test_fastq_in_zstd_is_read(tmp_path: Path) -> None:
    file = packed(tmp_path, "x.fastq.zst", b"@a\nACGT\n+\nIIII\n")
    assert [contig.sequence.tobytes() for contig in read_genome([file], SequencePolicy())] == [b"ACGT"]
