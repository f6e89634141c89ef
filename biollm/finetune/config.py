"""The recipe section `finetune`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from biollm.core.adapters import PROMPTS
from biollm.core.errors import listed, repeated
from biollm.core.recipe import Section
from biollm.training.config import TrainingConfig

MethodName = Literal[
    "output_layer", "full", "lora", "dora", "qlora", "adapter_series", "adapter_parallel",
    "prefix_tuning", "prompt_tuning", "p_tuning", "ia3", "bitfit", "qat",
]  # fmt: skip

_LOW_RANK = ("lora", "dora", "qlora")
_BOTTLENECKS = ("adapter_series", "adapter_parallel")
# Which methods an option is for. Given with another method it would do nothing, and is refused.
_OPTIONS: dict[str, tuple[str, ...]] = {
    "lora_rank": _LOW_RANK,
    "lora_alpha": _LOW_RANK,
    "lora_dropout": _LOW_RANK,
    "rank_stabilised": _LOW_RANK,
    "train_new_rows": _LOW_RANK,
    "target_modules": (*_LOW_RANK, "ia3"),
    "feedforward_modules": ("ia3",),
    "adapter_width": _BOTTLENECKS,
    "adapter_dropout": _BOTTLENECKS,
    "adapter_placement": ("adapter_series",),
    "adapter_scale": ("adapter_parallel",),
    "virtual_tokens": PROMPTS,
    "prefix_projection": ("prefix_tuning",),
    "prompt_encoder_width": ("prefix_tuning", "p_tuning"),
    "qat_scheme": ("qat",),
    "qat_group_size": ("qat",),
}


def training_conflict(method: MethodConfig, zero: int, gradient_checkpointing: bool) -> str | None:
    """Why a method cannot be trained so, with peft 0.21 and DeepSpeed 0.19; None if it can. zero: the DeepSpeed stage."""
    remedy = "expected zero: 2 or lower"
    if zero == 3 and method.name in PROMPTS:
        return f"zero is 3, but with {method.name} the processes fall out of step there when a checkpoint is written; {remedy}"
    if zero == 3 and method.train_new_rows:
        return f"zero is 3, but train_new_rows cannot gather the rows there; {remedy}, or train_new_rows: false"
    if zero == 3 and method.name in ("qlora", "qat"):
        return f"zero is 3, but {method.name} needs whole weights in every process to quantise them; {remedy}"
    if gradient_checkpointing and method.name == "prefix_tuning":
        return (
            "gradient_checkpointing is true, but prefix_tuning hands over keys and values, which cannot be computed twice; expected false"
        )
    return None


class MethodConfig(TrainingConfig):
    """One way of fine-tuning. What stands on top of the model (and its fusion operator) is trained whole under every method."""

    name: MethodName = Field(
        description="output_layer: only what stands on top; full: all layers; lora, dora: low-rank adapters; qlora: the same on a "
        "base held in 4 bits; adapter_series, adapter_parallel: bottleneck adapters; prefix_tuning: trained keys and values; "
        "prompt_tuning, p_tuning: trained virtual tokens; ia3: trained scales; bitfit: the biases; qat: all layers, computing as "
        "they will with integer weights"
    )
    steps: int = Field(default=200, ge=1, description="optimiser steps")
    learning_rate: float = Field(default=5e-4, gt=0, description="peak learning rate")

    lora_rank: int = Field(default=8, ge=1, description="rank of the adapters (lora, dora, qlora)")
    lora_alpha: float | None = Field(default=None, gt=0, description="the adapters count alpha / rank; default: twice the rank")
    lora_dropout: float = Field(default=0.0, ge=0, lt=1, description="share of an adapter's inputs that is dropped in training")
    rank_stabilised: bool = Field(default=False, description="the adapters count alpha / sqrt(rank): for high ranks")
    train_new_rows: bool = Field(
        default=False, description="train the rows of the tokens that the merge added too; only these rows are stored (lora, dora, qlora)"
    )
    target_modules: list[str] | Literal["auto"] = Field(
        default="auto", description="layers to adapt, by the ends of their names; auto: all linear ones (lora), peft's choice (ia3)"
    )
    feedforward_modules: list[str] = Field(
        default_factory=list, description="those of target_modules whose input is scaled, not their output (ia3)"
    )

    adapter_width: int = Field(default=64, ge=1, description="width of the bottleneck")
    adapter_dropout: float = Field(default=0.0, ge=0, lt=1, description="share of the bottleneck that is dropped in training")
    adapter_placement: Literal["ffn", "attention_and_ffn"] = Field(
        default="ffn", description="adapters behind the feed-forward block (Pfeiffer 2021), or behind attention too (Houlsby 2019)"
    )
    adapter_scale: float = Field(default=4.0, gt=0, description="what parallel adapters are multiplied by (He 2022)")

    virtual_tokens: int = Field(default=20, ge=1, description="length of the prefix or prompt; it takes so much of the context")
    prefix_projection: bool = Field(default=False, description="train the prefix through a small network: steadier, slower")
    prompt_encoder_width: int = Field(
        default=128, ge=1, description="width of the network that makes the prompt (p_tuning) or the prefix (prefix_projection)"
    )

    qat_scheme: Literal["int8_weights", "int4_weights", "int8_activations_int8_weights", "int8_activations_int4_weights"] = Field(
        default="int8_activations_int4_weights", description="the integer format to train for; activations are scaled per token"
    )
    qat_group_size: int = Field(default=32, ge=2, description="4-bit weights that share a scale; must divide every layer's width")

    @model_validator(mode="after")
    def _options_belong_to_the_method(self) -> MethodConfig:
        for option, methods in _OPTIONS.items():
            value = getattr(self, option)
            if self.name not in methods and value != type(self).model_fields[option].get_default(call_default_factory=True):
                raise ValueError(
                    f"{option} is {value!r}, but method {self.name} does not use it; expected it only with {', '.join(methods)}"
                )
        if isinstance(self.target_modules, list) and not self.target_modules:
            raise ValueError("target_modules is []; expected 'auto' or the names of layers to adapt")
        if self.name == "ia3" and self.target_modules == "auto" and self.feedforward_modules:
            raise ValueError("feedforward_modules is given, but target_modules is 'auto'; expected both, or none")
        if self.name == "ia3" and self.target_modules != "auto" and not set(self.feedforward_modules) <= set(self.target_modules):
            raise ValueError(
                f"feedforward_modules is {self.feedforward_modules}; expected a part of target_modules ({self.target_modules})"
            )
        four_bit = self.qat_scheme.endswith("int4_weights")
        if not four_bit and self.qat_group_size != type(self).model_fields["qat_group_size"].default:
            raise ValueError(
                f"qat_group_size is {self.qat_group_size}, but {self.qat_scheme} has one scale per output; expected it with 4 bits"
            )
        if self.name == "prefix_tuning" and not self.prefix_projection and self.prompt_encoder_width != 128:
            raise ValueError("prompt_encoder_width is given, but prefix_projection is off; expected it only with the projection")
        return self

    @model_validator(mode="after")
    def _training_suits_the_method(self) -> MethodConfig:
        if conflict := training_conflict(self, self.zero, self.gradient_checkpointing):
            raise ValueError(conflict)
        return self

    @property
    def alpha(self) -> float:
        """What the low-rank adapters count times their rank."""
        return self.lora_alpha if self.lora_alpha is not None else 2.0 * self.lora_rank


TaskName = Literal["classification", "multilabel", "regression", "token_classification", "pair_classification", "instruction"]
_WITH_CLASSES = ("classification", "pair_classification", "token_classification")
# Which tasks an option is for. Given with another task it would do nothing, and is refused.
_TASK_OPTIONS: dict[str, tuple[str, ...]] = {
    "labels": ("multilabel",),
    "classes": _WITH_CLASSES,
    "class_weights": (*_WITH_CLASSES, "multilabel"),
    "pair": ("pair_classification",),
}


class Config(Section):
    """Supervised fine-tuning of the adapted model: on labels of the corpus, or on conversations."""

    task: TaskName = Field(
        default="classification",
        description="what is learnt of a record: its class; several yes/no labels; a value; the class of each residue (of texts: word); "
        "the class of a pair; or to write the answers of its conversation",
    )
    label: str = Field(
        default="coding", description="name of a label that ingest makes, or tags (CoNLL files); not read by multilabel and instruction"
    )
    labels: list[str] = Field(default=[], description="names of labels with values 0 and 1 (multilabel)")
    classes: list[str | int] = Field(
        default=[], description="the classes in order; any other is an error. Default: those of the label, in order"
    )
    class_weights: Literal["none", "balanced"] = Field(
        default="none",
        description="balanced: in training every class has the same share of the loss, however rare it is in the train split",
    )
    pair: str | None = Field(
        default=None, description="name of the covariate (ingest: read.covariates) that holds the second of a pair (pair_classification)"
    )
    validate_steps: int | None = Field(
        default=None,
        ge=1,
        description="score the validation split every so many steps, and keep the weights of the lowest loss; default: the last",
    )
    patience: int | None = Field(
        default=None, ge=1, description="end a method's training after so many validations without a lower loss; needs validate_steps"
    )
    methods: list[MethodConfig] = Field(min_length=1)

    @property
    def label_names(self) -> list[str]:
        """The labels that the task reads."""
        return self.labels if self.task == "multilabel" else [] if self.task == "instruction" else [self.label]

    @property
    def class_names(self) -> list[str]:
        """The declared classes, as text."""
        return [str(name) for name in self.classes]

    @model_validator(mode="after")
    def _methods_have_names_of_their_own(self) -> Config:
        if twice := repeated(method.name for method in self.methods):
            raise ValueError(f"methods has {listed(twice)} twice; expected each once: their results would go to one folder")
        return self

    @model_validator(mode="after")
    def _options_belong_to_the_task(self) -> Config:
        for option, tasks in _TASK_OPTIONS.items():
            value = getattr(self, option)
            if self.task not in tasks and value != type(self).model_fields[option].default:
                raise ValueError(f"{option} is {value!r}, but task {self.task} does not use it; expected it only with {', '.join(tasks)}")
        if self.task == "multilabel" and not self.labels:
            raise ValueError("labels is []; task multilabel needs the names of labels that ingest makes")
        if self.task == "pair_classification" and self.pair is None:
            raise ValueError("pair is not given; task pair_classification needs the name of a covariate that holds the second of each pair")
        for option in ("labels", "classes"):
            if twice := repeated(map(str, getattr(self, option))):
                raise ValueError(f"{option} has {listed(twice)} twice; name each once")
        if len(self.classes) == 1:
            raise ValueError(f"classes is {self.classes}; a choice needs two or more")
        if self.task == "instruction" and any(method.name == "output_layer" for method in self.methods):
            raise ValueError(
                "method output_layer trains what stands on top of a classifier; for task instruction use lora, or another method"
            )
        return self

    @model_validator(mode="after")
    def _validation_happens(self) -> Config:
        if self.patience is not None and self.validate_steps is None:
            raise ValueError(f"patience is {self.patience}, but validate_steps is not given; patience counts validations")
        if self.validate_steps is not None and (short := [m.name for m in self.methods if m.steps < (self.validate_steps or 0)]):
            raise ValueError(
                f"validate_steps is {self.validate_steps}, but {', '.join(short)} has fewer steps and would never be validated; lower it"
            )
        return self

    def contradictions(self, recipe: Any) -> list[str]:
        made, found = recipe.ingest.label_names, []
        for name in self.label_names:
            if name not in made and not (name == "tags" and self.task == "token_classification"):
                found.append(f"finetune's label is '{name}', but ingest makes {made}; the names must agree")
        if self.pair is not None:
            kept = sorted({name for source in recipe.ingest.sources for name in source.read.covariates})
            if self.pair not in kept:
                found.append(f"finetune.pair is '{self.pair}', but ingest keeps the covariates {kept}; add it to read.covariates")
        if recipe.classify is not None and self.task not in ("classification", "pair_classification"):
            found.append(
                f"finetune.task is {self.task}, whose predictions classify cannot set beside its own; "
                "leave out classify (and report), or write a recipe for each"
            )
        elif recipe.classify is not None and recipe.classify.label != self.label:
            found.append(
                f"finetune.label is '{self.label}', but classify.label is '{recipe.classify.label}'; classify scores both on one label"
            )
        return found


def prompt_tokens(method: MethodConfig) -> int:
    """How many positions of the context a method's prompt takes."""
    return method.virtual_tokens if method.name in PROMPTS else 0
