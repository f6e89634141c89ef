"""The recipe section `tokenizer`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from biollm.core.recipe import Section


class Config(Section):
    """The domain tokenizer, trained on the train split."""

    kind: Literal["wordpiece"] = Field(default="wordpiece", description="the model; it must be the kind of the base tokenizer")
    vocab_size: int = Field(default=1024, ge=16, description="number of tokens, single residues and the unknown token included")
    piece_residues: int = Field(
        default=100,
        ge=8,
        description="sequences are cut into pieces of this length first: WordPiece is quadratic in it, and refuses longer words",
    )
