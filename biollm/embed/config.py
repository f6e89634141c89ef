"""The recipe section `embed`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from biollm.core.recipe import EXECUTION, Section
from biollm.embed.settings import LayerPooling, PoolingName, Precision, Strands

ModelName = Literal["base", "expand", "pretrain"]


class Config(Section):
    """Embeddings of every record of the corpus, by each model of the pipeline."""

    models: list[ModelName] = Field(
        default=["base", "expand", "pretrain"],
        min_length=1,
        description="base: untouched; expand: new vocabulary, untrained; pretrain: adapted",
    )
    pooling: PoolingName | list[PoolingName] = Field(
        default="mean", description="how token vectors become one: mean, weighted, cls, last, max, centre; a list: side by side"
    )
    layer: int | list[int] = Field(default=-1, description="-1: the last; 0: the token embeddings; a list: several")
    layer_pooling: LayerPooling = Field(default="mean", description="several layers: their mean, or side by side (concat)")
    strands: Strands = Field(
        default="forward", description="both: mean over both strands, with tracks turned; the base reads text, which has one"
    )
    precision: Precision = Field(default="fp32", description="fp32, bf16, int8, or auto: bf16 where the hardware has it")
    tokens_per_batch: int = Field(
        default=4096, ge=64, description="tokens in one forward pass: bounds memory, changes no result", json_schema_extra=EXECUTION
    )
    without_tracks: bool = Field(default=False, description="also embed by the adapted model with its tracks withheld (fusion ablation)")
    shuffled_tracks: bool = Field(
        default=False, description="also embed by the adapted model with the tracks of another record of the same split (fusion control)"
    )

    def contradictions(self, recipe: Any) -> list[str]:
        ablations = ["pretrain"] if self.without_tracks or self.shuffled_tracks else []
        absent = [name for name in dict.fromkeys([*self.models, *ablations]) if name != "base" and getattr(recipe, name) is None]
        found = [f"embed needs embeddings of '{name}', but the recipe has no section '{name}'; add it or leave it out" for name in absent]
        if recipe.expand is not None and not recipe.has_fusion:
            asked = [name for name in ("without_tracks", "shuffled_tracks") if getattr(self, name)]
            found += [f"embed.{name} needs a model with tracks; add 'fusion' to expand, or leave it out" for name in asked]
        return found
