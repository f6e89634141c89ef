"""Files that are not what they should be: each is refused with file, place and remedy, or read right. Never another kind of error."""

from __future__ import annotations

import gzip
import io
import json
import re
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from biollm.core.errors import DataError
from biollm.ingest.records.config import RecordOptions
from biollm.ingest.records.read import RecordTable, read_records

Reads = Callable[..., RecordTable]
PLACE = re.compile(r"(line|row|record) \d+: ")


@dataclass(frozen=True)
class Bad:
    """A file and what its refusal says: parts of the message, the remedy last."""

    what: str
    name: str
    modality: Any
    content: str | bytes
    says: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)
    whole_file: bool = False  # no line can be told


def _parquet(**columns: list[Any]) -> bytes:
    buffer = io.BytesIO()
    pl.DataFrame(columns).write_parquet(buffer)
    return buffer.getvalue()


def _pubmed(body: str, doctype: str = "") -> str:
    return f'<?xml version="1.0"?>\n{doctype}\n<PubmedArticleSet>{body}</PubmedArticleSet>'


def _article(title: str, pmid: str = "1") -> str:
    cited = f"<PMID>{pmid}</PMID><Article><ArticleTitle>{title}</ArticleTitle></Article>"
    return f"<PubmedArticle><MedlineCitation>{cited}</MedlineCitation></PubmedArticle>"


_LAUGHS = "<!DOCTYPE x [<!ENTITY l0 'lol'>" + "".join(f"<!ENTITY l{i} '{f'&l{i - 1};' * 10}'>" for i in range(1, 12)) + "]>"
HTML = "<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head></html>\n"
Y = {"labels": {"y": "y"}}
_SP = "ID   X_HUMAN                 Reviewed;           4 AA.\nAC   P12345;\nOX   NCBI_TaxID=9606;\n"
_SP += "SQ   SEQUENCE   4 AA;  444 MW;  A CRC64;\n     MKLV\n//\n"
_GB = "LOCUS       AAA00001                   4 aa            linear   PRI 01-JAN-2000\nACCESSION   AAA00001\nVERSION     AAA00001.1\n"
_ICD = "<ICD10CM.tabular><chapter><section><diag><desc>x</desc></diag></section></chapter></ICD10CM.tabular>"
_TERM = "format-version: 1.2\n\n[Term]\nid: T:1\nname: one\n"
_USER, _ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


def _chat(*messages: Any) -> str:
    return json.dumps({"messages": messages}) + "\n"


