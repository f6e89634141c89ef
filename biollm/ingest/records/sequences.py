"""Sequence files whose records are examples: FASTA, FASTQ, UniProt flat text, GenBank and GenPept.

FASTA and FASTQ are read by hand: dnaio and Bio.SeqIO refuse letters beyond ASCII in headers, dnaio reads no FASTQ with CR endings, and
neither says the line of a record.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from typing import Any

from biollm.core.errors import first_line
from biollm.core.streams import fasta_records, read_lines
from biollm.ingest.records.config import RecordOptions
from biollm.ingest.records.source import Record, Source

# What Biopython's parsers raise for text that is not of their format.
_PARSER_FAULTS = (ValueError, KeyError, IndexError, AssertionError, TypeError, AttributeError)
# key=value up to the next key (UniProt's OS=Homo sapiens OX=9606), and NCBI's [key=value]
_HEADER_FIELD = re.compile(r"(?:(?<=\s)|^)([A-Za-z_][A-Za-z0-9_.]*)=(.*?)(?=\s+[A-Za-z_][A-Za-z0-9_.]*=|$)|\[(\w+)=([^\]]*)\]")


def read_fasta(source: Source, options: RecordOptions) -> Iterator[Record]:
    """Records of a FASTA file; the number is the header's line. The id is the header up to the first white space.

    Fields: `header` (whole), `description` (what follows the id), and what the header says as key=value or [key=value].
    Raises DataError for text before the first header, and a header without an id.
    """
    for number, header, sequence in fasta_records((number, line.strip()) for number, line in read_lines(source.path)):
        if header is None:
            raise source.error(
                f"found {sequence[:20]!r}; a FASTA file begins with a header line, '>id'; remove what stands before it", number
            )
        if not header:
            raise source.error("a record has no id ('>' and nothing behind it); give it one", number)
        yield _titled(number, header, sequence, options)


def read_fastq(source: Source, options: RecordOptions) -> Iterator[Record]:
    """Records of a FASTQ file of four lines each; qualities are checked for their length and left out. Ids and fields as of FASTA."""
    held: list[str] = []
    start = 0
    for number, line in read_lines(source.path):
        line = line.strip()
        if not held:
            if not line:
                continue
            start = number
        held.append(line)
        if len(held) == 1 and not (line.startswith("@") and line[1:].strip()):
            raise source.error(f"found {line[:20]!r}; a FASTQ record begins with '@id' and has four lines; unwrap longer ones", number)
        if len(held) == 3 and not line.startswith("+"):
            raise source.error(f"found {line[:20]!r}; the third line of a FASTQ record begins with '+'; unwrap or mend it", number)
        if len(held) == 4:
            if len(line) != len(held[1]):
                raise source.error(f"{len(line)} qualities for {len(held[1])} residues; there is one for each: restore the record", number)
            yield _titled(start, held[0][1:].strip(), held[1], options)
            held = []
    if held:
        raise source.error(f"the file ends inside the record that begins here ({len(held)} of 4 lines); fetch or export it again", start)


def _titled(number: int, header: str, sequence: str, options: RecordOptions) -> Record:
    name, _, description = header.partition(" ") if " " in header else header.partition("\t")
    fields: dict[str, Any] = {}
    if options.columns():
        fields = {"header": header, "description": description.strip()}
        for key, value, ncbi_key, ncbi_value in _HEADER_FIELD.findall(" ".join(description.split())):
            fields[key or ncbi_key] = value if key else ncbi_value
    return Record(number, fields, name, sequence)


class _Lines:
    """A text file for parsers that want a handle, which knows the line it is at."""

    def __init__(self, source: Source) -> None:
        self._lines = read_lines(source.path)
        self.number = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        self.number, line = next(self._lines)
        return line + "\n"

    def readline(self) -> str:
        return next(self, "")

    def read(self, size: int = -1) -> str:
        return "" if size == 0 else "".join(self)


def read_uniprot(source: Source, options: RecordOptions) -> Iterator[Record]:
    """Entries of UniProt flat text; the number is the line an entry begins at, the id its first accession.

    Fields: entry_name, reviewed, organism, taxonomy, gene, description, keywords.
    Raises DataError for an entry that Biopython cannot read, that is cut off, or whose sequence has another length than it says.
    """
    from Bio import SwissProt

    lines = _Lines(source)
    entries = iter(SwissProt.parse(lines))
    while True:
        start = lines.number + 1
        try:
            entry = next(entries, None)
        except _PARSER_FAULTS as error:
            raise _unreadable(source, "UniProt entry", start, lines.number, error) from None
        if entry is None:
            return
        if not entry.accessions:
            raise source.error("the entry has no accession (AC line); restore it", start)
        if len(entry.sequence) != entry.sequence_length:
            raise source.error(
                f"entry {entry.accessions[0]} holds {len(entry.sequence)} residues and says {entry.sequence_length}; fetch it again", start
            )
        genes = [gene["Name"].split(" {")[0] for gene in entry.gene_name if "Name" in gene] if isinstance(entry.gene_name, list) else []
        fields = {
            "entry_name": entry.entry_name,
            "reviewed": entry.data_class,
            "organism": entry.organism.rstrip("."),
            "taxonomy": "; ".join(entry.taxonomy_id),
            "gene": "; ".join(genes) or None,
            "description": entry.description,
            "keywords": "; ".join(entry.keywords) or None,
        }
        yield Record(start, fields, entry.accessions[0], entry.sequence)


def read_genbank(source: Source, options: RecordOptions) -> Iterator[Record]:
    """Records of GenBank or GenPept text; the number is the line a record begins at, the id its accession with version.

    Fields: name, description, organism, molecule_type. Raises DataError for a record that Biopython cannot read or that has no sequence.
    """
    from Bio import SeqIO
    from Bio.Seq import UndefinedSequenceError

    lines = _Lines(source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            entries = SeqIO.parse(lines, "genbank")
        except ValueError as error:
            raise _unreadable(source, "GenBank record", 1, lines.number, error) from None
    while True:
        start = lines.number + 1
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                entry = next(entries, None)
            if entry is None:
                return
            sequence = str(entry.seq)
        except UndefinedSequenceError:
            raise source.error("the record has no sequence (ORIGIN); export it with its sequence", start) from None
        except _PARSER_FAULTS as error:
            raise _unreadable(source, "GenBank record", start, lines.number, error) from None
        if not entry.id or entry.id == "<unknown id>":
            raise source.error("the record has no accession (LOCUS, ACCESSION, VERSION); restore it", start)
        fields = {
            "name": entry.name,
            "description": entry.description,
            "organism": entry.annotations.get("organism"),
            "molecule_type": entry.annotations.get("molecule_type"),
        }
        yield Record(start, fields, entry.id, sequence)


def _unreadable(source: Source, what: str, start: int, number: int, error: Exception) -> Exception:
    reason = first_line(error)[:120]
    return source.error(f"not a whole {what} (it begins at line {start}): {reason}; fetch or export it again", number or 1)
