"""A small whole file of every format, and a short way to read files that a test makes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from biollm.ingest.records.config import RecordOptions
from biollm.ingest.records.read import RecordTable, read_records

GENPEPT = """LOCUS       AAA00001                   4 aa            linear   PRI 01-JAN-2000
DEFINITION  thing.
ACCESSION   AAA00001
VERSION     AAA00001.1
SOURCE      Homo sapiens (human)
  ORGANISM  Homo sapiens
            Eukaryota; Metazoa.
FEATURES             Location/Qualifiers
     source          1..4
                     /organism="Homo sapiens"
ORIGIN
        1 mklv
//
"""
UNIPROT = """ID   X_HUMAN                 Reviewed;           4 AA.
AC   P12345; Q1;
DT   01-JAN-2000, integrated into UniProtKB/Swiss-Prot.
DE   RecName: Full=Thing;
GN   Name=ABC;
OS   Homo sapiens (Human).
OC   Eukaryota.
OX   NCBI_TaxID=9606;
KW   Zinc.
SQ   SEQUENCE   4 AA;  444 MW;  AAAAAAAAAAAAAAAA CRC64;
     MKLV
//
"""
PUBMED = """<?xml version="1.0" encoding="utf-8"?>
<!DOCTYPE PubmedArticleSet PUBLIC "-//NLM//DTD PubMedArticle, 1st January 2025//EN" "https://dtd.invalid/pubmed_250101.dtd">
<PubmedArticleSet>
<PubmedArticle><MedlineCitation><PMID Version="1">101</PMID><Article><Journal><JournalIssue><PubDate><Year>1999</Year></PubDate>
</JournalIssue><Title>J</Title></Journal>
<ArticleTitle>Growth at 10<sup>6</sup> cells: &alpha; <i>E. coli</i>, CD4<sup>+</sup>.</ArticleTitle>
<Abstract><AbstractText Label="AIM">We<!-- not --> did.<?no no?></AbstractText>
<AbstractText Label="RESULTS">It grew &amp; died.</AbstractText></Abstract>
<Language>eng</Language></Article>
<MeshHeadingList><MeshHeading><DescriptorName UI="D1">Mice</DescriptorName></MeshHeading></MeshHeadingList>
</MedlineCitation><PubmedData><ReferenceList><Reference><Citation>Someone</Citation></Reference></ReferenceList></PubmedData></PubmedArticle>
<PubmedArticle><MedlineCitation><PMID Version="1">102</PMID><Article><ArticleTitle>Only a title.</ArticleTitle></Article></MedlineCitation>
</PubmedArticle><PubmedBookArticle><BookDocument><PMID>103</PMID><Book><BookTitle>A book</BookTitle></Book><Abstract><AbstractText
Label="UNLABELLED">Words.</AbstractText></Abstract></BookDocument></PubmedBookArticle>
</PubmedArticleSet>
"""
JATS = """<?xml version="1.0"?>
<article><front><journal-meta><journal-title-group><journal-title>J</journal-title></journal-title-group></journal-meta><article-meta>
<article-id pub-id-type="pmid">7</article-id><article-id pub-id-type="pmc">55</article-id>
<title-group><article-title>A title</article-title></title-group><pub-date><year>2001</year></pub-date>
<abstract><p>Short words.</p></abstract><abstract abstract-type="graphical"><p>Graph.</p></abstract></article-meta></front>
<body><sec><title>Intro</title><p>First<sup><xref ref-type="bibr">1</xref>,<xref ref-type="bibr">2</xref></sup> paragraph
[<xref ref-type="bibr">1</xref>–<xref ref-type="bibr">3</xref>], see (<xref ref-type="fig">Fig. 1</xref>).</p>
<table-wrap><table><tr><td>cell</td></tr></table></table-wrap><p>Second: <list><list-item><p>one</p></list-item></list></p>
<fig><caption><p>Figure words</p></caption></fig></sec></body>
<back><ref-list><ref>Someone 1999</ref></ref-list></back></article>
"""
ICD = (
    '<?xml version="1.0"?><ICD10CM.tabular><version>2026</version><chapter><name>1</name><desc>Chapter one</desc><section id="A00-A09">'
    "<desc>Section one</desc><diag><name>A00</name><desc>Cholera</desc><diag><name>A00.0</name><desc>Cholera due to x</desc>"
    "<inclusionTerm><note>Classical cholera</note></inclusionTerm></diag></diag></section></chapter></ICD10CM.tabular>"
)
OBO = """format-version: 1.2
ontology: t

[Term]
id: T:0
name: All

[Term]
id: T:1
name: Left
def: "The \\"left\\" side." [x:y]
synonym: "Sinister" EXACT []
is_a: T:0 ! All

[Term]
id: T:2
name: Lefter
is_a: T:1 {is_inferred="true"} ! Left

[Term]
id: T:3
name: Old
is_obsolete: true