BAD = [
    # any text
    Bad("empty file", "a.csv", "dna", b"", ("the file is empty", "fetch or export it again")),
    Bad("blank lines only", "a.fa", "dna", "\n\n", ("line 1", "holds no record of the format fasta", "fetch or export")),
    Bad("web page for a table", "a.csv", "dna", HTML, ("line 1", "web page", "download it again")),
    Bad("web page for fasta", "a.fa", "dna", HTML, ("line 1", "web page", "download it again")),
    Bad("web page for xml", "a.xml", "text", HTML, ("line 1", "web page", "download it again")),
    Bad("web page for parquet", "a.parquet", "dna", HTML, ("line 1", "web page", "download it again")),
    Bad("web page for obo", "a.obo", "text", HTML, ("line 1", "web page", "download it again")),
    Bad("web page for jsonl", "a.jsonl", "text", HTML, ("line 1", "web page", "download it again")),
    Bad("utf-16", "a.csv", "text", "text\nwörd\n".encode("utf-16"), ("line 1", "UTF-16", "save it as UTF-8")),
    Bad("latin-1", "a.csv", "text", "text\nok\nwörd\n".encode("latin-1"), ("line 3", "0xF6 is not UTF-8", "save the file as UTF-8")),
    Bad("latin-1 in json", "a.json", "text", '[{"text": "ö"}]'.encode("latin-1"), ("line 1", "not UTF-8", "save the file as UTF-8")),
    Bad("a NUL byte", "a.tsv", "text", "text\ty\nok\t1\na\0b\t1\n", ("line 3", "a NUL byte", "export it again")),
    Bad("pdf for text", "a.txt", "text", b"%PDF-1.7\n%\xe2\xe3", ("line 1", "a PDF", "export it as text")),
    Bad("parquet called csv", "a.csv", "dna", _parquet(sequence=["AC"]), ("line 1", "a Parquet file", "export it as text")),
    Bad("cut gzip", "a.csv.gz", "dna", gzip.compress(b"sequence\nACGT\n" * 50)[:-9],
        ("damaged or cut off", "fetch or export it again"), {}, True),
    Bad("gzip with a wrong sum", "a.fa.gz", "dna", gzip.compress(b">a\nAC\n")[:-8] + b"\0" * 8, ("damaged", "fetch"), {}, True),
    Bad("cut gzip of xml", "a.xml.gz", "text", gzip.compress(_pubmed(_article("x") * 99).encode())[:-9], ("damaged", "fetch"), {}, True),
    Bad("cut zstd", "a.jsonl.zst", "text", zstandard.compress(b'{"text": "a"}\n' * 50)[:-4], ("damaged", "fetch"), {}, True),
    Bad("unknown suffix", "a.xyz", "dna", "AC\n", ("line 1", "'.xyz' does not say", "say it as format")),
    Bad("text for dna", "a.fa", "text", ">a\nAC\n", ("line 1", "read as fasta, which holds residues, not text", "give one of")),
    Bad("smiles for dna", "a.smi", "dna", "C\n", ("line 1", "read as smi", "give one of")),
    # tables
    Bad("header only", "a.csv", "dna", "sequence,y\n", ("line 1", "holds no record", "fetch or export")),
    Bad("missing label column", "a.csv", "dna", "sequence,z\nAC,1\n", ("no column 'y' (label y)", "sequence, z", "write one of them"), Y),
    Bad("missing sequence column", "a.csv", "dna", "seqs,z\nAC,1\n",
        ("line 2", "no column is called sequence or seq", "seqs, z", "write one")),
    Bad("named sequence column missing", "a.csv", "dna", "s,z\nA,1\n",
        ("no column 'q' (sequence)", "s, z", "write one"), {"sequence": "q"}),
    Bad("a pattern that fits nothing", "a.csv", "dna", "s,z\nA,1\n", ("no column 'p_*'", "s, z", "write one"), {"sequence": ["p_*"]}),
    Bad("two sequence columns", "a.csv", "dna", "seq,sequence\nA,C\n", ("several columns may hold", "seq, sequence", "say which")),
    Bad("missing header", "a.csv", "dna", "ACGT,1\nGG,0\n", ("no column is called", "table.header: false")),
    Bad("missing group column", "a.csv", "dna", "sequence\nAC\n", ("no column 'p' (group)", "write one"), {"group": "p"}),
    Bad("missing id column", "a.csv", "dna", "sequence\nAC\n", ("no column 'p' (id)", "write one"), {"id": "p"}),
    Bad("missing covariate", "a.csv", "dna", "sequence\nAC\n", ("no column 'p' (covariate x)", "write one"), {"covariates": {"x": "p"}}),
    Bad("twice the same column", "a.csv", "dna", "sequence,y,y\nAC,1,2\n", ("line 1", "several columns are called y", "rename them")),
    Bad("row too short", "a.csv", "dna", "sequence,y\nAC,1\nGG\n", ("line 3", "1 fields, but the first line has 2", "quote a field"), Y),
    Bad("row too long", "a.csv", "dna", "sequence,y\nAC,1\nGG,1,2\n", ("line 3", "3 fields, but the first line has 2", "quote a field"), Y),
    Bad("ragged after a quoted line end", "a.csv", "text", 'text,y\n"a\nb",1\nc\n', ("line 4", "1 fields", "quote a field"), Y),
    Bad("an open quote", "a.csv", "text", 'text,y\na,1\n"b,2\nc,3\n',
        ("line 3", "a quote is opened and not closed", "write a quote inside")),
    Bad("a stray quote", "a.csv", "text", 'text,y\n"b" x,2\n', ("line 2", "expected after", "write a quote inside")),
    Bad("cut inside a quote", "a.csv", "text", 'text\n"b', ("line 2", "not closed", "write a quote inside")),
    Bad("wrong separator said", "a.csv", "dna", "sequence;y\nAC;1\n",
        ("no column is called", "sequence;y"), {"table": {"separator": "comma"}}),
    Bad("decimal commas", "a.csv", "dna", "sequence;y\nAC;1,5\nGG;2,5\n", ("line 2", "'1,5', with a decimal comma", "decimal points"), Y),
    Bad("words among numbers", "a.csv", "dna", "sequence,y\nAC,1\nGG,2\nTT,high\n",
        ("line 4", "'high', but mostly numbers (2 numbers, 1 words)", "missing"), Y),
    Bad("numbers among words", "a.csv", "dna", "sequence,y\nAC,a\nGG,7\nTT,b\n",
        ("line 3", "'7', but mostly words", "list it as missing"), Y),
    Bad("infinite label", "a.csv", "dna", "sequence,y\nAC,1\nGG,-inf\n", ("line 3", "'-inf'", "write a finite number"), Y),
    Bad("no label at all", "a.csv", "dna", "sequence,y\nAC,\nGG,NA\n", ("line 2", "no value in any record", "choose another column"), Y),
    Bad("same id twice", "a.csv", "dna", "i,sequence\na,AC\nb,G\na,T\nb,A\n",
        ("line 4", "'a' stands twice (first at", "line 2", "2 ids do: a, b", "rename"), {"id": "i"}),
    Bad("blank id", "a.csv", "dna", "i,sequence\na,AC\n,G\n",
        ("line 3", "(id) is blank here (1 times", "fill it, or leave out"), {"id": "i"}),
    Bad("unknown split", "a.csv", "dna", "sequence,s\nAC,train\nGG,holdout\n", ("line 3", "holds 'holdout'", "mend it"), {"split": "s"}),
    Bad("blank split", "a.csv", "dna", "sequence,s\nAC,train\nGG,\n", ("line 3", "is blank", "validation", "mend it"), {"split": "s"}),
    Bad("odd validation flag", "a.csv", "dna", "sequence,s,v\nAC,train,maybe\n",
        ("line 2", "'maybe'", "mend it"), {"split": "s", "split_validation": "v"}),
    Bad("a name without a split", "fold1.csv", "dna", "sequence\nAC\n",
        ("'fold1' says no split", "rename the file"), {"split_from_name": True}),
    Bad("wrong letter", "a.csv", "dna", "sequence\nAC\nACJT\n",
        ("line 3", "holds 'J' at position 3", "dna may hold ACGTUN", "mend or remove")),
    Bad("the protein of a gene for dna", "a.csv", "dna", "sequence\nMKLVFFAEDV\n", ("line 2", "looks like protein", "mend the modality")),
    Bad("gaps of an alignment", "a.csv", "protein", "sequence\nMK-LV\n", ("line 2", "'-' at position 3", "take the gaps")),
    Bad("white space inside", "a.csv", "dna", "sequence\nAC GT\n", ("line 2", "' ' at position 3", "take the white space out")),
    Bad("all sequences blank", "a.csv", "dna", "sequence,y\n,1\n,2\n",
        ("line 2", "none of 2 records is left (2 blank sequence)", "mend the files")),
    # ARFF
    Bad("arff without data", "a.arff", "dna", "@relation x\n@attribute sequence string\n", ("line 1", "no @data", "export the file again")),
    Bad("arff without attributes", "a.arff", "dna", "@relation x\n@data\nAC\n", ("no @attribute", "export the file again")),
    Bad("arff with rubbish", "a.arff", "dna", "@relation x\nhello\n@data\nAC\n", ("line 2", "found 'hello'", "mend the line")),
    Bad("ragged arff", "a.arff", "dna", "@attribute sequence string\n@attribute y {a}\n@data\nAC\n",
        ("line 4", "1 fields for 2", "quote a field")),
    Bad("sparse arff", "a.arff", "dna", "@attribute sequence string\n@data\n{0 AC}\n", ("line 3", "a sparse row", "dense rows")),
    Bad("open quote in arff", "a.arff", "dna", "@attribute sequence string\n@data\n'AC\n", ("line 3", "not closed", "quote")),
    Bad("arff with header only", "a.arff", "dna", "@attribute sequence string\n@data\n", ("holds no record", "fetch or export")),
    # Parquet
    Bad("cut parquet", "a.parquet", "dna", _parquet(sequence=["AC"])[:-10],
        ("row 1", "not a whole Parquet file", "fetch or export it again")),
    Bad("text called parquet", "a.parquet", "dna", "sequence\nAC\n", ("row 1", "not a Parquet file", "fetch or export it again")),
    Bad("parquet without rows", "a.parquet", "dna", _parquet(sequence=[]), ("row 1", "holds no record", "fetch or export")),
    Bad("parquet label column missing", "a.parquet", "dna", _parquet(sequence=["AC"], z=[1]),
        ("no column 'y'", "sequence, z", "write one"), Y),
    Bad("nested label in parquet", "a.parquet", "dna", _parquet(sequence=["AC"], y=[[1]]), ("row 1", "'y' holds a list", "flatten it"), Y),
    Bad("wrong letter in parquet", "a.parquet", "dna", _parquet(sequence=["AC", "AZ"]), ("row 2", "'Z' at position 2", "mend")),
    # JSON
    Bad("a bad line of json", "a.jsonl", "text", '{"text": "a"}\n{"text": \n',
        ("line 2", "not JSON: Expecting value at column", "mend or remove")),
    Bad("cut jsonl", "a.jsonl", "text", '{"text": "a"}\n{"text": "b', ("line 2", "not JSON: Unterminated string", "mend or remove")),
    Bad("a list a line", "a.jsonl", "text", '{"text": "a"}\n["b"]\n', ("line 2", "JSON, but a list", "mend or remove")),
    Bad("a number a line", "a.jsonl", "text", '{"text": "a"}\n7\n', ("line 2", "JSON, but a number", "mend or remove")),
    Bad("null a line", "a.jsonl", "text", "null\n", ("line 1", "JSON, but null", "mend or remove")),
    Bad("deep json", "a.jsonl", "text", '{"text": ' + "[" * 100_000 + "\n", ("line 1", "nested deeper", "mend or remove")),
    Bad("a huge whole number", "a.jsonl", "text", '{"text": "a", "y": ' + "1" * 5000 + "}\n",
        ("line 1", "cannot be read", "mend or remove")),
    Bad("half a character", "a.jsonl", "text", '{"text": "\\ud800"}\n', ("line 1", "half of a character", "write the character whole")),
    Bad("a label that is a list", "a.jsonl", "text", '{"text": "a", "y": [1]}\n', ("line 1", "'y' holds a list", "flatten it"), Y),
    Bad("a text that is an object", "a.jsonl", "text", '{"text": {"a": 1}}\n', ("line 1", "'text' holds a dict", "choose another column")),
    Bad("no object has the label", "a.jsonl", "text", '{"text": "a"}\n{"text": "b", "z": 1}\n',
        ("no column 'y'", "text, z", "write one"), Y),
    Bad("no object has the text", "a.jsonl", "text", '{"a": "a"}\n{"b": "b"}\n',
        ("no column 'q' (sequence)", "a", "write one"), {"sequence": "q"}),
    Bad("json of numbers", "a.json", "text", "[1, 2]", ("record 1", "a number; every record should be an object", "mend or remove")),
    Bad("json that is a text", "a.json", "text", '"hello"', ("line 1", "JSON, but a text", "export it again")),
    Bad("cut json", "a.json", "text", '[\n{"text": "a"},\n{"text"', ("line 3", "not JSON", "mend or remove")),
    Bad("empty json list", "a.json", "text", "[]", ("record 1", "holds no record", "fetch or export")),
    # conversations
    Bad("a chat without an answer", "a.jsonl", "text", _chat(_USER), ("line 1", "does not end with an answer", "add it")),
    Bad("a chat that begins with the answer", "a.jsonl", "text", _chat(_ANSWER), ("line 1", "begins with an answer", "put the question")),
    Bad("an unknown role", "a.jsonl", "text", _chat({"role": "bot", "content": "x"}), ("line 1", "role 'bot'", "mend it")),
    Bad("a late system message", "a.jsonl", "text", _chat(_USER, {"role": "system", "content": "x"}), ("message 2 is a system", "move it")),
    Bad("a message that is a text", "a.jsonl", "text", _chat("hello"), ("line 1", "role None", "mend it")),
    Bad("blank content", "a.jsonl", "text", _chat(_USER, {"role": "assistant", "content": " "}),
        ("content of message 2 is blank", "give the text")),
    Bad("content of parts", "a.jsonl", "text", _chat({"role": "user", "content": [{}]}), ("content of message 1 is list", "give the text")),
    Bad("no messages", "a.jsonl", "text", '{"messages": []}\n', ("line 1", "should be a list", "mend it")),
    Bad("a later line of another form", "a.jsonl", "text", _chat(_USER, _ANSWER) + '{"x": 1}\n', ("line 2", "keys x", "rename the keys")),
    Bad("a blank response", "a.jsonl", "text", '{"prompt": "q", "response": ""}\n', ("line 1", "response is blank", "give the text")),
    # FASTA and FASTQ
    Bad("text before the first header", "a.fa", "dna", "ACGT\n>a\nAC\n", ("line 1", "found 'ACGT'", "remove what stands before")),
    Bad("header without id", "a.fa", "dna", ">a\nAC\n> \nGG\n", ("line 3", "no id", "give it one")),
    Bad("same fasta id twice", "a.fa", "dna", ">a x\nAC\n>a y\nGG\n", ("line 3", "'a' stands twice", "header")),
    Bad("wrong letter in fasta", "a.fa", "protein", ">a\nMK\n>b\nMK\nL1\n",
        ("line 3", "record 'b' holds '1' at position 4", "mend or remove")),
    Bad("stop inside a protein", "a.fa", "protein", ">a\nMK*LV\n", ("line 1", "'*' at position 3", "split or remove")),
    Bad("headers only", "a.fa", "dna", ">a\n>b\n", ("line 1", "none of 2 records is left", "mend")),
    Bad("non-ascii residue", "a.fa", "dna", ">a\nACß\n", ("line 1", "holds 'ß' at position 3", "mend or remove")),
    Bad("fasta without the label", "a.fa", "dna", ">a B=1\nAC\n", ("no column 'y' (label y)", "header, description, B", "write one"), Y),
    Bad("cut fastq", "a.fq", "dna", "@a\nAC\n+\nII\n@b\nAC\n", ("line 5", "ends inside the record", "fetch or export")),
    Bad("fastq qualities too short", "a.fq", "dna", "@a\nACG\n+\nII\n", ("line 4", "2 qualities for 3 residues", "restore")),
    Bad("fastq without a plus", "a.fq", "dna", "@a\nACG\nACG\nIII\n", ("line 3", "begins with '+'", "unwrap or mend")),
    Bad("fasta called fastq", "a.fq", "dna", ">a\nAC\n", ("line 1", "begins with '@id'", "unwrap")),
    # UniProt, GenPept
    Bad("cut uniprot", "a.dat", "protein", _SP[:-3], ("not a whole UniProt entry", "fetch or export")),
    Bad("uniprot of another length", "a.dat", "protein", _SP.replace("MKLV", "MKL"), ("line 1", "3 residues and says 4", "fetch it again")),
    Bad("uniprot with an unknown line", "a.dat", "protein", _SP.replace("OX ", "ZZ "), ("line 3", "not a whole UniProt entry", "fetch")),
    Bad("uniprot without accession", "a.dat", "protein", _SP.replace("AC   P12345;\n", ""), ("line 1", "no accession", "restore it")),
    Bad("csv called uniprot", "a.dat", "protein", "sequence\nMK\n", ("line 1", "not a whole UniProt entry", "fetch")),
    Bad("genpept without sequence", "a.gp", "protein", _GB + "FEATURES             Location/Qualifiers\nCONTIG      join(A1.1:1..4)\n//\n",
        ("line 1", "no sequence (ORIGIN)", "export it with")),
    Bad("csv called genpept", "a.gp", "protein", "sequence\nMK\n", ("line 1", "holds no record of the format genbank", "fetch")),
    # XML
    Bad("cut xml", "a.xml", "text", _pubmed(_article("x"))[:-19], ("line 3", "cut off", "fetch or export")),
    Bad("ill-formed xml", "a.xml", "text", _pubmed("<a></b>"), ("line 3", "not well-formed XML", "fetch or export")),
    Bad("unknown xml", "a.xml", "text", "<?xml version='1.0'?><kml></kml>", ("line 1", "<kml>", "export the file")),
    Bad("svg said to be pubmed", "a.xml", "text", "<?xml version='1.0'?><svg></svg>",
        ("line 1", "is <svg>", "mend its format"), {"format": "pubmed"}),
    Bad("a billion laughs", "a.xml", "text", _pubmed(_article("&l11;"), _LAUGHS), ("line 1", "entities of its own (&l0;)", "write out")),
    Bad("a file as entity", "a.xml", "text", _pubmed(_article("&e;"), "<!DOCTYPE x [<!ENTITY e SYSTEM 'file:///etc/passwd'>]>"),
        ("entities", "write out")),
    Bad("a parameter entity", "a.xml", "text", _pubmed(_article("x"), "<!DOCTYPE x [<!ENTITY % p SYSTEM 'http://x.invalid/p'> %p;]>"),
        ("entities", "write out")),
    Bad("xml too deep", "a.xml", "text", _pubmed("<a>" * 5000), ("line 3", "Excessive depth", "fetch or export")),
    Bad("article without pmid", "a.xml", "text", _pubmed(_article("x", "")), ("record 1", "no PMID", "fetch it again")),
    Bad("article without text", "a.xml", "text", _pubmed(_article("")), ("record 1", "none of 1 records is left", "mend")),
    Bad("no article", "a.xml", "text", _pubmed(""), ("record 1", "holds no record", "fetch or export")),
    Bad("same pmid twice", "a.xml", "text", _pubmed(_article("x") * 2), ("record 2", "'1' stands twice", "rename or remove")),
    Bad("jats without front", "a.nxml", "text", "<article><body/></article>", ("record 1", "no front/article-meta", "fetch it again")),
    Bad("icd without a code", "a.xml", "text", _ICD, ("record 1", "no name", "fetch")),
    Bad("latin-1 that xml does not declare", "a.xml", "text", _pubmed(_article("ö")).encode("latin-1"),
        ("line 3", "not well-formed", "fetch")),
    # OBO
    Bad("obo without terms", "a.obo", "text", "format-version: 1.2\n", ("line 1", "no [Term]", "fetch it again")),
    Bad("obo with a broken frame", "a.obo", "text", _TERM + "\n[Ter\n", ("line 7", "found '[Ter'", "mend the line")),
    Bad("obo with rubbish", "a.obo", "text", _TERM + "hello\n", ("line 6", "expected 'tag: value'", "mend the line")),
    Bad("cut definition", "a.obo", "text", _TERM + 'def: "half', ("line 6", "not in double quotes", "mend the line")),
    Bad("term without id", "a.obo", "text", _TERM + "\n[Term]\nname: x\n", ("line 7", "no id", "restore it")),
    Bad("term without name", "a.obo", "text", _TERM + "\n[Term]\nid: x\n", ("line 7", "x has no name", "restore it")),
    Bad("same term twice", "a.obo", "text", _TERM + _TERM[20:], ("line 7", "T:1 stands twice (first at line 3)", "remove one")),
    Bad("unknown root", "a.obo", "text", _TERM, ("line 1", "ontology.root is HP:1", "write an id"), {"ontology": {"root": "HP:1"}}),
    Bad("ancestor without a level", "a.obo", "text", _TERM,
        ("no column 'ancestor'", "name, definition", "write one"), {"labels": {"t": "ancestor"}}),
    # IOB
    Bad("token without tag", "a.conll", "text", "a\tO\nb\n", ("line 2", "1 column", "add the other")),
    Bad("an unknown tag", "a.conll", "text", "a\tO\nb\tX-Gene\n", ("line 2", "'X-Gene' is none of IOB", "mend it")),
    Bad("white space in a token", "a.conll", "text", "a b\tO\n", ("line 1", "2 parts", "rows of their own")),
    Bad("a blank token", "a.conll", "text", "\tO\n", ("line 1", "a row is a token and its tag", "add the other")),
    # SMILES
    Bad("too many invalid smiles", "a.csv", "smiles", "smiles\nCCO\nC(\n",
        ("line 3", "1 of 2 records", "max_invalid_fraction", "Mend the file")),
    Bad("names for smiles", "a.smi", "smiles", "aspirin\nibuprofen\n", ("line 1", "2 of 2 records", "the right column")),
    Bad("molecule names twice", "a.smi", "smiles", "C x\nCC x\n", ("line 2", "'x' stands twice", "rename or remove")),
    # cells
    Bad("text called h5ad", "a.h5ad", "text", "hello\n", ("row 1", "not an HDF5 file", "fetch or export")),
    Bad("cut h5ad", "a.h5ad", "text", b"\x89HDF\r\n\x1a\n" + b"\0" * 64, ("row 1", "not a whole AnnData file", "fetch or export")),
]  # fmt: skip


