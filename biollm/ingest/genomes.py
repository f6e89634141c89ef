"""Nucleotide sequences from files of any usual form, as checked contigs.

The form follows from the name, with or without .gz, .bgz or .zst behind it, or from the content where the name says none (kinds.py):
    .fa .fasta .fna .ffn .frn               FASTA (fasta.py)
    .fq .fastq                              FASTQ; qualities are not kept
    .gb .gbk .gbff .genbank, .embl          flat files with features
    .gff .gff3                              GFF3 with its sequences behind ##FASTA
    .2bit                                   UCSC's packed genomes (twobit.py)
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import dnaio

from biollm.core.errors import DataError
from biollm.core.streams import damage_named, fasta_records, open_binary, read_lines
from biollm.ingest.config import SequencePolicy
from biollm.ingest.fasta import Contig, check_new_name, contig_of, read_contigs
from biollm.ingest.kinds import Kind, kind_of
from biollm.ingest.twobit import first_name, read_twobit

_HEAD_BYTES = 1 << 12


def read_genome(files: Sequence[Path], policy: SequencePolicy) -> Iterator[Contig]:
    """The sequences of some files, one at a time: each file in its order, the files in the order of their first names, in any order given.

    Raises DataError as `fasta.read_contigs`.
    """
    first_in: dict[str, Path] = {}
    for file in sorted(files, key=_first_name) if len(files) > 1 else files:
        for contig in _read_file(file, policy):
            check_new_name(contig, first_in)
            yield contig


def _read_file(file: Path, policy: SequencePolicy) -> Iterator[Contig]:
    if (kind := kind_of(file, "fasta")) in ("fasta", "bed"):
        yield from read_contigs([file], policy)
        return
    found = False
    for name, letters in _named_sequences(file, kind):
        found = True
        yield contig_of(name, letters, file, policy)
    if not found:
        raise DataError(f"{file}: holds no sequence; expected {kind} records with sequences")


def _named_sequences(file: Path, kind: Kind) -> Iterator[tuple[str, str]]:
    if kind == "fastq":
        return _fastq_records(file)
    if kind == "gff":
        return _gff_sequences(file)
    if kind == "2bit":
        return read_twobit(file)
    return ((record.id, str(record.seq)) for record in flat_records(file, kind))


def _first_name(file: Path) -> str:
    """The name of the first sequence, or "" where there is none: who reads the file says so."""
    kind = kind_of(file, "fasta")
    if kind == "2bit":
        return first_name(file)
    if kind in ("fasta", "bed"):  # not its whole first record, which may be a chromosome
        with damage_named(file), open_binary(file) as stream:
            head = stream.read(_HEAD_BYTES).removeprefix(b"\xef\xbb\xbf").lstrip()
        return (head.removeprefix(b">").decode("latin-1").split(maxsplit=1) or [""])[0]
    return next((name for name, _ in _named_sequences(file, kind)), "")


def flat_records(file: Path, form: str) -> Iterator[Any]:
    """The records of a GenBank or EMBL file. Raises DataError for a file that Biopython cannot read, or one whose sequence is not there."""
    from Bio import BiopythonParserWarning, SeqIO
    from Bio.Seq import UndefinedSequenceError

    lines = "\n".join(line for _, line in read_lines(file))  # checked: encoding, NUL bytes, damage
    import io

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", BiopythonParserWarning)  # "premature end of file" is only a warning there
            for record in SeqIO.parse(io.StringIO(lines), form):
                if not record.id or record.id == "<unknown id>":
                    raise DataError(f"{file}: a record has no id; give it one (LOCUS and ACCESSION, or ID)")
                try:
                    bytes(record.seq)
                except UndefinedSequenceError:
                    raise DataError(
                        f"{file}: record '{record.id}' has features but no sequence; export it with sequence (NCBI: 'GenBank (full)')"
                    ) from None
                yield record
    except (ValueError, KeyError, IndexError, AttributeError, AssertionError, TypeError, BiopythonParserWarning) as error:
        raise DataError(f"{file}: not a whole {form} file: {error}; fetch or export it again") from None


def _fastq_records(file: Path) -> Iterator[tuple[str, str]]:
    try:
        with damage_named(file), open_binary(file) as stream, dnaio.open(stream, fileformat="fastq") as reader:
            for record in reader:
                if not (name := record.name.split(maxsplit=1)[:1]):
                    raise DataError(f"{file}: a record has an empty id ('@' and nothing behind it); give it one")
                yield name[0], record.sequence
    except (dnaio.FileFormatError, dnaio.UnknownFileFormat, UnicodeDecodeError) as error:
        raise DataError(f"{file}: not a whole FASTQ file: {error}; fetch or export it again") from None


def _gff_sequences(file: Path) -> Iterator[tuple[str, str]]:
    lines = read_lines(file)
    for _, line in lines:
        if line.startswith("##FASTA"):
            break
    for number, header, sequence in fasta_records(lines):
        if not header:
            what = "a record has an empty id" if header == "" else "a sequence begins without '>id'"
            raise DataError(f"{file} line {number}: {what} behind ##FASTA; give it one")
        yield header.split(maxsplit=1)[0], sequence
