"""What a training run consists of, and how its processes come to have the same one.

A task is not sent from process to process: each builds it anew, from the name of a function and arguments that are plain JSON. So one
process and a hundred run the same code, and the arguments say everything that there is to say.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

# What a run leaves in its work folder when it has ended: a sealed folder with these files.
TRAINED = "trained"
BEST = "best"  # a sealed folder too: the weights of the best validation so far
WEIGHTS = "weights.safetensors"
FACTS = "trained.json"


class Plan(Protocol):
    """The items of a run in their order, over all epochs: a function of the position alone."""

    def __len__(self) -> int: ...

    def __getitem__(self, position: int) -> Any: ...

    def names(self, position: int) -> list[str]:
        """What the records of a position are called, for errors."""
        ...


@dataclass(frozen=True)
class Task:
    """module: called with a batch, gives the summed loss; what of it requires gradients is trained. Where that is more than the loss of the
    batch's labels, its attribute `label_loss` is theirs alone, else None or absent. collate: items of the plan as a batch, with `count`,
    what the sum is divided by. validate: scores on the validation split; its `loss` is to fall."""

    module: nn.Module
    plan: Plan
    collate: Callable[[Sequence[Any]], dict[str, Tensor]]
    validate: Callable[[], dict[str, float]] | None = None


@dataclass(frozen=True)
class Recipe:
    """How to build a task. build: `module:function` in this package, called with `arguments`."""

    build: str
    arguments: dict[str, Any]

    def make(self) -> Task:
        module, function = self.build.split(":")
        task: Task = getattr(importlib.import_module(module), function)(**self.arguments)
        return task