@pytest.mark.parametrize("bad", BAD, ids=[bad.what for bad in BAD])
def test_what_is_wrong_is_refused_with_file_place_and_remedy(reads: Reads, tmp_path: Path, bad: Bad) -> None:
    with pytest.raises(DataError) as refused:
        reads({bad.name: bad.content}, bad.modality, **bad.options)
    message = str(refused.value)
    assert message.startswith(str(tmp_path / bad.name)), message
    assert bad.whole_file or PLACE.search(message), message
    position = 0
    for part in bad.says:
        assert part in message[position:], f"{part!r} is not in {message!r}, or not in its place"
        position = message.index(part, position)
    assert "\n" not in message
    assert len(message) < 900


def test_entities_of_an_outer_dtd_are_letters_and_nothing_is_fetched(reads: Reads, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr("socket.socket.connect", refuse)
    doctype = '<!DOCTYPE PubmedArticleSet PUBLIC "x" "http://127.0.0.1:9/x.dtd">'
    assert reads({"a.xml": _pubmed(_article("&alpha; &amp; b"), doctype)}, "text").frame["sequence"].to_list() == ["α & b"]


def test_articles_that_were_read_are_let_go(tmp_path: Path) -> None:
    """Memory stays that of a few articles, however many the file has: the parser's tree keeps none of those behind us."""
    from biollm.ingest.records.source import Source
    from biollm.ingest.records.xmls import _elements

    (tmp_path / "a.xml").write_text(_pubmed("".join(_article("x", str(i)) for i in range(3000))))
    held = [
        len(citation.getroottree().getroot()) for citation in _elements(Source(tmp_path / "a.xml", "a.xml"), ("MedlineCitation",), "pubmed")
    ]
    assert len(held) == 3000
    assert max(held) < 1000


# --- archives -------------------------------------------------------------------------------------------------------------------


def _zip(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_member_of_a_zip_archive_is_read(tmp_path: Path, compression: int) -> None:
    (tmp_path / "x.zip").write_bytes(
        _zip({"in/a.csv": b"sequence\nAC\n", "in/b.fa": b">b\nGG\n", "__MACOSX/in/._a.csv": b"junk"}, compression)
    )
    options = RecordOptions(archive={"member": "in/a.csv"})
    assert read_records([tmp_path / "x.zip"], options, "dna").frame.rows() == [("a:2", "AC")]
    both = [Path(f"{tmp_path}/x.zip::in/b.fa"), Path(f"{tmp_path}/x.zip::in/a.csv")]
    assert read_records(both, RecordOptions(), "dna").frame.rows() == [("a:2", "AC"), ("b", "GG")]


def test_the_only_member_needs_no_name_and_errors_name_it(reads: Reads, tmp_path: Path) -> None:
    assert reads({"x.zip": _zip({"d/a.csv.gz": gzip.compress(b"sequence\nAC\n")})}, "dna").frame.rows() == [("a:2", "AC")]
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'y.zip'}::a.csv line 2: holds 'J'")):
        reads({"y.zip": _zip({"a.csv": b"sequence\nJ\n"})}, "dna")
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'z.zip'}::a.csv line 2: a NUL byte")):
        reads({"z.zip": _zip({"a.csv": b"sequence\n\0\n"})}, "dna")


