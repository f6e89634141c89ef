"""This process among those of a training run, and what they do together. Alone, each does what it would do for one."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed
from torch import Tensor

from biollm.core.progress import progress

P = TypeVar("P")
R = TypeVar("R")


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def is_first() -> bool:
    return rank() == 0


def is_one_of_several() -> bool:
    return torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1


def wait_for_all() -> None:
    if is_one_of_several():
        torch.distributed.barrier()


def summed_over_processes(own: Tensor) -> Tensor:
    if not is_one_of_several():
        return own
    total = own.to(_device())
    torch.distributed.all_reduce(total)
    return total


def of_first_process(value: float) -> float:
    """What the first process found, so that all decide alike: sums on several GPUs may differ in their last bits."""
    if not is_one_of_several():
        return value
    own = torch.tensor(value, dtype=torch.float64, device=_device())
    torch.distributed.broadcast(own, src=0)
    return float(own)


def shared_out(parts: Sequence[P], work: Callable[[P], R], what: str | None = None) -> list[R]:
    """What `work` says of each part, in their order, each asked of one process. what: the title of a progress bar, if any.

    All processes work as often, and do the last part again where there is nothing left: at ZeRO 3 every pass of one needs all.
    """
    if not is_one_of_several():
        return [work(part) for part in (parts if what is None else progress(parts, what, unit="batch"))]
    processes = torch.distributed.get_world_size()
    turns = range(rank(), math.ceil(len(parts) / processes) * processes, processes)
    said: list[Any] = [None] * processes
    torch.distributed.all_gather_object(said, [work(parts[min(turn, len(parts) - 1)]) for turn in turns])
    return [said[i % processes][i // processes] for i in range(len(parts))]


def _device() -> str:
    return "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
