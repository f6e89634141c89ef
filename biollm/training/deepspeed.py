"""DeepSpeed as we use it: the same configuration for one process and for many, and no compiler on a CPU."""

from __future__ import annotations

import importlib
import importlib.util
import os
from typing import Any

from biollm.core.errors import ConfigError
from biollm.core.progress import say
from biollm.training.config import TrainingConfig


def deepspeed_config(config: TrainingConfig, bf16: bool, universal: bool = False) -> dict[str, Any]:
    """The DeepSpeed configuration that a recipe means. The optimiser is ours (see training.optimizer), never one that DeepSpeed makes: it
    would know one learning rate, and let everything decay.

    universal: whether the checkpoint that will be loaded was converted for another number of processes.
    """
    zero: dict[str, Any] = {"stage": config.zero}
    if config.zero == 1 and config.world_size == 1:
        # Nothing is reduced: by default all gradients are still copied into a buffer of 2 GB, whose pages are new at every step.
        zero |= {"contiguous_gradients": False, "reduce_bucket_size": _LONE_BUCKET}
    if config.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    if config.offload == "parameters":
        zero["offload_param"] = {"device": "cpu", "pin_memory": True}
    return {
        "train_micro_batch_size_per_gpu": config.micro_batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation,
        "train_batch_size": config.batch_size,
        "gradient_clipping": config.max_grad_norm,
        "zero_optimization": zero,
        "bf16": {"enabled": bf16},
        "steps_per_print": 1_000_000_000,
        # or accelerate would put an optimiser without decoupled weight decay in the place of ours
        **({"zero_force_ds_cpu_optimizer": False} if config.offload != "none" else {}),
        **({"checkpoint": {"load_universal": True}} if universal else {}),
    }


# Gradients that pass through DeepSpeed's buffers at a time where there is one process: 20 MB, which the allocator keeps.
_LONE_BUCKET = 5_000_000


def check_hardware(config: TrainingConfig) -> None:
    """Raises ConfigError for what the recipe asks and this machine cannot do; says what it does slowly."""
    if missing := [name for name in config.trackers if importlib.util.find_spec(name) is None]:
        raise ConfigError(f"trackers has {missing[0]}, which is not installed; pip install {missing[0]}, or leave it out")
    if config.precision == "bf16" and not has_cuda() and not use_bf16("auto"):
        say("precision is bf16, which this CPU has no instructions for: right, but slower than fp32")
    if config.offload != "none" and not has_cuda():
        raise ConfigError(f"offload is {config.offload}, but there is no GPU to offload from; set offload: none")
    if config.precision == "bf16" and has_cuda():
        import torch

        if not torch.cuda.is_bf16_supported(including_emulation=False):
            raise ConfigError(f"precision is bf16, which {torch.cuda.get_device_name()} does not compute; set precision: fp32")
    if has_cuda():
        import torch

        if config.processes > (gpus := torch.cuda.device_count()):
            raise ConfigError(
                f"processes is {config.processes}, but this machine has {gpus} GPU{'s' if gpus > 1 else ''}, one for each process; set "
                f"processes: {gpus}, or more nodes"
            )


def join_process_group() -> None:
    """Join the process group of a launcher, or a group of one, which needs no port. Must run before TrainingArguments is made."""
    import torch.distributed

    backend = "nccl" if has_cuda() else "gloo"
    if not {"RANK", "MASTER_ADDR"} <= os.environ.keys():  # a launcher gives both; a rank alone may be what a parent's own run left
        os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
        if not torch.distributed.is_initialized():  # by an earlier run of this process
            torch.distributed.init_process_group(backend, store=torch.distributed.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if has_cuda() else "cpu")
    import deepspeed

    if not has_cuda():
        # DeepSpeed compiles this extension whenever it starts on a CPU, though only its inference engine ever uses it.
        importlib.import_module("deepspeed.comm.torch").build_shm_op = lambda: None  # type: ignore[attr-defined]
    deepspeed.init_distributed(backend, auto_mpi_discovery=False, verbose=False)


def use_bf16(precision: str) -> bool:
    """Whether to compute in bfloat16: as the recipe says, or for `auto` where the hardware has instructions for it."""
    if precision != "auto":
        return precision == "bf16"
    from biollm.modeling.precision import has_bf16

    return has_bf16()


def has_cuda() -> bool:
    import torch

    return bool(torch.cuda.is_available())