def test_a_member_that_would_leave_its_folder_stays(reads: Reads, tmp_path: Path) -> None:
    before = {path for path in tmp_path.parent.rglob("*") if "x.zip" not in path.name}
    reads({"x.zip": _zip({"../../evil.csv": b"sequence\nAC\n"})}, "dna", archive={"member": "../../evil.csv"})
    assert {path for path in tmp_path.parent.rglob("*") if "x.zip" not in path.name} == before


def _lying_zip() -> bytes:
    """A member of 1 MB whose directory says 10 bytes."""
    data = bytearray(_zip({"a.csv": b"sequence\n" + b"A" * 1_000_000}))
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        place = data.index(signature) + offset
        data[place : place + 4] = struct.pack("<I", 10)
    return bytes(data)


def _misplaced_zip() -> bytes:
    """The directory is said to lie 1,000 bytes further on, and the members, counted from it, before the file's beginning."""
    data = bytearray(_zip({"a.csv": b"sequence\nAC\n"}))
    at = data.index(b"PK\x05\x06") + 16
    data[at : at + 4] = struct.pack("<I", struct.unpack("<I", data[at : at + 4])[0] + 1000)
    return bytes(data)


def _locked_zip() -> bytes:
    data = bytearray(_zip({"a.csv": b"sequence\nAC\n"}))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    return bytes(data)


