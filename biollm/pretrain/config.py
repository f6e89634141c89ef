"""The recipe section `pretrain`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from biollm.core.errors import listed, repeated
from biollm.core.recipe import Section
from biollm.modeling.channels import OperatorName
from biollm.training.config import USUAL_ROW_TOKENS, ObjectiveName, TrackTraining, TrainingConfig


class GeneralText(Section):
    """Text outside the domain: some is mixed in, some held out to measure what the adaptation costs."""

    text: list[str] = Field(min_length=1, description="text files: paths, globs, or package:NAME/path")
    replay: float = Field(default=0.0, ge=0, lt=1, description="share of the rows that are general text")
    held_out_fraction: float = Field(default=0.1, gt=0, lt=1, description="share of the documents that is never trained on, and scored")


class Config(TrainingConfig):
    """Continued pretraining on the train split."""

    objective: ObjectiveName | Literal["auto"] = Field(
        default="auto", description="what is learnt; auto: masked for encoders, causal for decoders, span_corruption for encoder-decoders"
    )
    mask_rate: float = Field(default=0.15, gt=0, lt=1, description="share of the tokens that are hidden (masked, span_corruption)")
    hidden_fraction: float = Field(default=0.8, ge=0, le=1, description="of these, the share that becomes the mask token (masked)")
    random_fraction: float = Field(default=0.1, ge=0, le=1, description="of these, the share that becomes another token (masked)")
    span_tokens: float | None = Field(
        default=None, ge=1, description="mean length of hidden spans; default: 1 (masked), 3 (span_corruption)"
    )
    mask_token: str | None = Field(default=None, description="a token that hides others, where the tokenizer has no mask token (diffusion)")
    future_tokens: int = Field(default=0, ge=0, le=8, description="how many tokens behind the next one are predicted too (causal)")
    future_weight: float = Field(default=0.3, gt=0, description="weight of each of these losses")
    row_tokens: int | None = Field(
        default=None,
        ge=16,
        description="documents are packed into rows of so many tokens, longer ones are divided; default: 1,024, or near it what they fill",
    )
    packed: bool = Field(default=True, description="read a row's documents without padding, where the model can; else pad them")
    steps: int = Field(default=200, ge=1, description="optimiser steps")
    batch_size: int = Field(default=2, ge=1, description="rows per optimiser step, over all processes and accumulated passes together")
    learning_rate: float = Field(default=5e-4, gt=0, description="peak learning rate")
    new_rows_steps: int = Field(default=0, ge=0, description="first train only the new rows of the embedding tables, for so many steps")
    scored_documents: int = Field(default=2000, ge=1, description="held-out documents that are scored before and after, evenly chosen")
    tracks: TrackTraining = Field(default=TrackTraining(), description="how a fused model learns from its tracks")
    compare_operators: list[OperatorName] = Field(
        default=[], description="also adapt the same model with tracks entering by each of these operators (fusion ablation)"
    )
    general: GeneralText | None = None

    @property
    def most_document_tokens(self) -> int:
        """A document of more tokens than this is divided."""
        return self.row_tokens or USUAL_ROW_TOKENS

    def resources(self) -> list[str]:
        return list(self.general.text) if self.general else []

    def mean_span(self, objective: ObjectiveName) -> float:
        """The mean length of hidden spans. objective: what is learnt, `auto` resolved."""
        return self.span_tokens or (3.0 if objective == "span_corruption" else 1.0)

    @field_validator("compare_operators")
    @classmethod
    def _each_operator_once(cls, operators: list[OperatorName]) -> list[OperatorName]:
        if twice := repeated(operators):
            raise ValueError(f"has {listed(twice)} twice; name each once")
        return operators

    @model_validator(mode="after")
    def _fates_are_shares(self) -> Config:
        if self.hidden_fraction + self.random_fraction > 1:
            raise ValueError(
                f"hidden_fraction + random_fraction is {self.hidden_fraction + self.random_fraction:g}; "
                "they are shares of the same tokens, so it should be at most 1"
            )
        if self.future_tokens and self.objective not in ("auto", "causal"):
            raise ValueError(f"future_tokens is {self.future_tokens}, but objective is {self.objective}; only causal looks ahead")
        return self

    def contradictions(self, recipe: Any) -> list[str]:
        if self.new_rows_steps and recipe.merge is None:
            return ["pretrain.new_rows_steps is given, but the recipe has no merge, so there are no new rows"]
        fusion = recipe.expand.fusion if recipe.expand is not None else None
        if self.compare_operators and (fusion is None or fusion.operator in self.compare_operators):
            here = "has no expand.fusion" if fusion is None else f"fuses by '{fusion.operator}' anyway"
            return [f"pretrain.compare_operators is {self.compare_operators}, but the recipe {here}; name other operators than that one"]
        asked = [f"pretrain.tracks.{name}" for name, value in self.tracks if value != getattr(TrackTraining(), name)]
        if asked and recipe.expand is not None and not recipe.has_fusion:
            return [f"{name} needs a model with tracks; add 'fusion' to expand, or leave it out" for name in asked]
        return []
