"""The recipe section `classify`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from biollm.core.recipe import Section

HeadName = Literal["logistic", "xgboost"]


class Config(Section):
    """Which label is predicted, from what, and how sure the scores must be."""

    label: str = Field(default="coding", min_length=1, description="what is predicted: the column label_<name> of the corpus")
    heads: list[HeadName] = Field(default=["logistic", "xgboost"], min_length=1, description="classifiers put on every feature set")
    kmer: int = Field(default=4, ge=1, le=6, description="length of the k-mers of the baseline")
    bootstrap_samples: int = Field(default=1000, ge=100, description="resamples of test groups behind every 95 % interval")
    embeddings_plus_kmers: bool = Field(default=True, description="also score the adapted embeddings and the k-mers together")

    @field_validator("heads")
    @classmethod
    def _each_head_once(cls, heads: list[HeadName]) -> list[HeadName]:
        if len(set(heads)) != len(heads):
            raise ValueError(f"names a head twice: {heads}; name each once")
        return heads
