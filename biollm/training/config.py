"""What pretrain and finetune have in common in a recipe."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from biollm.core.recipe import Section


class TrainingConfig(Section):
    """A training run: its length, batches and optimiser. AdamW with linear warm-up and decay."""

    steps: int = Field(ge=1, description="optimiser steps")
    batch_size: int = Field(default=32, ge=1, description="records per forward pass")
    gradient_accumulation: int = Field(default=1, ge=1, description="forward passes per optimiser step")
    learning_rate: float = Field(gt=0, description="peak learning rate")
    warmup_fraction: float = Field(default=0.1, ge=0, lt=1, description="share of the steps in which the rate rises")
    weight_decay: float = Field(
        default=0.0, ge=0, description="decoupled, on every trained parameter: it would also shrink rows of base tokens"
    )
    max_grad_norm: float = Field(default=1.0, gt=0, description="gradients are clipped to this norm")
    precision: Literal["auto", "bf16", "fp32"] = Field(
        default="auto", description="auto: bf16 (with fp32 master weights) where the hardware has it, else fp32"
    )
    log_steps: int = Field(default=10, ge=1, description="a point of the training curve every so many steps")
    checkpoint_steps: int = Field(default=50, ge=1, description="a killed run loses at most so many steps; a multiple of log_steps")

    @model_validator(mode="after")
    def _curve_survives_a_kill(self) -> TrainingConfig:
        if self.checkpoint_steps % self.log_steps:
            raise ValueError(
                f"checkpoint_steps is {self.checkpoint_steps}; it should be a multiple of log_steps ({self.log_steps}), "
                "or the training curve of a resumed run would average over other steps"
            )
        return self
