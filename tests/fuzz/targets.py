"""What the fuzzers feed: every parser of our own. A target takes bytes and may raise nothing but our own errors for bad input."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from biollm.core.errors import ConfigError, DataError
from biollm.core.streams import read_lines
from biollm.corpus.audit_table import read_tables
from biollm.corpus.options import AuditOptions
from biollm.ingest.annotation import Annotation
from biollm.ingest.config import SequencePolicy
from biollm.ingest.genomes import read_genome
from biollm.ingest.reads.config import ReadOptions
from biollm.ingest.reads.methylbert import read_methylbert_table
from biollm.ingest.records.config import RecordOptions
from biollm.ingest.records.read import read_records
from biollm.ingest.sites.arrays import read_betas, read_manifest
from biollm.ingest.sites.config import SiteOptions
from biollm.ingest.sites.read import read_sites

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
