"""How reads with methylation are read."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from biollm.core.errors import listed, repeated
from biollm.core.recipe import Section
from biollm.ingest.reads.modifications import BASE_OF_NAME, is_modification

Context = Literal["CG", "CHG", "CHH", "unknown"]


class ReadOptions(Section):
    """Which reads and calls are taken, for read records and for pileups."""

    kind: Literal["modbam", "bisulfite", "methylbert"] = Field(
        default="modbam",
        description="modbam: MM/ML tags (ONT, PacBio); bisulfite: Bismark's XM/XG tags, or C against T over a reference; methylbert: the "
        "read tables of MethylBERT, with the label `ctype`",
    )
    modifications: tuple[str, ...] = Field(
        default=("5mC",), min_length=1, description=f"what to read: {', '.join(BASE_OF_NAME)}, or ChEBI:<number>; others are only counted"
    )
    contexts: tuple[Context, ...] = Field(
        default=("CG", "CHG", "CHH", "unknown"),
        min_length=1,
        description="cytosine contexts that carry values: of the read, or of the reference in a pileup with one; unknown: near N or an end",
    )
    min_mapq: int = Field(
        default=10, ge=0, le=254, description="mapped reads of a lower mapping quality are dropped (255, not known, is kept)"
    )
    call_threshold: float = Field(
        default=0.5,
        ge=0.5,
        lt=1.0,
        description="in a pileup and for convert_cytosines, a call is modified at this probability or more, unmodified at 1 - this or "
        "less, and else not valid",
    )
    skipped_bases: Literal["as_specified", "unknown"] = Field(
        default="as_specified",
        description="bases that MM does not list: as_specified: unmodified, but not called in its mode '?'; unknown: never called",
    )
    keep_unmapped: bool = Field(default=False, description="take reads without an alignment too, as read records")
    keep_supplementary: bool = Field(default=False, description="take the further pieces of a split alignment too")
    restore_cytosines: bool = Field(
        default=False, description="write C where a bisulfite call shows that the molecule had one, not the T that was read"
    )
    convert_cytosines: Literal["no", "called", "all"] = Field(
        default="no",
        description="write reads of kind modbam or methylbert as bisulfite sequencing would read them, T for C. called: where a call says "
        "that the C is not methylated; all: wherever none says that it is (callers of CG alone leave most C without a call)",
    )
    reference: str | None = Field(
        default=None, description="FASTA of the genome that the reads were aligned to; with it each call is checked"
    )
    max_off_reference: float = Field(
        default=0.01,
        ge=0.0,
        le=1.0,
        description="largest share of reads, in a pileup of sites, whose calls mostly lie on another base of the reference than they need",
    )

    def resources(self) -> list[str]:
        return [self.reference] if self.reference else []

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if unknown := [name for name in self.modifications if not is_modification(name)]:
            raise ValueError(f"modifications holds '{unknown[0]}'; expected one of {', '.join(BASE_OF_NAME)}, or ChEBI:<number>")
        for field, values in (("modifications", self.modifications), ("contexts", self.contexts)):
            if twice := repeated(values):
                raise ValueError(f"{field} has {listed(twice)} twice; name each once")
        if self.kind == "bisulfite" and self.modifications != ("5mC",):
            raise ValueError("kind bisulfite knows only the modification 5mC (which holds 5hmC too); set modifications: [5mC]")
        if self.restore_cytosines and self.kind != "bisulfite":
            raise ValueError("restore_cytosines is for kind bisulfite: other reads keep their cytosines; remove it")
        if self.convert_cytosines != "no" and self.kind == "bisulfite":
            raise ValueError("convert_cytosines is set, but reads of kind bisulfite are converted already; remove it")
        if self.convert_cytosines != "no" and "5mC" not in self.modifications:
            raise ValueError(f"convert_cytosines needs the calls of 5mC, but modifications is {list(self.modifications)}; add 5mC")
        changed = {name for name, field in type(self).model_fields.items() if getattr(self, name) != field.default}
        if self.kind == "methylbert" and (foreign := sorted(changed - {"kind", "convert_cytosines"})):
            raise ValueError(f"kind methylbert is a table of reads that were chosen and called already; remove {', '.join(foreign)}")
        return self
