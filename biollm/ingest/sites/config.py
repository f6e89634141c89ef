"""How a table of sites is read: the settings that a recipe gives for one file of methylation or another per-base track."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field, model_validator

from biollm.core.errors import listed, repeated
from biollm.core.recipe import Section
from biollm.ingest.sites.modifications import name_fault

SiteFormat = Literal[
    "bismark_cov", "bismark_cx", "bedmethyl", "cgmap", "allc", "methratio", "bedgraph", "bigwig", "illumina"
]  # fmt: skip
SITE_FORMATS: tuple[SiteFormat, ...] = get_args(SiteFormat)
Context = Literal["CG", "CHG", "CHH"]


class SiteOptions(Section):
    """How one file of sites is to be understood. The defaults read every format as its specification says."""

    format: SiteFormat | Literal["auto"] = Field(default="auto", description="the table format; auto: recognised by its content")
    coordinates: Literal["auto", 0, 1] = Field(
        default="auto", description="the number of a sequence's first base in this file; auto: as the format says"
    )
    unit: Literal["auto", "fraction", "percent"] = Field(
        default="auto",
        description="what the level column counts in; auto: found from the whole file, but bedGraph and bigWig hold a signal as it is, or "
        "fractions where contexts or modifications say that they hold methylation",
    )
    contexts: list[Context] = Field(
        default=[],
        description="keep only these contexts (empty: all); for a format without contexts, one entry declares that of all sites, and that "
        "they are methylation",
    )
    modifications: list[str] = Field(
        default=[],
        description="keep only these, for example 5mC (empty: all, of a BAM 5mC); for a format that names none, one entry declares it",
    )
    strands: Literal["both", "merge_cg"] = Field(
        default="both", description="merge_cg: sum the reads of a CpG's two strands onto the C of the + strand; other sites stay"
    )
    min_coverage: int = Field(default=1, ge=1, description="sites with fewer reads have no level (missing); their coverage is kept")
    sample: str | None = Field(default=None, description="the column to read of a table with several samples")
    manifest: str | None = Field(default=None, description="Illumina arrays: the manifest (CSV) that says where each probe lies")
    aliases: dict[str, str] | str = Field(
        default={}, description="sequence name in this file -> name in the genome, or a tab-separated file of two columns that says so"
    )

    build: str | None = Field(
        default=None, min_length=1, description="the genome build of the positions, for example GRCh38; it must be that of the source"
    )

    @model_validator(mode="after")
    def _chooses_what_there_is(self) -> SiteOptions:
        if faults := [fault for name in self.modifications if (fault := name_fault(name))]:
            raise ValueError(f"modifications: {faults[0]}")
        for field, values in (("modifications", self.modifications), ("contexts", self.contexts)):
            if twice := repeated(values):
                raise ValueError(f"{field} has {listed(twice)} twice; name each once")
        return self

    @model_validator(mode="after")
    def _merges_what_it_keeps(self) -> SiteOptions:
        if self.strands == "merge_cg" and self.contexts and "CG" not in self.contexts:
            raise ValueError(f"strands is merge_cg, but contexts keeps only {self.contexts}; add CG, or leave strands out")
        return self

    @property
    def declares_methylation(self) -> bool:
        """Whether a file that says nothing of it holds methylation, not any signal."""
        return bool(self.contexts or self.modifications)

    def resources(self) -> list[str]:
        return [place for place in (self.manifest, self.aliases) if isinstance(place, str)]
