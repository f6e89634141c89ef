"""The recipe section `ingest`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from biollm.core.recipe import Section
from biollm.modeling.tracks import TrackConfig

_COLUMN_NAME = r"^[a-z][a-z0-9_]*$"


class SourceConfig(Section):
    """One genome: its sequences and, where labels need it, its annotation."""

    name: str = Field(description="what the source is called in tables, for example the species")
    sequences: str = Field(description="FASTA (plain or gzip): a file, folder or glob beside the recipe, or package:NAME/path")
    annotation: str | None = Field(default=None, description="GFF3 over the same sequences (plain or gzip)")


class LabelConfig(Section):
    """A yes/no question about each window, answered by the annotation."""

    name: str = Field(pattern=_COLUMN_NAME, description="the column is called label_<name>")
    feature: str = Field(description="feature type in column 3 of the GFF, for example CDS")
    min_fraction: float = Field(default=0.5, gt=0, le=1, description="share of the window that such features cover, on either strand")


class SplitConfig(Section):
    """Splits by position block, so that neighbouring windows never face each other across a split."""

    block_bases: int = Field(default=50_000, ge=1, description="windows of one block stay in one split")
    gap_bases: int = Field(default=1_000, ge=0, description="no two windows of different splits lie closer than this on a contig")
    validation: float = Field(default=0.15, gt=0, lt=1, description="share of windows for choices such as hyper-parameters")
    test: float = Field(default=0.2, gt=0, lt=1, description="share of windows that only the final scores see")

    @model_validator(mode="after")
    def _leaves_a_train_split(self) -> SplitConfig:
        if self.validation + self.test >= 0.9:
            raise ValueError(f"validation + test is {self.validation + self.test:.2f}; leave at least 0.1 for train")
        return self


class Config(Section):
    """Raw files into a corpus of windows with labels, tracks and splits."""

    modality: Literal["dna"] = Field(default="dna", description="what the residues are")
    sources: list[SourceConfig] = Field(min_length=1)
    window_bases: int = Field(default=256, ge=8, description="length of every window")
    stride_bases: int | None = Field(default=None, ge=1, description="distance between window starts; default: window_bases")
    max_unknown_fraction: float = Field(default=0.05, ge=0, le=1, description="windows with a larger share of N are dropped")
    labels: list[LabelConfig] = []
    tracks: list[TrackConfig] = []
    split: SplitConfig = SplitConfig()

    @field_validator("sources", "labels", "tracks")
    @classmethod
    def _names_are_unique(cls, entries: list[Section]) -> list[Section]:
        names = [getattr(entry, "name") for entry in entries]  # noqa: B009 (entries of three classes, each with a name)
        if len(set(names)) < len(names):
            raise ValueError(f"names must differ; found {names}")
        return entries

    @model_validator(mode="after")
    def _blocks_hold_a_gap_and_a_window(self) -> Config:
        least = self.split.gap_bases + self.window_bases
        if self.split.block_bases < least:
            raise ValueError(
                f"split.block_bases is {self.split.block_bases}; it should be at least gap_bases + window_bases = {least}, "
                "or windows of different splits could overlap"
            )
        return self

    @model_validator(mode="after")
    def _labels_have_an_annotation(self) -> Config:
        if self.labels and (bare := [s.name for s in self.sources if s.annotation is None]):
            raise ValueError(f"labels need an annotation, but sources {bare} have none; add 'annotation: …gff.gz' to them")
        return self

    def resources(self) -> list[str]:
        return [r for s in self.sources for r in (s.sequences, s.annotation) if r is not None]
