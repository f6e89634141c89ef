"""The recipe section `finetune`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from biollm.core.recipe import Section
from biollm.training.config import TrainingConfig

MethodName = Literal["output_layer", "lora"]


class MethodConfig(TrainingConfig):
    """One way of fine-tuning."""

    name: MethodName = Field(description="output_layer: only what stands on top of the encoder; lora: low-rank adapters too")
    steps: int = Field(default=200, ge=1, description="optimiser steps")
    learning_rate: float = Field(default=5e-4, gt=0, description="peak learning rate")
    lora_rank: int = Field(default=8, ge=1, description="rank of the adapters (lora)")


class Config(Section):
    """Supervised fine-tuning of the adapted model on a yes/no label of the corpus."""

    label: str = Field(default="coding", description="name of a label that ingest makes")
    methods: list[MethodConfig] = Field(min_length=1)

    def contradictions(self, recipe: Any) -> list[str]:
        labels = [label.name for label in recipe.ingest.labels]
        return [] if self.label in labels else [f"finetune.label is '{self.label}', but ingest.labels makes {labels}; the names must agree"]
