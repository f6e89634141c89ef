"""Small BAM files, written record by record."""

from __future__ import annotations

import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pysam
import pytest

SHARED = Path(__file__).parents[5] / "shared" / "data"
CONTIGS = {"chr1": 1000, "chr2": 500}


def make_record(
    name: str = "r",
    sequence: str | None = "ACGTACGT",
    start_0based: int = 10,
    cigar: str | None = None,
    flag: int = 0,
    contig: str = "chr1",
    mapq: int = 60,
    contigs: dict[str, int] = CONTIGS,
    **tags: Any,
) -> pysam.AlignedSegment:
    """A record as BAM holds it: the sequence along the reference. ML: a list of numbers."""
    header = pysam.AlignmentHeader.from_references(list(contigs), list(contigs.values()))
    record = pysam.AlignedSegment(header)
    record.query_name = name
    record.query_sequence = sequence
    record.flag = flag
    if not flag & 4:
        record.reference_name = contig
        record.reference_start = start_0based
        record.mapping_quality = mapq
        record.cigarstring = cigar or f"{len(sequence or '')}M"
    for tag, value in tags.items():
        record.set_tag(tag, array.array("B", value) if isinstance(value, list) else value)
    return record


@pytest.fixture
def write_bam(tmp_path: Path) -> Callable[..., Path]:
    """write_bam([record, …], sort_order="coordinate", contigs=…, name="reads.bam") -> the file."""

    def write(
        records: list[pysam.AlignedSegment], sort_order: str = "coordinate", contigs: dict[str, int] = CONTIGS, name: str = "reads.bam"
    ) -> Path:
        header = {"HD": {"VN": "1.6", "SO": sort_order}, "SQ": [{"SN": name, "LN": bases} for name, bases in contigs.items()]}
        file = tmp_path / name
        with pysam.AlignmentFile(str(file), "wb", header=header) as bam:
            for record in records:
                bam.write(record)
        return file

    return write


@pytest.fixture(scope="session")
def record() -> Callable[..., pysam.AlignedSegment]:
    """record(name, sequence, start_0based, cigar, flag, contig, mapq, MM="C+m,0;", ML=[200], …) -> a record as BAM holds it."""
    return make_record


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """shared("folder") -> the folder of real data, or a skip that says why."""

    def find(folder: str) -> Path:
        if not (SHARED / folder).is_dir():
            pytest.skip(f"no real data at {SHARED / folder}")
        return SHARED / folder

    return find