@pytest.mark.parametrize(
    ("content", "options", "says"),
    [
        (_zip({"a.csv": b"x", "b.csv": b"x"}), {}, ("2 files; it holds a.csv, b.csv", "name one as archive.member")),
        (_zip({"a.csv": b"x"}), {"archive": {"member": "c.csv"}}, ("no member 'c.csv'", "it holds a.csv", "name one of them")),
        (_zip({}), {}, ("a zip archive of 0 files; it holds no file",)),
        (_zip({"a.csv": b"sequence\n" + b"A" * 5000}), {"archive": {"max_bytes": 1000}},
         ("unpacks to more than archive.max_bytes = 1000", "raise the limit")),
        (_lying_zip(), {}, ("a.csv: the archive is damaged or cut off", "fetch or export it again")),
        (_misplaced_zip(), {}, ("a.csv: the archive is damaged or cut off", "fetch or export it again")),
        (_zip({"a.csv": b"sequence\nAC\n"}).replace(b"a.csv", b"\0.csv"), {}, ("not a whole zip archive", "fetch or export it again")),
        (_locked_zip(), {}, ("a.csv: cannot be unpacked", "without a password")),
        (_zip({"a.csv": b"sequence\nACGTACGT\n"})[:40], {}, ("not a whole zip archive", "fetch or export it again")),
        (_zip({"a.csv": b""}), {}, ("a.csv line 1: the file is empty", "export the archive again")),
        (_zip({"inner.zip": _zip({"a.csv": b"sequence\nAC\n"})}), {}, ("inner.zip line 1", "a zip archive", "unpack it")),
        (_zip({"[Content_Types].xml": b"", "xl/workbook.xml": b""}), {}, ("an Excel workbook", "save it as CSV")),
    ],
    ids=["which", "no member", "empty", "bomb", "lying bomb", "misplaced", "nameless", "locked", "cut", "empty member", "nested", "excel"],
)  # fmt: skip
def test_bad_archives_are_refused(reads: Reads, tmp_path: Path, content: bytes, options: dict[str, Any], says: tuple[str, ...]) -> None:
    with pytest.raises(DataError) as refused:
        reads({"x.zip": content}, "dna", **options)
    assert str(refused.value).startswith(str(tmp_path / "x.zip"))
    for part in says:
        assert part in str(refused.value)


