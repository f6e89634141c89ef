"""Nucleotide sequences from files of any usual form, as checked contigs.

The form follows from the name, with or without .gz, .bgz or .zst behind it:
    .fa .fasta .fna .ffn .frn and others    FASTA (fasta.py)
    .fq .fastq                              FASTQ; qualities are not kept
    .gb .gbk .gbff .genbank, .embl          flat files with features
    .gff .gff3                              GFF3 with its sequences behind ##FASTA
    .2bit                                   UCSC's packed genomes
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import dnaio

from biollm.core.errors import DataError
from biollm.core.streams import damage_named, fasta_records, open_binary, read_lines, suffix_of
from biollm.ingest.annotation import FLAT
from biollm.ingest.config import SequencePolicy
from biollm.ingest.fasta import Contig, check_new_name, contig_of, read_contigs

_FASTQ, _GFF = {".fq", ".fastq"}, {".gff", ".gff3"}


def read_genome(files: Iterable[Path], policy: SequencePolicy) -> Iterator[Contig]:
    """The sequences of some files, in file order, one at a time. Raises DataError as `fasta.read_contigs`."""
    first_in: dict[str, Path] = {}
    for file in files:
        for contig in _read_file(file, policy):
            check_new_name(contig, first_in)
            yield contig


def _read_file(file: Path, policy: SequencePolicy) -> Iterator[Contig]:
    suffix = suffix_of(file)
    if suffix in _FASTQ:
        records = _fastq_records(file)
    elif suffix in FLAT:
        records = ((record.id, str(record.seq)) for record in flat_records(file, FLAT[suffix]))
    elif suffix in _GFF:
        records = _gff_sequences(file)
    elif suffix == ".2bit":
        records = _twobit_records(file)
    else:
        yield from read_contigs([file], policy)
        return
    found = False
    for name, letters in records:
        found = True
        yield contig_of(name, letters, file, policy)
    if not found:
        raise DataError(f"{file}: holds no sequence; expected {suffix[1:]} records with sequences")


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


def _twobit_records(file: Path) -> Iterator[tuple[str, str]]:
    import py2bit

    try:
        genome = py2bit.open(str(file), True)
    except RuntimeError:
        raise DataError(f"{file}: not a whole 2bit file; fetch it again, or make it again with faToTwoBit") from None
    try:
        for name in genome.chroms():
            yield name, genome.sequence(name)
    finally:
        genome.close()
