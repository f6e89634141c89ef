"""Random sites of a random genome, and writers of each format made from its specification alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

SHARED = Path(__file__).parents[5] / "shared" / "data"


class Site(NamedTuple):
    """One cytosine; `index` counts from 0, `bases` are those from the C on, on its own strand."""

    contig: str
    index: int
    strand: str
    bases: str
    methylated: int
    reads: int

    @property
    def context(self) -> str:
        return "CG" if self.bases[1] == "G" else "CHG" if self.bases[2] == "G" else "CHH"

    @property
    def fraction(self) -> float:
        return self.methylated / self.reads if self.reads else 0.0


class World(NamedTuple):
    genome: dict[str, str]
    sites: list[Site]


PAIR = {"A": "T", "C": "G", "G": "C", "T": "A"}


@pytest.fixture(scope="session")
def world() -> World:
    """10,000 sites of both strands on two contigs, every context, some without reads, in genome order."""
    rng = random.Random(5)
    genome = {"chr1": "".join(rng.choices("ACGT", k=20_000)), "chr2": "".join(rng.choices("ACGT", k=9_000))}
    sites = []
    for contig, sequence in genome.items():
        for i in range(2, len(sequence) - 2):
            if sequence[i] == "C":
                strand, bases = "+", sequence[i : i + 3]
            elif sequence[i] == "G":
                strand, bases = "-", "".join(PAIR[base] for base in (sequence[i], sequence[i - 1], sequence[i - 2]))
            else:
                continue
            reads = rng.choice([0, 1, 2, 3, 7, 10, 33, 101])
            sites.append(Site(contig, i, strand, bases, rng.randint(0, reads), reads))
    return World(genome, sorted(rng.sample(sites, 10_000)))


def cov(s: Site) -> str:
    return f"{s.contig}\t{s.index + 1}\t{s.index + 1}\t{100 * s.fraction}\t{s.methylated}\t{s.reads - s.methylated}"


def cx(s: Site) -> str:
    return f"{s.contig}\t{s.index + 1}\t{s.strand}\t{s.methylated}\t{s.reads - s.methylated}\t{s.context}\t{s.bases}"


def bed_11(s: Site) -> str:
    score = min(1000, s.reads)
    place = f"{s.contig}\t{s.index}\t{s.index + 1}"
    return f"{place}\tx\t{score}\t{s.strand}\t{s.index}\t{s.index + 1}\t255,0,0\t{s.reads}\t{round(100 * s.fraction)}"


def bed_18(s: Site) -> str:
    place = f"{s.contig}\t{s.index}\t{s.index + 1}\tm\t{s.reads}\t{s.strand}\t{s.index}\t{s.index + 1}\t255,0,0"
    return f"{place}\t{s.reads}\t{100 * s.fraction:.2f}\t{s.methylated}\t{s.reads - s.methylated}\t0\t0\t0\t0\t0"


def bed_18_spaces(s: Site) -> str:
    head, tail = bed_18(s).split("\t")[:9], bed_18(s).split("\t")[9:]
    return "\t".join(head) + "\t" + " ".join(tail)


def cgmap(s: Site) -> str:
    base = "C" if s.strand == "+" else "G"
    return f"{s.contig}\t{base}\t{s.index + 1}\t{s.context}\t{s.bases[:2]}\t{s.fraction:.2f}\t{s.methylated}\t{s.reads}"


def allc(s: Site) -> str:
    return f"{s.contig}\t{s.index + 1}\t{s.strand}\t{s.bases}\t{s.methylated}\t{s.reads}\t{int(s.methylated > 1)}"


def methratio(s: Site) -> str:
    plus = s.bases if s.strand == "+" else "".join(PAIR[base] for base in reversed(s.bases))
    around = "TA" + plus if s.strand == "+" else plus + "TA"
    ratio = f"{s.fraction:.3f}" if s.reads else "NA"
    return (
        f"{s.contig}\t{s.index + 1}\t{s.strand}\t{around}\t{ratio}\t{s.reads:.2f}\t{s.methylated}\t{s.reads}\t0\t0\t0.000\t1.000"
    )  # fmt: skip


def bedgraph(s: Site) -> str:
    return f"{s.contig}\t{s.index}\t{s.index + 1}\t{s.fraction}"


class Writer(NamedTuple):
    row: Callable[[Site], str]
    format: str
    header: str = ""
    strand: bool = True
    context: bool = True
    coverage: bool = True
    tolerance: float = 1e-6


WRITERS: dict[str, Writer] = {
    "bismark_cov": Writer(cov, "bismark_cov", strand=False, context=False),
    "bismark_cx": Writer(cx, "bismark_cx"),
    "bedmethyl_11": Writer(bed_11, "bedmethyl", 'track name="x y"\n', context=False, tolerance=0.0051),
    "bedmethyl_18": Writer(bed_18, "bedmethyl", context=False),
    "bedmethyl_18_spaces": Writer(bed_18_spaces, "bedmethyl", "#chrom\tstart\n", context=False),
    "cgmap": Writer(cgmap, "cgmap"),
    "allc": Writer(allc, "allc", "chrom\tpos\tstrand\tmc_class\tmc_count\ttotal\tmethylated\n"),
    "methratio": Writer(
        methratio,
        "methratio",
        "chr\tpos\tstrand\tcontext\tratio\teff_CT_count\tC_count\tCT_count\trev_G_count\trev_GA_count\tCI_lower\tCI_upper\n",
    ),
    "bedgraph": Writer(bedgraph, "bedgraph", "browser position chr1\ntrack type=bedGraph\n", strand=False, context=False, coverage=False),
}


def text_of(writer: Writer, sites: list[Site]) -> str:
    return writer.header + "".join(writer.row(site) + "\n" for site in sites)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """write(text, name) -> the file."""

    def write_text(text: str, name: str = "sites.txt") -> Path:
        file = tmp_path / name
        file.write_text(text)
        return file

    return write_text


@pytest.fixture(scope="session")
def writers() -> dict[str, Writer]:
    return WRITERS


@pytest.fixture(scope="session")
def table_text() -> Callable[..., str]:
    """table_text(name of a writer, sites) -> a whole file."""
    return lambda name, sites: text_of(WRITERS[name], sites)


@pytest.fixture(scope="session")
def read_fasta() -> Callable[[Path], dict[str, Any]]:
    """read_fasta(file) -> contig -> upper-case bases as ASCII."""
    import gzip

    import numpy as np

    def read(file: Path) -> dict[str, Any]:
        opener = gzip.open if file.suffix == ".gz" else open
        with opener(file, "rt") as text:
            records = text.read().split(">")[1:]
        parts = [record.partition("\n") for record in records]
        return {head.split()[0]: np.frombuffer(body.replace("\n", "").upper().encode(), dtype=np.uint8) for head, _, body in parts}

    return read


@pytest.fixture(scope="session")
def real() -> Callable[[str], Path]:
    """real(path) -> the file in the shared data; skips if it is not there."""

    def find(path: str) -> Path:
        file = SHARED / path
        if not file.exists():
            pytest.skip(f"no real data at {file}")
        return file

    return find
