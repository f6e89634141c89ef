"""The recipe section `pretrain`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from biollm.training.config import TrainingConfig


class Config(TrainingConfig):
    """Continued pretraining on the train split."""

    objective: Literal["masked"] = Field(default="masked", description="masked language modelling, 80/10/10")
    mask_rate: float = Field(default=0.15, gt=0, lt=1, description="share of the tokens that are to be predicted")
    steps: int = Field(default=200, ge=1, description="optimiser steps")
    learning_rate: float = Field(default=5e-4, gt=0, description="peak learning rate")
