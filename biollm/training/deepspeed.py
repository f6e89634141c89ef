"""DeepSpeed as we use it: one process, no launcher, no compiler."""

from __future__ import annotations

import importlib
import os
import socket
from pathlib import Path
from typing import Any

from biollm.training.config import TrainingConfig


def deepspeed_config(config: TrainingConfig, bf16: bool) -> dict[str, Any]:
    """The DeepSpeed configuration that a recipe means."""
    return {
        "train_micro_batch_size_per_gpu": config.batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation,
        "train_batch_size": config.batch_size * config.gradient_accumulation,
        "gradient_clipping": config.max_grad_norm,
        "optimizer": {
            "type": "AdamW",
            # torch's own AdamW: DeepSpeed's fused one is compiled at first use, which needs a compiler on the user's machine
            "params": {
                "lr": config.learning_rate,
                "betas": [0.9, 0.999],
                "eps": 1e-8,
                "weight_decay": config.weight_decay,
                "torch_adam": True,
            },
        },
        "zero_optimization": {"stage": 0},
        "bf16": {"enabled": bf16},
        "steps_per_print": 1_000_000_000,
    }


def start_single_process() -> None:
    """Join a process group of one, as a launcher would have done. Must run before TrainingArguments is made."""
    if "RANK" not in os.environ:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        single = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
        os.environ |= single | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if _has_cuda() else "cpu")
    import deepspeed

    if not _has_cuda():
        # DeepSpeed compiles this extension whenever it starts on a CPU, though only its inference engine ever uses it.
        importlib.import_module("deepspeed.comm.torch").build_shm_op = lambda: None  # type: ignore[attr-defined]
    deepspeed.init_distributed("nccl" if _has_cuda() else "gloo", auto_mpi_discovery=False, verbose=False)


def use_bf16(precision: str) -> bool:
    """Whether to compute in bfloat16: as the recipe says, or for `auto` where the hardware has instructions for it."""
    if precision != "auto":
        return precision == "bf16"
    if _has_cuda():
        import torch

        return bool(torch.cuda.is_bf16_supported())
    cpu = Path("/proc/cpuinfo")
    flags = cpu.read_text() if cpu.is_file() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _has_cuda() -> bool:
    import torch

    return bool(torch.cuda.is_available())
