"""What a file of nucleotide sequences or features is, by its name, or by its content where the name does not say."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Literal

from biollm.core.streams import damage_named, open_binary, suffix_of
from biollm.ingest.twobit import SIGNATURE

Kind = Literal["fasta", "fastq", "genbank", "embl", "gff", "bed", "2bit"]
_BY_SUFFIX: dict[str, Kind] = {
    ".fa": "fasta", ".fasta": "fasta", ".fna": "fasta", ".ffn": "fasta", ".frn": "fasta", ".fas": "fasta",
    ".fq": "fastq", ".fastq": "fastq",
    ".gb": "genbank", ".gbk": "genbank", ".gbff": "genbank", ".genbank": "genbank", ".embl": "embl",
    ".gff": "gff", ".gff3": "gff", ".gtf": "gff",
    ".bed": "bed", ".narrowpeak": "bed", ".broadpeak": "bed",
    ".2bit": "2bit",
}  # fmt: skip
_BY_BEGIN: dict[bytes, Kind] = {
    b">": "fasta", b"@": "fastq", b"LOCUS ": "genbank", b"ID   ": "embl", b"##gff-version": "gff",
    struct.pack("<I", SIGNATURE): "2bit", struct.pack(">I", SIGNATURE): "2bit",
}  # fmt: skip


def kind_of(file: Path, otherwise: Kind) -> Kind:
    """The kind that the suffix says; for a file without one that is known, such as standard input, what its first bytes say."""
    if (kind := _BY_SUFFIX.get(suffix_of(file))) is not None:
        return kind
    with damage_named(file), open_binary(file) as stream:
        head = stream.read(1024).removeprefix(b"\xef\xbb\xbf")
    text = head.lstrip()
    return next((kind for begin, kind in _BY_BEGIN.items() if head.startswith(begin) or text.startswith(begin)), otherwise)
