"""The recipe section `embed`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from biollm.core.recipe import Section

ModelName = Literal["base", "expand", "pretrain"]


class Config(Section):
    """Embeddings of every record of the corpus, by each model of the pipeline."""

    models: list[ModelName] = Field(
        default=["base", "expand", "pretrain"],
        min_length=1,
        description="base: untouched; expand: new vocabulary, untrained; pretrain: adapted",
    )
    tokens_per_batch: int = Field(default=4096, ge=64, description="padded tokens in one forward pass: bounds memory, changes no result")
    without_tracks: bool = Field(default=False, description="also embed by the adapted model with its tracks withheld (fusion ablation)")

    def contradictions(self, recipe: Any) -> list[str]:
        wanted = dict.fromkeys([*self.models, *(["pretrain"] if self.without_tracks else [])])
        absent = [name for name in wanted if name != "base" and getattr(recipe, name) is None]
        return [f"embed needs embeddings of '{name}', but the recipe has no section '{name}'; add it or leave it out" for name in absent]
