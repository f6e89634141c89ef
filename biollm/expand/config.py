"""The recipe section `expand`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from biollm.core.recipe import Section
from biollm.modeling.inits import InitName


class FusionConfig(Section):
    """Which tracks become input channels of the model."""

    operator: Literal["add"] = Field(default="add", description="how features enter: added to the token embeddings")
    channels: list[str] = Field(min_length=1, description="names of tracks that ingest makes")


class Config(Section):
    """Resize the model for the merged vocabulary, and initialise the new rows."""

    init: InitName = Field(default="mix", description="first values of the new rows")
    donor: str | None = Field(default=None, description="for init omp: a model folder that already knows the new tokens")
    pad_to_multiple: int = Field(default=1, ge=1, description="pad the tables to a multiple of so many rows; padding is never a token")
    held_out_records: int = Field(default=400, ge=1, description="validation records on which the loss right after is measured")
    compare_inits: bool = Field(default=False, description="measure every initialiser, at step 0 and after compare_steps steps")
    compare_steps: int = Field(default=100, ge=1, description="training steps of that comparison")
    in_place_shards: bool = Field(
        default=False, description="edit the tables in the safetensors shards, without loading the model (and so without its loss)"
    )
    fusion: FusionConfig | None = None

    def resources(self) -> list[str]:
        return [self.donor] if self.donor else []

    def contradictions(self, recipe: Any) -> list[str]:
        problems = []
        tracks = [track.name for track in recipe.ingest.tracks] if recipe.ingest else []
        unknown = [channel for channel in self.fusion.channels if channel not in tracks] if self.fusion else []
        if unknown:
            problems.append(f"expand.fusion.channels names {unknown}, but ingest.tracks makes {tracks}; the names must agree")
        for name in ("fusion", "compare_inits"):
            if self.in_place_shards and getattr(self, name):
                problems.append(f"expand.in_place_shards never loads the model, which expand.{name} needs; drop one of the two")
        if self.in_place_shards and self.init == "distill":
            problems.append("expand.init is 'distill', which learns through the model, but in_place_shards never loads it; take 'mix'")
        if self.donor and self.init != "omp":
            problems.append(f"expand.donor is read by init 'omp' only, but expand.init is '{self.init}'")
        if recipe.ingest is None and (self.compare_inits or self.init == "distill"):
            problems.append("expand needs texts of the domain for compare_inits and for init 'distill'; add a section 'ingest'")
        return problems
