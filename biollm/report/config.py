"""The recipe section `report`."""

from __future__ import annotations

from pydantic import Field

from biollm.core.recipe import Section


class Config(Section):
    """What the page is called and how much of the embeddings it draws."""

    title: str | None = Field(default=None, description="heading of the page; default: biollm report")
    max_points: int = Field(default=3000, ge=10, le=20_000, description="records drawn in each embedding map, a seeded sample")
