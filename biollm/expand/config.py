"""The recipe section `expand`."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from biollm.core.errors import listed, repeated
from biollm.core.recipe import Section
from biollm.modeling.channels import OperatorName, Strand, ValueName
from biollm.modeling.inits import InitName


class ChannelConfig(Section):
    """A track as an input channel."""

    track: str = Field(description="a track that ingest makes or reads carry, for example CG")
    strand: Strand = Field(
        default="both", description="plus: only values on C of the sequence as it is read; minus: only those on G, the other strand's C"
    )
    share: bool | None = Field(
        default=None,
        description="whether values are shares of observations, from 0 to 1, as methylation levels are; default: whether all values of the "
        "corpus lie there. false for a normalised signal",
    )


class FusionConfig(Section):
    """Which tracks become input channels of the model, and how."""

    operator: OperatorName = Field(
        default="add",
        description="how features act on the token embeddings: add: added; gate: added as far as the token lets them; film: scale and "
        "shift; cross_attention: the token looks at the tracks around it",
    )
    values: ValueName = Field(
        default="linear", description="how a level is encoded: as it is, by a small network, in Fourier features, or in bins"
    )
    value_width: int = Field(default=16, ge=2, description="encoded values of a channel (mlp, fourier)")
    neighbours: int = Field(default=16, ge=1, description="tokens that cross_attention looks at on either side")
    channels: list[ChannelConfig] = Field(min_length=1, description="tracks, by name or with a strand")

    @field_validator("channels", mode="before")
    @classmethod
    def _names_are_channels(cls, channels: Any) -> Any:
        return [{"track": entry} if isinstance(entry, str) else entry for entry in channels] if isinstance(channels, list) else channels

    @field_validator("channels")
    @classmethod
    def _each_track_once(cls, channels: list[ChannelConfig]) -> list[ChannelConfig]:
        if twice := repeated(channel.track for channel in channels):
            raise ValueError(f"channels has {listed(twice)} twice; a track is one channel")
        return channels


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
        if self.fusion and recipe.ingest is None:
            problems.append("expand.fusion takes its tracks from the corpus, but the recipe has no section 'ingest'; add it")
        if self.fusion and recipe.ingest is not None and recipe.ingest.kind == "sequences":  # what reads carry is known when they are read
            tracks = [track.name for track in recipe.ingest.tracks]
            if unknown := [channel.track for channel in self.fusion.channels if channel.track not in tracks]:
                problems.append(f"expand.fusion.channels names {unknown}, but ingest.tracks makes {tracks}; the names must agree")
        one_strand = [channel.track for channel in self.fusion.channels if channel.strand != "both"] if self.fusion else []
        if one_strand and recipe.ingest is not None and getattr(recipe.ingest, "cytosines", None) is not None:
            problems.append(
                f"expand.fusion.channels.strand looks for values on C or G, but ingest.cytosines writes other letters there; leave strand "
                f"out of {listed(one_strand)}"
            )
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