@pytest.mark.parametrize("lies", [False, True])
def test_a_bomb_is_refused_by_what_it_says_and_by_what_it_unpacks_to(reads: Reads, monkeypatch: pytest.MonkeyPatch, lies: bool) -> None:
    content = _zip({"a.csv": b"sequence\n" + b"A" * 5000})

    def open_nothing(*_: object) -> None:
        raise AssertionError("unpacked all the same")

    if lies:
        says, getinfo = [zipfile.ZipInfo("a.csv")], zipfile.ZipFile.getinfo
        monkeypatch.setattr(zipfile.ZipFile, "getinfo", lambda archive, name: says.pop() if says else getinfo(archive, name))
    else:
        monkeypatch.setattr(zipfile.ZipFile, "open", open_nothing)
    with pytest.raises(DataError, match="unpacks to more than"):
        reads({"x.zip": content}, "dna", archive={"max_bytes": 1000})


def test_a_folder_a_missing_file_and_a_member_of_no_archive_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("sequence\nAC\n")
    for name, says in [("", "is a folder"), ("b.csv", "no such file"), ("a.csv::x", "not a zip archive")]:
        with pytest.raises(DataError, match=says):
            read_records([Path(f"{tmp_path}/{name}")], RecordOptions(), "dna")


# --- damage at random -----------------------------------------------------------------------------------------------------------

_JUNK = b"\0 \xff \n \r \" ' , \t ; > < { } [ &x; nan 99999999999999999999 \xc3\xa4 \\ud800 * null //\n".split(b" ")
_Damage = st.lists(
    st.tuples(st.sampled_from(["insert", "remove", "replace", "cut"]), st.floats(0, 1), st.sampled_from(_JUNK)), min_size=1, max_size=4
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damage=_Damage)
def test_damaged_files_are_read_or_refused(reads: Reads, tmp_path: Path, example: Any, damage: list[tuple[str, float, bytes]]) -> None:
    data = example.data
    for kind, place, junk in damage:
        at = int(place * len(data))
        tail = {"insert": data[at:], "remove": data[at + len(junk) :], "replace": data[at + len(junk) :], "cut": b""}[kind]
        data = data[:at] + (junk if kind in ("insert", "replace") else b"") + tail
    refusal, table = "", None
    try:
        table = reads({example.name: data}, example.modality, **example.options)
    except DataError as error:
        refusal = str(error)
    if table is None:
        assert str(tmp_path / example.name) in refusal
    else:
        assert table.frame["id"].is_unique().all()
        assert (table.frame["sequence"].str.strip_chars().str.len_chars() > 0).all()
