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

    init: InitName = Field(default="mean", description="first values of the new rows")
    compare_inits: list[InitName] = Field(default=["mean", "normal"], description="initialisers whose held-out loss is recorded beside it")
    held_out_records: int = Field(default=400, ge=1, description="validation records on which that loss is measured")
    fusion: FusionConfig | None = None

    def contradictions(self, recipe: Any) -> list[str]:
        tracks = [track.name for track in recipe.ingest.tracks]
        unknown = [channel for channel in self.fusion.channels if channel not in tracks] if self.fusion else []
        return [f"expand.fusion.channels names {unknown}, but ingest.tracks makes {tracks}; the names must agree"] if unknown else []
