"""What the fuzzers feed: every parser of our own. A target takes bytes and may raise nothing but our own errors for bad input."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from biollm.core.errors import ConfigError, DataError
from biollm.core.streams import read_lines
from biollm.corpus.audit_table import read_tables
from biollm.corpus.options import AuditOptions
from biollm.ingest.annotation import Annotation
from biollm.ingest.config import SequencePolicy
from biollm.ingest.genomes import read_genome
from biollm.ingest.reads.bisulfite import _read_xm
from biollm.ingest.reads.config import ReadOptions
from biollm.ingest.reads.methylbert import read_methylbert_table
from biollm.ingest.reads.modifications import parse_modifications, to_bases
from biollm.ingest.records.config import RecordOptions, TextOptions
from biollm.ingest.records.read import read_records
from biollm.ingest.sites.arrays import read_betas, read_manifest
from biollm.ingest.sites.config import SiteOptions
from biollm.ingest.sites.read import read_aliases, read_sites


def _modifications(file: Path) -> None:
    """A read, its MM and its ML, a line each, as a BAM brings them: bases in ASCII, ML as bytes."""
    bases, mm, ml, *_ = [*file.read_bytes().split(b"\n", 2), b"", b""]
    try:
        wanted = frozenset({"5mC", "5hmC", "6mA"})
        parse_modifications(to_bases(bases.decode("ascii", "replace").replace("\ufffd", "N")), mm.decode("latin-1"), _bytes(ml), wanted, {})
    except ValueError as error:  # to be given its place by the caller
        raise DataError(f"{file}: {error}") from None


def _bytes(ml: bytes) -> Any:
    return np.frombuffer(ml, dtype=np.uint8) if ml else None


def _xm(file: Path) -> None:
    """A read and its XM, a line each."""
    bases, xm, *_ = [*file.read_text(encoding="latin-1").split("\n"), ""]
    for strand in "+-":
        _read_xm(str(file), xm, to_bases(bases.encode("ascii", "replace").decode()), strand)


# suffix -> what reads such a file
TARGETS: dict[str, Callable[[Path], object]] = {
    ".txt": lambda file: list(read_lines(file)),
    ".fa": lambda file: list(read_genome([file], SequencePolicy())),
    ".fastq": lambda file: list(read_genome([file], SequencePolicy())),
    ".gff": lambda file: Annotation([file]).intervals("chr1", 10**6, "CDS"),
    ".bed": lambda file: Annotation([file]).intervals("chr1", 10**6, "interval"),
    **{
        f".{form}": lambda file, form=form: list(read_sites(file, form, SiteOptions(format=form)))
        for form in ("bismark_cov", "bismark_cx", "bedmethyl", "cgmap", "allc", "methratio", "bedgraph")
    },
    **{
        suffix: lambda file, modality=modality: read_records([file], RecordOptions(sequence=column(file)), modality)
        for suffix, modality in {
            ".csv": "protein", ".jsonl": "text", ".smi": "smiles", ".obo": "text", ".xml": "text", ".conll": "text", ".arff": "dna",
            ".faa": "protein", ".json": "text",
        }.items()
    },
    ".audit.csv": lambda file: read_tables([file], AuditOptions()),
    ".txt.gz": lambda file: list(read_lines(file)),
    ".txt.zst": lambda file: list(read_lines(file)),
    ".zip": lambda file: read_records([file], RecordOptions(), "protein"),
    ".dat": lambda file: read_records([file], RecordOptions(), "protein"),
    ".gb": lambda file: read_records([file], RecordOptions(), "dna"),
    ".methylbert": lambda file: read_methylbert_table(file, ReadOptions(kind="methylbert", convert_cytosines="called")),
    ".manifest": read_manifest,
    ".betas": lambda file: list(read_betas(file, None)),
    ".mm": _modifications,
    ".xm": _xm,
    ".sequences.gff": lambda file: list(read_genome([file], SequencePolicy())),
    ".2bit": lambda file: list(read_genome([file], SequencePolicy())),
    ".nosuffix": lambda file: list(read_genome([file], SequencePolicy())),
    ".aliases": lambda file: read_aliases(str(file)),
    ".plain": lambda file: read_records([file], RecordOptions(format="text", text=TextOptions(documents="paragraphs")), "text"),
    ".chat": lambda file: read_records([file], RecordOptions(format="chat"), "text"),
}  # fmt: skip


def column(file: Path) -> str | None:
    return {".csv": "sequence", ".jsonl": "text", ".json": "text", ".arff": "sequence"}.get(file.suffix)


def feed(suffix: str, content: bytes) -> bool:
    """Whether a file of this content is read (True) or refused with an error of ours (False); any other error passes through."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"x{suffix}"
        file.write_bytes(content)
        try:
            TARGETS[suffix](file)
        except (DataError, ConfigError) as error:
            if file.name not in str(error):
                raise AssertionError(f"an error that does not name the file: {error}") from error
            return False
        return True
