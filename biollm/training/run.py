"""The one training path of pretrain and finetune: Hugging Face Trainer with DeepSpeed, in this process or in many, resumable bit for bit.

work/
    checkpoint-50/      sealed (see training.checkpoints)
    best/               weights of the best validation score so far, sealed
    trained/            the result, sealed: a run that ended is not run again
    task.json           what the processes of a launcher read
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from safetensors.torch import load_file
from torch import Tensor, nn

from biollm.core.errors import DataError
from biollm.core.files import read_json, write_json
from biollm.core.progress import say
from biollm.training.checkpoints import is_valid, newest_to_go_on_from
from biollm.training.config import TrainingConfig
from biollm.training.convert import fit_to_processes
from biollm.training.deepspeed import check_hardware
from biollm.training.launch import launch, read_hostfile, slurm_job
from biollm.training.task import BEST, FACTS, TRAINED, WEIGHTS, Recipe

C = TypeVar("C", bound=TrainingConfig)


@dataclass(frozen=True)
class Trained:
    """What came out of a run. history: points of the training curve; weights: trained parameters by name, in float32.

    validation: points of the validation curve; step: the step that the weights are of, the last one or that of the best score; steps: how
    many were made, fewer than asked for where patience ended the run.
    """

    history: list[dict[str, float]]
    validation: list[dict[str, float]]
    weights: dict[str, Tensor]
    step: int
    steps: int
    precision: str
    threads: int


@dataclass(frozen=True)
class RunSettings:
    """How a task is run. validate_steps: steps between validations, None for none; patience: validations without a better score that
    end the run; both need a task that validates. The weights are then those of the best score."""

    seed: int
    what: str
    validate_steps: int | None = None
    patience: int | None = None


def train(recipe: Recipe, config: TrainingConfig, settings: RunSettings, *, work: Path, logs: Path) -> Trained:
    """Build a task and train it; goes on from the newest valid checkpoint in `work`, with the result of an uninterrupted run.

    config: as `with_hostfile` gave it. Raises DataError if the loss stops being a number or memory runs out.
    """
    done = work / TRAINED
    if done.exists() and not is_valid(done):
        shutil.rmtree(done)
    if not done.exists():
        run = described(recipe, config, settings, work, logs)
        if config.world_size == 1:
            from biollm.training.trainer import fit

            fit(run)
        else:
            write_json(work / "task.json", run)
            launch(work / "task.json", config, settings.what)
        if not is_valid(done):
            raise DataError(f"{settings.what}: ended without a result; run again to go on from the last checkpoint")
    facts = read_json(done / FACTS)
    return Trained(weights=load_file(str(done / WEIGHTS)), **facts)


def described(recipe: Recipe, config: TrainingConfig, settings: RunSettings, work: Path, logs: Path) -> dict[str, Any]:
    """What `trainer.fit` is given, here or in other processes, with the newest valid checkpoint to go on from."""
    work.mkdir(parents=True, exist_ok=True)
    checkpoint = newest_to_go_on_from(work, work / BEST)
    if checkpoint is not None:
        say(f"{settings.what}: going on from {checkpoint.name}")
        checkpoint = fit_to_processes(checkpoint, config)
    return {
        "recipe": {"build": recipe.build, "arguments": recipe.arguments},
        "config": config.model_dump(include=set(TrainingConfig.model_fields)),
        "settings": vars(settings),
        "checkpoint": str(checkpoint) if checkpoint else None,
        "work": str(work.absolute()),
        "logs": str(logs.absolute()),
    }


def with_hostfile(config: C, recipe_folder: Path) -> C:
    """A run's settings with its hostfile as a whole path: like other files, it is named from the recipe's folder.

    Raises ConfigError for a wrong one, and for what this machine cannot do; a stage asks it of all its runs before anything is loaded.
    """
    check_hardware(config)
    if config.hostfile is None:
        if config.nodes > 1:
            slurm_job(config)
        return config
    hostfile = (recipe_folder / config.hostfile).absolute()
    read_hostfile(hostfile, config)
    return config.model_copy(update={"hostfile": str(hostfile)})


def load_trained(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Put trained weights into a module of the same make. Names that it does not know would be left untrained in silence: a bug."""
    unknown = module.load_state_dict(weights, strict=False).unexpected_keys
    assert not unknown, unknown
