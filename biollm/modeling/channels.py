"""What a model is fused with: its channels, how their values are standardised, and a record's tracks as features of its tokens.

Needs no torch. Legend: L residues, T tokens, C channels, F features.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator

from biollm.core.alphabets import stands_on
from biollm.core.errors import DataError, listed, repeated
from biollm.modeling.tracks import FloatArray, IntArray, RecordTracks, TokenValues, Track, TrackConfig, compute_track, over_tokens

# Per channel and token: standardised mean level, log(1 + sites), log(1 + observations per site), and 1 where there is any value.
FEATURES_PER_CHANNEL = 4
LEVEL, SITES, COVERAGE, PRESENT = range(FEATURES_PER_CHANNEL)

OTHER_OPERATORS = "operators"  # folder in that of an adapted model: the same model adapted with other operators, by name

OperatorName = Literal["add", "gate", "film", "cross_attention"]
ValueName = Literal["linear", "mlp", "fourier", "bins"]
Strand = Literal["both", "plus", "minus"]
_ROUNDING = 1e-5  # how far a share may lie beyond 0 and 1: sums of float32


class Channel(BaseModel):
    """One input channel. The statistics are those of the train split's residues that have a value."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    computed: TrackConfig | None = Field(default=None, description="how it follows from the sequence; None: it is measured")
    strand: Strand = Field(default="both", description="plus: values on C of the sequence as it is read; minus: on G, the other strand's C")
    is_share: bool = Field(description="a share of the observations, 0 to 1, as a methylation level is; else any number")
    mean: float
    scale: float = Field(gt=0)
    low: float = Field(description="smallest and largest value seen")
    high: float
    edges: list[float] = Field(description="inner borders of its bins")
    mean_coverage: float = Field(default=1.0, gt=0, description="observations of a site; 1 if nobody counted them")
    cytosines: bool = Field(default=False, description="measured, and no A or T of the train split has a value: methylation")

    def of(self, track: Track, sequence: str) -> Track:
        """A track as this channel sees it: on one strand, or as it is."""
        return on_strand(track, sequence, self.strand)

    def check(self, track: Track, length: int, record: str) -> None:
        """Raises DataError naming record and channel if the track cannot be that of the record's sequence."""
        check_track(self.name, track, length, record, is_share=self.is_share)


def check_track(name: str, track: Track, length: int, record: str, *, is_share: bool) -> None:
    """Raises DataError naming record and track if it is not a finite number or NaN for each residue, or no share where it is to be one."""
    where = f"record {record}: track '{name}'"
    for what, values in (("values", track.level), ("coverages", track.coverage)):
        if values is None:
            continue
        if values.ndim != 1 or len(values) != length:
            shape = len(values) if values.ndim == 1 else f"an array of shape {values.shape} as"
            raise DataError(
                f"{where} has {shape} {what}, but the sequence has {length} residues; give one for each, NaN where there is none "
                "(is it the track of another window or build?)"
            )
    low, high = _extremes(track.level)
    if low == -np.inf or high == np.inf:
        place = np.flatnonzero(np.isinf(track.level))[0]
        raise DataError(f"{where} is infinite at position {place + 1}; expected numbers, or NaN where there is no value")
    if is_share and (low < -_ROUNDING or high > 1 + _ROUNDING):
        place = np.flatnonzero((track.level < -_ROUNDING) | (track.level > 1 + _ROUNDING))[0]
        raise DataError(
            f"{where} is {track.level[place]:.7g} at position {place + 1}; it holds shares from 0 to 1 where it was trained (divide "
            "percent by 100)"
        )
    if track.coverage is None:
        return
    low, high = _extremes(track.coverage)
    if low < 0 or high == np.inf:
        place = np.flatnonzero((track.coverage < 0) | np.isinf(track.coverage))[0]
        raise DataError(f"{where} has coverage {track.coverage[place]:g} at position {place + 1}; expected 0 or more")


