"""What a stage is given to work with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from biollm.core.artifacts import Artifact
from biollm.core.errors import ConfigError
from biollm.core.recipe import Section
from biollm.core.resources import resolve_base, resolve_files

C = TypeVar("C", bound=Section)


@dataclass(frozen=True)
class Job(Generic[C]):
    """One run of one stage. `run(job)` writes files into `job.out` and returns the facts that go into the manifest."""

    config: C
    seed: int
    inputs: dict[str, Artifact]
    out: Path
    work: Path  # survives a kill; empty unless this very job was begun before
    logs: Path  # beside the artifacts, never part of one: what carries times, such as TensorBoard events
    recipe_folder: Path
    base_model: str

    def input(self, stage: str) -> Path:
        """The folder of an upstream artifact, checked byte by byte before this job began."""
        return self.inputs[stage].folder

    def facts_of(self, stage: str) -> dict[str, Any]:
        return self.inputs[stage].facts

    def files(self, resource: str) -> list[Path]:
        return resolve_files(resource, self.recipe_folder)

    def base_folder(self) -> Path:
        """The folder of the base model, or its file if it is a GGUF. Raises ConfigError if the recipe names none, ResourceError if
        it is not there."""
        if not self.base_model:
            raise ConfigError("this stage reads the base model, but the recipe names none; add 'base: {model: …}' to it")
        return resolve_base(self.base_model, self.recipe_folder)