[Typedef]
id: part_of
name: part of
"""
ARFF = "% note\n@relation x\n@attribute 'seq one' string\n@attribute y {a,b}\n@data\nACGT,a\n'AC',?\n"
CHAT = '{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}\n'


def _parquet() -> bytes:
    buffer = io.BytesIO()
    pl.DataFrame({"sequence": ["ACGT", "GGG"], "y": [1, None]}).write_parquet(buffer)
    return buffer.getvalue()


@dataclass(frozen=True)
class Example:
    """A whole small file: what it is called, its content, how it is read, and the rows that come out."""

    name: str
    modality: Any
    content: str | bytes
    rows: list[tuple[Any, ...]]
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def data(self) -> bytes:
        return self.content if isinstance(self.content, bytes) else self.content.encode()


EXAMPLES = [
    Example("a.fasta", "protein", ">a TARGET=1 OS=Homo s\nMKL\nVV*\n\n>b [TARGET=2]\nmmm\n", [("a", "MKLVV", 1), ("b", "MMM", 2)],
            {"labels": {"y": "TARGET"}}),
    Example("a.fastq", "dna", "@a\nACRT\n+\nIIII\n@b c\nACU\n+b\nIII\n\n", [("a", "ACNT"), ("b", "ACT")]),
    Example("a.dat", "protein", UNIPROT, [("P12345", "MKLV", "Homo sapiens (Human)")], {"labels": {"y": "organism"}}),
    Example("a.gp", "protein", GENPEPT, [("AAA00001.1", "MKLV", "Homo sapiens")], {"labels": {"y": "organism"}}),
    Example("a.csv", "dna", 'id,sequence,y\na,ACGT,1\nb,"GGG",2\n', [("a", "ACGT", 1), ("b", "GGG", 2)],
            {"id": "id", "labels": {"y": "y"}}),
    Example("a.tsv", "text", 'text\ty\nsome words\tu\n"more\nwords"\tv\nend\tu\n',
            [("a:2", "some words", "u"), ("a:3", "more\nwords", "v"), ("a:5", "end", "u")], {"labels": {"y": "y"}}),
    Example("b.tsv", "text", "A\tB-Disease\nb\tO\n\nc\tO\n", [("b:1", "A b", '["B-Disease", "O"]'), ("b:4", "c", '["O"]')]),
    Example("a.parquet", "dna", _parquet(), [("a:1", "ACGT", 1), ("a:2", "GGG", None)], {"labels": {"y": "y"}}),
    Example("a.arff", "dna", ARFF, [("a:6", "ACGT", "a"), ("a:7", "AC", None)], {"sequence": "seq one", "labels": {"y": "y"}}),
    Example("a.jsonl", "text", '{"text": "a b", "y": 1}\n\n{"text": "c \\ud83d\\ude00", "y": 2.5}\n',
            [("a:1", "a b", 1.0), ("a:3", "c 😀", 2.5)],
            {"labels": {"y": "y"}}),
    Example("a.json", "text", json.dumps({"7": {"text": ["a", "b"], "y": "u"}, "8": {"text": "c", "y": "v"}}, indent=1),
            [("7", "a\nb", "u"), ("8", "c", "v")], {"labels": {"y": "y"}}),
    Example("b.jsonl", "text", CHAT, [("b:1", "s\n\nq\n\na", CHAT[len('{"messages": ') : -2])]),
    Example("a.smi", "smiles", "OCC ethanol\nC1=CC=CC=C1\tbenzene\nCC |a| x\nC\n",
            [("ethanol", "CCO"), ("benzene", "c1ccccc1"), ("x", "CC"), ("a:4", "C")]),
    Example("a.txt", "text", "one line\n\n another line \n", [("a:1", "one line"), ("a:3", "another line")]),
    Example("pm.xml", "text", PUBMED,
            [("101", "Growth at 10^6 cells: α E. coli, CD4+.\nAIM: We did.\nRESULTS: It grew & died.", 1999),
             ("102", "Only a title.", None), ("103", "A book\nWords.", None)],
            {"labels": {"y": "year"}}),
    Example("ja.xml", "text", JATS, [("PMC55", "A title\nShort words.\nIntro\nFirst paragraph, see (Fig. 1).\nSecond:\none", 2001)],
            {"labels": {"y": "year"}}),
    Example("icd.xml", "text", ICD,
            [("A00", "Cholera", "Section one"), ("A00.0", "Cholera due to x. Includes: Classical cholera.", "Section one")],
            {"labels": {"y": "section"}}),
    Example("a.obo", "text", OBO,
            [("T:0", "All", None), ("T:1", 'Left: The "left" side. Synonyms: Sinister.', "Left"), ("T:2", "Lefter", "Left")],
            {"labels": {"y": "ancestor"}, "ontology": {"level": 1}}),
]  # fmt: skip

Reads = Callable[..., RecordTable]


@pytest.fixture
def reads(tmp_path: Path) -> Reads:
    """reads({"a.csv": content, …}, "dna", labels={…}) -> what read_records makes of these files, written below a fresh folder."""

    def read(files: dict[str, str | bytes], modality: Any, **options: Any) -> RecordTable:
        paths = []
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
            paths.append(path)
        return read_records(paths, RecordOptions(**options), modality)

    return read


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for `example` runs once for each format."""
    if "example" in metafunc.fixturenames:
        metafunc.parametrize("example", EXAMPLES, ids=[example.name for example in EXAMPLES])
