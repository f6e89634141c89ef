"""What the audit counts as a leak: a part of a recipe."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from biollm.core.alphabets import Modality
from biollm.core.recipe import Section


class AllowLeakage(Section):
    """Go on in spite of leaks."""

    allow: str = Field(min_length=10, description="why the leaks that were found are all right, a sentence; it goes into the report")


class AuditOptions(Section):
    """What counts as a leak between splits, and what happens then."""

    modality: Modality = Field(default="dna", description="what the sequences are")
    sequence: str = Field(default="sequence", description="column of the sequences")
    split: str | None = Field(
        default=None, description="column of the splits; default: 'split' if there is one, else all rows are one split"
    )
    splits: tuple[str, ...] = Field(default=(), description="names of the splits, training first; default: read from their names")
    id: str | None = Field(default=None, description="column that names the rows; default: 'id' if there is one")
    headers: tuple[str, ...] = Field(default=(), description="further columns that came with the sequence and should not tell the label")
    groups: tuple[str, ...] | None = Field(
        default=None, description="columns of what must not be in two splits; default: 'group' if there is one"
    )
    labels: tuple[str, ...] | None = Field(
        default=None, description="columns of labels; default: 'label' and those that begin with 'label_'"
    )
    contig: str = Field(default="contig", description="column of the contig of a window, if there is one")
    start_0based: str = Field(default="start_0based", description="column of its start, counted from 0")
    end: str = Field(default="end", description="column of its end, exclusive")
    near_similarity: float = Field(
        default=0.5, ge=0.1, le=1, description="Jaccard index of k-mer sets from which on two rows are near copies"
    )
    gap_bases: int = Field(default=0, ge=0, description="windows of two splits that are no further apart than this are neighbours")
    duplicates_tolerance: float = Field(
        default=0.0, ge=0, le=1, description="share of a split's rows that may equal a row of an earlier split"
    )
    groups_tolerance: float = Field(
        default=0.0, ge=0, le=1, description="share of a split's rows that may be of a group of an earlier split"
    )
    overlap_tolerance: float = Field(
        default=0.0, ge=0, le=1, description="share of a split's windows that may overlap one of an earlier split"
    )
    near_tolerance: float = Field(
        default=0.05, ge=0, le=1, description="share of a split's rows that may have a near copy in an earlier split"
    )
    stretch_tolerance: float = Field(default=0.1, ge=0, le=1, description="share of rows that may hold a long stretch of an earlier split")
    leakage: Literal["refuse"] | AllowLeakage = Field(default="refuse", description="refuse, or allow: with the reason why")