def check_cytosines(name: str, track: Track, sequence: str, record: str) -> None:
    """Raises DataError naming record and track if a value of a cytosine stands on A or T: a track of another window or build."""
    level, elsewhere = track.level, stands_on(sequence, "ATU")
    if level.shape == elsewhere.shape and (wrong := np.flatnonzero(elsewhere & ~np.isnan(level))).size:  # other shapes: check_track
        raise DataError(
            f"record {record}: track '{name}' has a value at position {wrong[0] + 1}, on {sequence[wrong[0]]}; it holds values of "
            "cytosines, on C or (the other strand's) G (is it the track of another window or build?)"
        )


def _extremes(values: NDArray[np.floating]) -> tuple[np.floating, np.floating]:
    """The smallest and the largest number; 0 stands for NaN."""
    return np.fmin.reduce(values, initial=0), np.fmax.reduce(values, initial=0)


def on_strand(track: Track, sequence: str, strand: Strand) -> Track:
    """A track with the values of one strand alone, or as it is."""
    if strand == "both":
        return track
    return track.only(stands_on(sequence, "C" if strand == "plus" else "G"))


class FusionSpec(BaseModel):
    """`fusion.json`: what a model was fused with. base_sha256: the fingerprint of the weights that it was saved with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[3] = 3
    operator: OperatorName
    values: ValueName = "linear"
    value_width: int = Field(default=16, ge=1, description="encoded values of each channel (mlp, fourier)")
    neighbours: int = Field(default=16, ge=0, description="tokens that cross_attention looks at on either side")
    one_way: bool = Field(default=False, description="whether the model reads one way: then no token is told of tracks behind it")
    imputes: bool = Field(default=False, description="whether it was trained to predict hidden track values")
    channels: list[Channel] = Field(min_length=1)
    hidden_size: int = Field(description="width of the token embeddings, where features enter")
    read_size: int | None = Field(default=None, description="width of what the model gives, where that is another (ALBERT, ELECTRA)")
    base_sha256: str | None = None

    @field_validator("channels")
    @classmethod
    def _names_differ(cls, channels: list[Channel]) -> list[Channel]:
        names = [channel.name for channel in channels]
        if twice := repeated(names):
            raise ValueError(f"has {listed(twice)} twice")
        return channels

    @property
    def channel_names(self) -> list[str]:
        return [channel.name for channel in self.channels]

    @property
    def measured_names(self) -> list[str]:
        """The channels that do not follow from the sequence: those that a table is asked for."""
        return [channel.name for channel in self.channels if channel.computed is None]

    @property
    def width(self) -> int:
        """F, the number of features of a token."""
        return len(self.channels) * FEATURES_PER_CHANNEL

    @property
    def needs_measured(self) -> bool:
        """Whether some channel does not follow from the sequence."""
        return bool(self.measured_names)

    def computed(self, sequence: str) -> RecordTracks:
        """The channels that follow from the sequence."""
        return {c.name: Track(compute_track(c.computed, sequence, one_way=self.one_way)) for c in self.channels if c.computed is not None}

    def check(self, tracks: RecordTracks, length: int, record: str) -> None:
        """Raises DataError naming record and channel: a channel too many or too few, of another length, infinite or out of range."""
        if unknown := sorted(set(tracks) - set(self.channel_names)):
            raise DataError(
                f"record {record}: track '{unknown[0]}' is no channel of this model; it was trained with {', '.join(self.channel_names)}"
            )
        for channel in self.channels:
            if channel.name in tracks:
                channel.check(tracks[channel.name], length, record)
            elif channel.computed is None:
                raise DataError(
                    f"record {record}: track '{channel.name}' is not given; give its values (NaN where there are none), or no tracks at all"
                )

    def check_places(self, sequence: str, tracks: RecordTracks, record: str) -> None:
        """Raises as `check_cytosines` does. tracks: those that belong to the sequence; a control may well give a model others."""
        for channel in self.channels:
            if channel.cytosines and channel.name in tracks:
                check_cytosines(channel.name, tracks[channel.name], sequence, record)

    def over_tokens(
        self, sequence: str, tracks: RecordTracks | None, residues_per_token: IntArray, record: str = "?"
    ) -> TokenValues | None:
        """The channels over the spans of tokens, or None without tracks. Raises DataError as `check` does."""
        return None if tracks is None else over_tokens(self.seen(sequence, tracks, record), residues_per_token)

    def seen(self, sequence: str, tracks: RecordTracks, record: str = "?") -> list[Track]:
        """Each channel's track as the channel sees it, computed ones too. Raises DataError as `check` does."""
        self.check(tracks, len(sequence), record)
        whole = {**self.computed(sequence), **tracks} if len(tracks) < len(self.channels) else tracks
        return [channel.of(whole[channel.name], sequence) for channel in self.channels]

    def features(self, sequence: str, tracks: RecordTracks | None, residues_per_token: IntArray, record: str = "?") -> FloatArray:
        """(T, F) float32 of one record. Without tracks, and for a token without any value, all are zero: that means nothing to a model.

        residues_per_token: (T,) with sum L, 0 for tokens that stand for no residue. Channels that follow from the sequence need not be
        given. Raises DataError naming record and channel if a track does not fit.
        """
        found = self.over_tokens(sequence, tracks, residues_per_token, record)
        if found is None:
            return np.zeros((len(residues_per_token), self.width), dtype=np.float32)
        present = found.sites > 0
        mean, scale = (np.array([[getattr(channel, name)] for channel in self.channels]) for name in ("mean", "scale"))
        table = np.zeros((*present.T.shape, FEATURES_PER_CHANNEL), dtype=np.float32)  # (T, C, 4)
        table[..., LEVEL] = np.where(present, (found.level - mean) / scale, 0).T
        table[..., SITES] = np.log1p(found.sites).T
        table[..., COVERAGE] = np.log1p(np.divide(found.coverage, found.sites, out=np.zeros(present.shape), where=present)).T
        table[..., PRESENT] = present.T
        return table.reshape(len(table), self.width)


