"""The recipe section `merge`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from biollm.core.recipe import Section


class Config(Section):
    """How the domain vocabulary enters the base tokenizer, and the text that proves that nothing else changed."""

    strategy: Literal["isolate"] = Field(default="isolate", description="give the residues a private alphabet that no text uses")
    min_run: int = Field(default=12, ge=8, le=64, description="runs of at least this many nucleotide letters in a text are read as DNA")
    plain_text: str = Field(description="general text in UTF-8 lines whose tokens must not change: a file, or package:NAME/path")
    plain_lines: int = Field(default=25_000, ge=1, description="how many lines of it are compared, evenly spread over the file")

    def resources(self) -> list[str]:
        return [self.plain_text]
