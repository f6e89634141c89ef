"""The recipe section `report`."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from biollm.core.recipe import Section


class Config(Section):
    """What the page is called and how much of the embeddings it draws."""

    title: str | None = Field(default=None, description="heading of the page; default: biollm report")
    max_points: int = Field(
        default=2000,
        ge=10,
        le=8000,
        description="records drawn in each embedding map, a seeded sample; below 500 without UMAP; a page holds 5 MB",
    )

    pictures: list[str] = Field(
        default=[],
        description="files of `biollm mutagenesis` and `biollm attention` (mutagenesis.parquet, attention.json), to be drawn too",
    )

    def resources(self) -> list[str]:
        return list(self.pictures)

    def contradictions(self, recipe: Any) -> list[str]:
        others = [
            name for name in type(recipe).model_fields if isinstance(getattr(recipe, name), Section) and name not in {"report", "base"}
        ]
        return [] if others else ["the section 'report' has no stage to tell of; add one, such as 'ingest' or 'merge'"]
