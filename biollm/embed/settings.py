"""How embeddings are made: the settings of an Embedder, checked. Needs no torch, as recipes are read without it."""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import Field, ValidationError, field_validator, model_validator

from biollm.core.alphabets import Modality
from biollm.core.errors import ConfigError
from biollm.core.recipe import EXECUTION, Section

PoolingName = Literal["mean", "cls", "last", "max", "weighted", "centre"]
LayerPooling = Literal["mean", "concat"]
Strands = Literal["forward", "both"]
Precision = Literal["auto", "fp32", "bf16", "int8"]
InputKind = Literal["auto", "sequence", "text"]
TracksMode = Literal["auto", "off"]


class Settings(Section):
    """Everything about an Embedder but its model."""

    pooling: PoolingName | list[PoolingName] = Field(default="mean", description="how token vectors become one; a list: side by side")
    layer: int | list[int] = Field(default=-1, description="-1: the last; 0: the token embeddings; a list: several")
    layer_pooling: LayerPooling = Field(default="mean", description="several layers: their mean, or side by side")
    window: int | None = Field(default=None, ge=1, description="tokens of a window of a long sequence; default: what the model can read")
    stride: int | None = Field(default=None, ge=1, description="tokens from window to window; default: three quarters of a window")
    strands: Strands = Field(default="forward", description="both: mean of a sequence and its reverse complement (DNA, RNA)")
    centre_base: int | None = Field(default=None, description="pooling centre: this base, from 0; default: the middle one")
    input: InputKind = Field(default="auto", description="whether strings are sequences or text")
    modality: Modality | None = Field(default=None, description="what sequences are; needed where a model reads those of several domains")
    tracks: TracksMode = Field(default="auto", description="off: tracks are withheld")
    precision: Precision = Field(default="fp32", description="fp32, bf16, int8, or auto: bf16 where the hardware has it")
    int8_min_cosine: float = Field(default=0.9999, gt=0, lt=1, description="int8: least cosine to fp32 on a sample")
    tokens_per_batch: int = Field(default=4096, ge=64, description="tokens in one forward pass: bounds memory", json_schema_extra=EXECUTION)

    @classmethod
    def of(cls, **values: Any) -> Settings:
        """Settings from what a caller gave. Raises ConfigError naming the setting, what was found and what was expected."""
        for name in ("pooling", "layer"):
            if not isinstance(values[name], str | int):
                values[name] = list(values[name])
        try:
            return cls(**values)
        except ValidationError as error:
            detail = error.errors()[0]
            where = str(detail["loc"][0]) if detail["loc"] else None
            reason = detail["msg"].removeprefix("Value error, ")
            raise ConfigError(f"{where} is {values.get(where)!r}: {reason}" if where else reason) from None

    @field_validator("pooling", mode="before")
    @classmethod
    def _is_one_vector(cls, given: Any) -> Any:
        """Refuse what people know as poolings, but gives more than one vector for a record."""
        if asked := [name for name in ("per_token", "per_base") if name == given or (isinstance(given, list) and name in given)]:
            raise ValueError(
                f"'{asked[0]}' gives more than one vector for a record, and is a method in Python: "
                f"Embedder(folder).{asked[0]}(sequences); a pooling is one of {', '.join(get_args(PoolingName))}"
            )
        return given

    @field_validator("pooling", "layer", mode="before")
    @classmethod
    def _one_is_no_list(cls, given: Any) -> Any:
        """So that the same settings are one and the same."""
        return given[0] if isinstance(given, list) and len(given) == 1 else given

    @model_validator(mode="after")
    def _holds_together(self) -> Settings:
        if not self.poolings or not self.layers:
            raise ValueError("pooling and layer need at least one entry")
        if self.centre_base is not None and "centre" not in self.poolings:
            raise ValueError("centre_base is for pooling 'centre'")
        return self

    @property
    def poolings(self) -> list[PoolingName]:
        return [self.pooling] if isinstance(self.pooling, str) else self.pooling

    @property
    def layers(self) -> list[int]:
        return [self.layer] if isinstance(self.layer, int) else self.layer
