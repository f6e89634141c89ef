"""The optimiser and its learning rate over the run."""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import nn

from biollm.training.config import TrainingConfig

BETAS = (0.9, 0.999)
EPSILON = 1e-8


def make_optimizer(module: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW over the trained parameters: DeepSpeed's for the CPU where its state is offloaded, which is compiled at first use."""
    groups = parameter_groups(module, config)
    if config.offload == "none":
        # fused: one pass over the parameters, without temporary tensors as large as they are
        return torch.optim.AdamW(groups, betas=BETAS, eps=EPSILON, fused=True)
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    offloaded: torch.optim.Optimizer = DeepSpeedCPUAdam(groups, lr=config.learning_rate, betas=BETAS, eps=EPSILON, adamw_mode=True)
    return offloaded


def parameter_groups(module: nn.Module, config: TrainingConfig) -> list[dict[str, Any]]:
    """The trained parameters in groups of one learning rate and weight decay.

    Matrices decay; embeddings, biases and norms do not: decay would shrink rows of tokens that the corpus does not hold. The rate of a
    layer is `layer_decay` times that of the layer above it; embeddings are the lowest layer, what stands on top the highest.
    """
    embeddings = {id(p) for m in module.modules() if isinstance(m, nn.Embedding) for p in m.parameters(recurse=False)}
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    layers = {name: _layer(name) for name in module.state_dict(keep_vars=True)}
    top = max((layer for layer in layers.values() if layer is not None), default=-1) + 1
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in trained.items():
        layer = -1 if id(parameter) in embeddings else layers.get(name)
        layer = top if layer is None else layer
        rate = config.learning_rate * config.layer_decay ** (top - layer)
        decay = config.weight_decay if parameter.ndim > 1 and id(parameter) not in embeddings else 0.0
        group = groups.setdefault((rate, decay), {"params": [], "lr": rate, "weight_decay": decay})
        group["params"].append(parameter)
    return list(groups.values())


def rate_factor(config: TrainingConfig, step: int) -> float:
    """The learning rate before a step (counted from 0), as a share of its peak.

    >>> flat = TrainingConfig(steps=10, learning_rate=1.0, warmup_fraction=0.2, schedule="warmup_stable_decay", decay_fraction=0.4)
    >>> [round(rate_factor(flat, step), 2) for step in range(10)]
    [0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    warmup = round(config.warmup_fraction * config.steps)
    if step < warmup:
        return step / warmup
    progress = (step - warmup) / max(1, config.steps - warmup)
    match config.schedule:
        case "constant":
            height = 1.0
        case "linear":
            height = 1.0 - progress
        case "cosine":
            height = 0.5 * (1.0 + math.cos(math.pi * progress))
        case "warmup_stable_decay":
            height = min(1.0, (config.steps - step) / (config.decay_fraction * config.steps))
    return config.min_rate_fraction + (1.0 - config.min_rate_fraction) * max(0.0, height)


def _layer(name: str) -> int | None:
    """The number of the layer that a parameter belongs to: the first number in its name, or -1 where an embedding module comes before
    that. None for what stands on top, such as what predicts tokens further on.

    >>> _layer("model.layers.11.mlp.weight"), _layer("adapters.11_ffn.down.weight"), _layer("future.projections.1.weight")
    (11, 11, None)
    >>> _layer("bert.embeddings.LayerNorm.weight"), _layer("gpt_neox.embed_out.weight")
    (-1, None)
    """
    if name.startswith("future."):
        return None
    found = re.search(r"\.(\d+)[._]", name)
    below = (name[: found.start()] if found else name).split(".")
    if any("embed" in part and "out" not in part for part in below):
        return -1
    return int(found.group(1)) if found else None
