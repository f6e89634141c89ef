"""The formats of records: who reads each, and how a file's format is told."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import cast

from biollm.core.alphabets import Modality
from biollm.core.streams import damage_named, open_binary, read_lines
from biollm.ingest.records.config import FormatName, RecordOptions
from biollm.ingest.records.source import Record, Source

Reader = Callable[[Source, RecordOptions], Iterator[Record]]


@dataclass(frozen=True)
class Format:
    """One format.

    reader: module.function below this package; the module is imported when a file asks for it.
    unit: what `Record.number` counts.
    holds: "residues" (dna, rna, protein), "smiles", "text" or "any" (a table: the sequence is in a column).
    fixed: whether all records have the same fields.
    extra: fields that become columns of the same name.
    """

    reader: str
    unit: str
    holds: str
    fixed: bool = True
    extra: tuple[str, ...] = ()

    def fits(self, modality: Modality) -> bool:
        return self.holds == "any" or self.holds == (modality if modality in ("smiles", "text") else "residues")

    def load(self) -> Reader:
        module, _, name = self.reader.partition(".")
        return cast(Reader, getattr(importlib.import_module(f"biollm.ingest.records.{module}"), name))


FORMATS: dict[FormatName, Format] = {
    "fasta": Format("sequences.read_fasta", "line", "residues", fixed=False),
    "fastq": Format("sequences.read_fastq", "line", "residues", fixed=False),
    "uniprot": Format("sequences.read_uniprot", "line", "residues"),
    "genbank": Format("sequences.read_genbank", "line", "residues"),
    "table": Format("tables.read_table", "line", "any"),
    "parquet": Format("tables.read_parquet", "row", "any"),
    "arff": Format("tables.read_arff", "line", "any"),
    "jsonl": Format("jsons.read_json_lines", "line", "any", fixed=False),
    "json": Format("jsons.read_json", "record", "any", fixed=False),
    "smi": Format("tables.read_smi", "line", "smiles"),
    "text": Format("texts.read_plain", "line", "text"),
    "chat": Format("texts.read_chat", "line", "text", fixed=False, extra=("messages",)),
    "conll": Format("texts.read_conll", "line", "text", extra=("tags",)),
    "pubmed": Format("xmls.read_pubmed", "record", "text"),
    "jats": Format("xmls.read_jats", "record", "text"),
    "icd10cm": Format("xmls.read_icd", "record", "text"),
    "obo": Format("ontologies.read_obo", "line", "text", extra=("messages",)),
    "h5ad": Format("cells.read_h5ad", "row", "text"),
}
_BY_SUFFIX: dict[str, FormatName] = {
    ".fa": "fasta", ".fasta": "fasta", ".faa": "fasta", ".fna": "fasta", ".ffn": "fasta", ".frn": "fasta", ".fas": "fasta", ".pep": "fasta",
    ".fq": "fastq", ".fastq": "fastq", ".dat": "uniprot", ".gp": "genbank", ".gpff": "genbank", ".gb": "genbank", ".gbk": "genbank",
    ".csv": "table", ".tsv": "table", ".tab": "table", ".parquet": "parquet", ".pq": "parquet", ".arff": "arff", ".nxml": "jats",
    ".smi": "smi", ".smiles": "smi", ".obo": "obo", ".h5ad": "h5ad", ".conll": "conll", ".iob": "conll", ".iob2": "conll", ".bio": "conll",
}  # fmt: skip


def find_format(source: Source, options: RecordOptions, modality: Modality) -> FormatName:
    """What a file is: as the options say, or told by its suffix and, where that leaves it open, its content.

    Raises DataError if it cannot be told, or if files of that format hold no records of the modality.
    """
    name = options.format if options.format != "auto" else _detect(source, options, modality)
    if not FORMATS[name].fits(modality):
        fitting = ", ".join(known for known, form in FORMATS.items() if form.fits(modality))
        raise source.error(f"read as {name}, which holds {FORMATS[name].holds}, not {modality}; for {modality} give one of: {fitting}", 1)
    return name


def _detect(source: Source, options: RecordOptions, modality: Modality) -> FormatName:
    suffix = source.suffix
    if suffix == ".xml":
        return _xml_kind(source)
    if suffix in (".jsonl", ".ndjson", ".json"):
        return _json_kind(source, options, modality)
    if suffix in _BY_SUFFIX:
        found = _BY_SUFFIX[suffix]
        is_text_table = found == "table" and suffix != ".csv" and modality == "text" and options.sequence is None
        return "conll" if is_text_table and _looks_like_conll(source) else found
    with damage_named(source.path), open_binary(source.path) as stream:
        head = stream.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    starts: dict[bytes, FormatName] = {
        b">": "fasta", b"ID   ": "uniprot", b"LOCUS ": "genbank", b"format-version:": "obo", b"PAR1": "parquet", b"\x89HDF": "h5ad",
    }  # fmt: skip
    for start, name in starts.items():
        if head.startswith(start):
            return name
    if head.startswith(b"<?xml"):
        return _xml_kind(source)
    if head.startswith(b"@") and FORMATS["fastq"].fits(modality):
        return "arff" if head[:10].lower().startswith((b"@relation", b"@attribute")) else "fastq"
    if modality == "smiles" and suffix in (".txt", ""):
        return "smi"
    if modality == "text" and suffix in (".txt", ".text", ".md", ""):
        return "text"
    next(read_lines(source.path), None)  # says what else it is: a web page, another encoding
    raise source.error(f"the suffix '{suffix}' does not say what the file is; say it as format: one of {', '.join(FORMATS)}", 1)


def _xml_kind(source: Source) -> FormatName:
    from biollm.ingest.records.xmls import ROOTS, root_of

    root = root_of(source)
    if root in ROOTS:
        return cast(FormatName, ROOTS[root])
    raise source.error(f"XML with the outermost element <{root}>; expected one of {', '.join(ROOTS)}: export the file in such a form", 1)


def _json_kind(source: Source, options: RecordOptions, modality: Modality) -> FormatName:
    from biollm.ingest.records.texts import is_chat

    lines = list(islice((line for _, line in read_lines(source.path) if line.strip()), 2))
    try:
        first = json.loads(lines[0]) if lines else None
    except (ValueError, RecursionError):
        first = None
    if source.suffix == ".json" and (not isinstance(first, dict) or len(lines) < 2):
        return "json"
    return "chat" if isinstance(first, dict) and modality == "text" and options.sequence is None and is_chat(set(first)) else "jsonl"


def _looks_like_conll(source: Source) -> bool:
    from biollm.ingest.records.texts import IOB_TAG

    lines = list(islice((line for _, line in read_lines(source.path)), 50))
    rows = [line.split("\t") for line in lines if line.strip() and not line.startswith("-DOCSTART-")]
    return bool(rows) and all(len(row) >= 2 and IOB_TAG.fullmatch(row[-1].strip()) for row in rows)
