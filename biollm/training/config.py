"""What pretrain and finetune have in common in a recipe."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from biollm.core.recipe import EXECUTION, Section

ObjectiveName = Literal["masked", "causal", "prefix", "span_corruption", "diffusion"]
Schedule = Literal["linear", "cosine", "constant", "warmup_stable_decay"]
Offload = Literal["none", "optimizer", "parameters"]
Tracker = Literal["tensorboard", "wandb", "mlflow"]

USUAL_ROW_TOKENS = 1024  # long enough for packing, short enough for a laptop


class TrainingConfig(Section):
    """A training run: its length, batches, optimiser (AdamW) and processes."""

    steps: int = Field(ge=1, description="optimiser steps")
    batch_size: int = Field(default=32, ge=1, description="records per optimiser step, over all processes and accumulated passes together")
    gradient_accumulation: int = Field(
        json_schema_extra=EXECUTION, default=1, ge=1, description="forward passes per optimiser step: more of them need less memory"
    )
    processes: int = Field(
        json_schema_extra=EXECUTION, default=1, ge=1, description="processes on each node: one for each GPU, or CPU processes over gloo"
    )
    nodes: int = Field(json_schema_extra=EXECUTION, default=1, ge=1, description="machines")
    hostfile: str | None = Field(
        json_schema_extra=EXECUTION,
        default=None,
        description="a file beside the recipe with a line `host slots=processes` for each machine; else Slurm names them",
    )
    zero: Literal[0, 1, 2, 3] = Field(
        json_schema_extra=EXECUTION,
        default=0,
        description="DeepSpeed ZeRO: 1 shares out the optimiser's state, 2 gradients too, 3 weights too",
    )
    offload: Offload = Field(
        json_schema_extra=EXECUTION,
        default="none",
        description="to CPU memory: the optimiser's state (zero 1-3), or the weights too (zero 3)",
    )
    gradient_checkpointing: bool = Field(json_schema_extra=EXECUTION, default=False, description="compute activations twice to store fewer")
    learning_rate: float = Field(gt=0, description="peak learning rate")
    schedule: Schedule = Field(default="linear", description="how the rate falls behind the warm-up; warmup_stable_decay: at the end only")
    warmup_fraction: float = Field(default=0.1, ge=0, lt=1, description="share of the steps in which the rate rises again from zero")
    decay_fraction: float = Field(default=0.2, gt=0, le=1, description="share of the steps in which the rate falls (warmup_stable_decay)")
    min_rate_fraction: float = Field(default=0.0, ge=0, lt=1, description="where the rate ends, as a share of its peak")
    layer_decay: float = Field(default=1.0, gt=0, le=1, description="rate of each layer as a share of that of the layer above")
    weight_decay: float = Field(default=0.0, ge=0, description="decoupled, on matrices but not on embeddings, biases and norms")
    max_grad_norm: float = Field(default=1.0, gt=0, description="gradients are clipped to this norm")
    precision: Literal["auto", "bf16", "fp32"] = Field(
        default="auto", description="auto: bf16 (with fp32 master weights) where the hardware has it, else fp32"
    )
    log_steps: int = Field(default=10, ge=1, description="a point of the training curve every so many steps")
    checkpoint_steps: int = Field(
        json_schema_extra=EXECUTION, default=50, ge=1, description="a killed run loses at most so many steps; a multiple of log_steps"
    )
    trackers: list[Tracker] = Field(
        json_schema_extra=EXECUTION, default=["tensorboard"], description="where the training curve goes while it runs"
    )

    @property
    def world_size(self) -> int:
        """Processes of all nodes together."""
        return self.processes * self.nodes

    @property
    def micro_batch_size(self) -> int:
        """Records of one forward pass of one process."""
        return self.batch_size // (self.world_size * self.gradient_accumulation)

    @property
    def positions(self) -> int:
        """Records of the whole run, repeats counted."""
        return self.steps * self.batch_size

    @model_validator(mode="after")
    def _batches_divide(self) -> TrainingConfig:
        parts = self.world_size * self.gradient_accumulation
        if self.batch_size % parts:
            raise ValueError(
                f"batch_size is {self.batch_size}; it should be a multiple of processes x nodes x gradient_accumulation = {parts}"
            )
        return self

    @model_validator(mode="after")
    def _curve_survives_a_kill(self) -> TrainingConfig:
        if self.checkpoint_steps % self.log_steps:
            raise ValueError(
                f"checkpoint_steps is {self.checkpoint_steps}; it should be a multiple of log_steps ({self.log_steps}), "
                "or the training curve of a resumed run would average over other steps"
            )
        return self

    @model_validator(mode="after")
    def _memory_is_saved_where_it_can_be(self) -> TrainingConfig:
        if self.offload == "optimizer" and self.zero == 0:
            raise ValueError("offload is optimizer, but zero is 0; DeepSpeed offloads what it shares out: set zero to 1, 2 or 3")
        if self.offload == "parameters" and self.zero != 3:
            raise ValueError(f"offload is parameters, but zero is {self.zero}; only zero 3 shares out the weights")
        if self.hostfile is not None and self.nodes == 1:
            raise ValueError("hostfile is given, but nodes is 1; say how many of its hosts to use")
        return self


class TrackTraining(Section):
    """How a fused model learns from its tracks."""

    channel_dropout: float = Field(
        default=0.1, ge=0, lt=1, description="chance that a document's channel is withheld, so that the model also works without it"
    )
    site_dropout: float = Field(default=0.0, ge=0, lt=1, description="chance that a single measured value is withheld")
    hidden_fraction: float = Field(default=0.15, gt=0, lt=1, description="share of the tokens with values whose values are to be predicted")
    weight: float = Field(
        default=0.0, ge=0, description="weight of predicting hidden values beside the language modelling loss; 0: they are not predicted"
    )
