"""Every parser meets damaged files of its kind: read right or refused with an error of ours that names the file. Atheris goes deeper."""

from __future__ import annotations

import gzip
import io
import random
import struct
import sys
import zipfile
from pathlib import Path

import pytest
import zstandard

sys.path.insert(0, str(Path(__file__).parent))
from targets import TARGETS, feed

_GFF = "chr1\tx\tCDS\t{}\t{}\t.\t+\t0\tID=a%20b;Parent=t1\n"


def _zip(name: str, content: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return packed.getvalue()


GOOD: dict[str, str | bytes] = {
    ".txt": "one\ntwo\r\nthree\n",
    ".fa": ">a x\nACGTNACGT\nacgt\n>b\nGGCC\n",
    ".fastq": "@a\nACGT\n+\nIIII\n@b\nGG\n+\nII\n",
    ".gff": "##gff-version 3\n" + _GFF.format(1, 9) + _GFF.format(20, 30),
    ".bed": "track name=x\nchr1\t1\t9\tn\t0\t+\nchr1\t20\t30\n",
    ".bismark_cov": "chr1\t5\t5\t50.0\t2\t2\nchr1\t9\t9\t100\t3\t0\n",
    ".bismark_cx": "chr1\t5\t+\t2\t2\tCG\tCGA\nchr1\t6\t-\t0\t0\tCHH\tCAA\n",
    ".bedmethyl": "chr1\t4\t5\tm\t4\t+\t4\t5\t255,0,0\t4\t50.00\nchr1\t8\t9\tm\t2\t-\t8\t9\t255,0,0\t2\t0.00\n",
    ".cgmap": "chr1\tC\t5\tCG\tCG\t0.5\t2\t4\nchr1\tG\t6\tCG\tCG\t0.0\t0\t3\n",
    ".allc": "chr1\t5\t+\tCGA\t2\t4\t1\nchr1\t6\t-\tCGT\t0\t3\t1\n",
    ".methratio": "chr\tpos\tstrand\tcontext\tratio\teff_CT_count\tC_count\tCT_count\trev_G_count\trev_GA_count\tCI_lower\tCI_upper\n"
    "chr1\t5\t+\tAACGA\t0.500\t4.00\t2\t4\t3\t3\t0.1\t0.9\n",
    ".bedgraph": "chr1\t0\t3\t0.5\nchr1\t5\t6\t2\n",
    ".csv": "name,sequence,label\na,MKVA,1\nb,MAGT,0\n",
    ".jsonl": '{"text": "one"}\n{"text": "two"}\n',
    ".json": '[{"text": "one"}, {"text": "two"}]',
    ".smi": "CCO ethanol\nc1ccccc1 benzene\n",
    ".obo": "format-version: 1.2\n\n[Term]\nid: X:1\nname: one\ndef: \"a thing\" []\n\n[Term]\nid: X:2\nname: two\nis_a: X:1 ! one\n",
    ".xml": "<PubmedArticleSet><PubmedArticle><MedlineCitation><PMID>1</PMID><Article><ArticleTitle>t</ArticleTitle></Article>"
    "</MedlineCitation></PubmedArticle></PubmedArticleSet>",
    ".conll": "The O\ngene B-GENE\n\nIt O\n",
    ".arff": "@relation x\n@attribute sequence string\n@attribute class {a,b}\n@data\nACGT,a\nGGCC,b\n",
    ".faa": ">p1\nMKVAGT\n>p2\nMAAA*\n",
    ".audit.csv": "id,sequence,split,label\na,ACGTACGT,train,1\nb,GGCCGGCC,test,0\n",
    ".txt.gz": gzip.compress(b"one\ntwo\n", mtime=0) + gzip.compress(b"three\n", mtime=0),
    ".txt.zst": zstandard.compress(b"one\ntwo\n" * 9) + zstandard.compress(b"three\n"),
    ".zip": _zip("a.fa", ">p1\nMKVAGT\n>p2\nMAAA\n"),
    ".dat": "ID   A_HUMAN                 Reviewed;           5 AA.\nAC   P12345;\nDT   01-JAN-2000, sequence version 1.\n"
    "OS   Homo sapiens (Human).\nSQ   SEQUENCE   5 AA;  500 MW;  0000000000000000 CRC64;\n     MKVAG\n//\n",
    ".gb": "LOCUS       X1                        12 bp    DNA     linear   UNK 01-JAN-2000\nDEFINITION  a thing.\nACCESSION   X1\n"
    "VERSION     X1.1\nFEATURES             Location/Qualifiers\n     gene            1..6\n                     /gene=\"g\"\n"
    "ORIGIN\n        1 acgtacgtac gt\n//\n",
    ".methylbert": "name\tflag\tref_name\tref_pos\tdna_seq\tmethyl_seq\tctype\n"
    "a\t83\tchr2\t11\tACG CGT GTC TCG CGA\t12202\tT\nb\t163\tchr2\t19\tTTT\t2\tN\n",
    ".manifest": "Illumina\n[Assay]\nIlmnID,Name,CHR,MAPINFO,Strand\ncg01,cg01,1,100,F\ncg02,cg02,X,200,R\n[Controls],,,,\n21,x,y,z,w\n",
    ".betas": "probe\ts1\ncg01\t0.5\ncg02\tNA\n",
    ".mm": b"ACGTCCGA\nC+m?,0,1;A+a.,1;\n\x10\xf0\x80",
    ".xm": "AATTAA\n..zx..\n",
    ".sequences.gff": "##gff-version 3\n" + _GFF.format(1, 9) + "##FASTA\n>chr1 x\nACGTACGTAC\n>chr2\nGG\n",
    ".2bit": struct.pack("<4I2sI6I2s", 0x1A412743, 0, 1, 0, b"\1c", 22, 8, 1, 2, 3, 0, 0, b"\x1b\x1b"),
    ".nosuffix": "@a\nACGT\n+\nIIII\n",
    ".aliases": "1\tchr1\nMT\tchrM\n",
    ".plain": "One document\nof two lines.\n\nAnother one.\n",
    ".chat": '{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
    '{"instruction": "a", "input": "more", "output": "b"}\n{"question": "a", "answer": "b"}\n',
}  # fmt: skip


def test_every_parser_has_a_good_file_to_damage() -> None:
    assert GOOD.keys() == TARGETS.keys()
    assert [suffix for suffix, text in GOOD.items() if not feed(suffix, _bytes(text))] == []


@pytest.mark.parametrize("suffix", TARGETS)
def test_damaged_files_are_read_or_refused_by_name(suffix: str) -> None:
    rng = random.Random(suffix)
    whole = _bytes(GOOD[suffix])
    read = sum(feed(suffix, damaged(whole, rng)) for _ in range(60))
    assert read < 60, "some of the damage is noticed"


def _bytes(content: str | bytes) -> bytes:
    return content if isinstance(content, bytes) else content.encode()


def damaged(whole: bytes, rng: random.Random) -> bytes:
    """One to three faults: bytes changed, taken out or put in, lines doubled or swapped, the end cut off."""
    content = bytearray(whole)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(content) + 1)
        kind = rng.randrange(6)
        if kind == 0 and at < len(content):
            content[at] = rng.choice(b"\0\xff\xc3>@\t\n\r,;-9xN\"'")
        elif kind == 1:
            del content[at : at + rng.randint(1, 5)]
        elif kind == 2:
            content[at:at] = rng.choice(
                [b"\n", b"\t", b"nan", b"-1", b"1e999", b">", b"\xef\xbb\xbf", b"\r", b"99999999999999999999", b'"']
            )
        elif kind == 3:
            lines = bytes(content).split(b"\n")
            lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines))
            content = bytearray(b"\n".join(lines))
        elif kind == 4:
            del content[at:]
        else:
            lines = bytes(content).split(b"\n")
            rng.shuffle(lines)
            content = bytearray(b"\n".join(lines))
    return bytes(content)
