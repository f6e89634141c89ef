"""What is asked of a DeepSpeed engine: weights, shares of them, and the norm that it clips by."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def keep_gradient_norm(engine: Any) -> None:
    """Let an engine remember the norm that it clips by in float32 without ZeRO, as it does otherwise."""
    from deepspeed.runtime.utils import clip_grad_norm_

    def clip() -> None:
        engine._global_grad_norm = clip_grad_norm_(engine.module.parameters(), engine.gradient_clipping(), mpu=engine.mpu)

    engine.clip_fp32_gradients = clip


def own_shares(engine: Any) -> Iterable[tuple[str, Tensor]]:
    """The trained parameters, or with ZeRO 3 what this process holds of them."""
    return ((name, getattr(p, "ds_tensor", p)) for name, p in engine.module.named_parameters() if p.requires_grad)


def full_weights(engine: Any, zero: int, *, keep: bool) -> dict[str, Tensor]:
    """The trained parameters in float32, whole, on the CPU: master copies where the model computes in bfloat16.

    zero: the ZeRO stage; from 1 on all processes have to ask, since each holds shares. They are gathered one at a time, and given to
    those that keep them; others get nothing.
    """
    from deepspeed.utils import safe_get_full_fp32_param

    trained = {name: p for name, p in engine.module.named_parameters() if p.requires_grad}
    masters: dict[int, Tensor] = {}
    if not zero:
        optimizer = engine.optimizer
        for low, high in zip(getattr(optimizer, "fp16_groups", []), getattr(optimizer, "fp32_groups", []), strict=True):
            masters |= {id(parameter): master for parameter, master in zip(low, high, strict=True)}
        assert all(p.dtype == torch.float32 or id(p) in masters for p in trained.values()), "DeepSpeed kept no master copy"
    weights: dict[str, Tensor] = {}
    for name, parameter in trained.items():
        whole = safe_get_full_fp32_param(parameter) if zero else masters.get(id(parameter), parameter)
        assert whole is not None, f"{name}: DeepSpeed keeps no float32 copy"
        assert whole.numel() == _size(parameter), f"{name}: a share, not the whole"
        if keep:
            weights[name] = whole.detach().to("cpu", torch.float32, copy=True, memory_format=torch.contiguous_format)
    return weights


def _size(parameter: Any) -> int:
    return int(getattr(parameter, "ds_numel", parameter.numel()))