def describe_channel(
    name: str,
    levels: NDArray[np.floating],
    coverages: NDArray[np.floating] | None,
    *,
    strand: Strand,
    computed: TrackConfig | None,
    is_share: bool,
    cytosines: bool = False,
) -> Channel:
    """A channel with the statistics of the residues that have a value (of the train split). Raises DataError if none has one.

    levels: (S,) without NaN, those that the channel sees; coverages: (S,) or None.
    """
    if not len(levels):
        raise DataError(f"track '{name}': no residue of the train split has a value; leave the channel out, or bring more data")
    deviation = float(np.std(levels, dtype=np.float64))
    low, high = float(levels.min()), float(levels.max())
    counted = coverages is not None and bool(np.nansum(coverages) > 0)
    return Channel(
        name=name,
        computed=computed,
        strand=strand,
        is_share=is_share,
        cytosines=cytosines,
        mean=float(np.mean(levels, dtype=np.float64)),
        scale=deviation if deviation > 0 else 1.0,
        low=low,
        high=high,
        edges=_bin_edges(levels),
        mean_coverage=float(np.nanmean(coverages)) if counted and coverages is not None else 1.0,
    )


_BINS = 8


def _bin_edges(levels: NDArray[np.floating]) -> list[float]:
    """Inner borders of bins, eight where that is enough. A value that would fill one alone (most methylation levels are 0) has one of its
    own: with quantiles alone it would be parted from nothing. The rest is divided equally."""
    values, counts = np.unique(levels.astype(np.float64), return_counts=True)
    common = counts > len(levels) / _BINS
    borders = ((values[:-1] + values[1:]) / 2)[common[:-1] | common[1:]]
    if not common.all():
        left = max(0, _BINS - 1 - len(borders))
        rest = np.repeat(values[~common], counts[~common])
        borders = np.concatenate([borders, np.quantile(rest, np.linspace(0, 1, left + 2)[1:-1])])
    return sorted(set(borders.tolist()))
