"""Sites of a BAM with MM/ML tags: its reads piled up on the genome that the track lies on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from biollm.core.errors import ConfigError, DataError
from biollm.ingest.builds import differs_surely
from biollm.ingest.reads.bam import Alignments, Counts, Reference, add
from biollm.ingest.reads.config import ReadOptions
from biollm.ingest.reads.modifications import BASE_OF_NAME, Bases, is_modification
from biollm.ingest.reads.pileup import pileup
from biollm.ingest.sites.check import check_names
from biollm.ingest.sites.config import SiteOptions
from biollm.ingest.sites.read import read_aliases, select_sites

_LEVELS = ("level", "coverage")


@dataclass(frozen=True)
class PileGenome:
    """What reads are piled up on. contigs: (bases,) uint8, upper-case ASCII, of each; name: what messages call it."""

    name: str
    contigs: Mapping[str, Bases]
    build: str | None = None


@dataclass
class PileFacts:
    """What became of the reads of one or several BAM files; `foreign`: contigs with reads that the genome lacks."""

    counts: Counts = field(default_factory=dict)
    foreign: set[str] = field(default_factory=set)


def read_pileup(file: Path, options: SiteOptions, genome: PileGenome, facts: PileFacts) -> Iterator[pl.DataFrame]:
    """The sites of a sorted BAM as `sites.read.read_sites` gives those of a table; `facts` is whole once the iterator has ended.

    Without options.modifications 5mC is read. Contexts are those of the genome; calls on another base of it are left out and counted, and
    so are reads on contigs that it lacks.
    Raises DataError as `pileup` does, for a BAM of other contigs, lengths or another build; ConfigError for options that mean nothing here.
    """
    _check_options(file, options)
    aliases = read_aliases(options.aliases)
    with Alignments(file) as alignments:
        names = {contig: aliases.get(contig, contig) for contig in alignments.contigs}
        assemblies = alignments.assemblies
    if not genome.contigs.keys() & names.values():
        check_names(names.values(), genome.contigs, str(file))
    for assembly in assemblies if genome.build else []:
        if differs_surely(assembly, str(genome.build)):
            raise DataError(
                f"{file}: its header (@SQ AS) says that the reads were aligned to {assembly}, but {genome.name} is {genome.build}; "
                "give reads aligned to this build, or that genome"
            )
    reference = Reference({old: genome.contigs[new] for old, new in names.items() if new in genome.contigs}, genome.name)
    asked = ReadOptions(modifications=tuple(options.modifications) or ("5mC",))
    piled = pileup(file, asked, reference, drop_foreign=True)
    batches = (batch.with_columns(pl.col("contig").replace(names), pl.col(*_LEVELS).cast(pl.Float64)) for batch in piled)
    yield from select_sites(batches, file, options)
    for key, number in piled.counts.items():
        add(facts.counts, key, number)
    facts.foreign |= {names[contig] for contig in piled.foreign}


def _check_options(file: Path, options: SiteOptions) -> None:
    meaningless = {
        "format": options.format != "auto",
        "coordinates": options.coordinates == 1,
        "unit": options.unit == "percent",
        "sample": options.sample is not None,
        "manifest": options.manifest is not None,
    }
    for name, is_set in meaningless.items():
        if is_set:
            raise ConfigError(f"{file}: {name} is {getattr(options, name)}, which means nothing for a BAM file; leave {name} out")
    if unknown := [name for name in options.modifications if not is_modification(name)]:
        raise ConfigError(
            f"{file}: modifications holds '{unknown[0]}', which MM tags do not name; expected one of {', '.join(BASE_OF_NAME)}, "
            "or ChEBI:<number>"
        )
