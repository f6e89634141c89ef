"""Tracks: a number per residue beside the sequence, such as a methylation level or a CpG ratio. NaN means missing.

NumPy only, so that ingest can use it without torch. Legend: N records, L residues, T tokens, F features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from biollm.core.errors import DataError
from biollm.core.recipe import Section

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]
TRACK_NAME = r"^[A-Za-z0-9][A-Za-z0-9_]*$"


@dataclass(frozen=True)
class Track:
    """One channel of one record, in the direction of its sequence.

    level: (L,) float32, NaN where the residue has no value; coverage: (L,) float32, the observations (reads) behind each value, NaN or 0
    where there are none, or None if nobody counted them.
    """

    level: FloatArray
    coverage: FloatArray | None = None

    def __post_init__(self) -> None:
        """Lists of numbers are as good as arrays. Raises DataError if they hold what is no number."""
        for name in ("level", "coverage"):
            given = getattr(self, name)
            if given is not None and (type(given) is not np.ndarray or given.dtype != np.float32):
                object.__setattr__(self, name, as_numbers(given, f"a track's {name}"))

    def reversed(self) -> Track:
        """The track of the reverse complement: a value stays with its base pair."""
        return Track(self.level[::-1], None if self.coverage is None else self.coverage[::-1])

    def part(self, residues: slice) -> Track:
        """The track of a stretch of the sequence."""
        return Track(self.level[residues], None if self.coverage is None else self.coverage[residues])

    def of_observations(self) -> Track:
        """The sum of what was observed at each residue in place of its mean; of a track that nobody counted, the level itself."""
        return self if self.coverage is None else Track(self.level * self.coverage)

    def only(self, kept: NDArray[np.bool_]) -> Track:
        """The same with no value but where `kept`, (L,), is true."""
        return Track(np.where(kept, self.level, np.float32(np.nan)), self.coverage)


RecordTracks = Mapping[str, Track]  # by channel


def as_numbers(values: ArrayLike, what: str) -> FloatArray:
    """Values as float32; None, and what a masked array hides, as NaN. Raises DataError, naming them by `what`, if they are no numbers."""
    try:
        if isinstance(values, np.ma.MaskedArray):
            return np.asarray(np.ma.filled(values.astype(np.float32), np.nan))
        return np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"{what} holds what is no number ({str(values)[:40]}); expected numbers, or NaN where there is no value") from None


def reverse_tracks(tracks: RecordTracks) -> RecordTracks:
    """The tracks of the reverse complement of a record."""
    return {name: track.reversed() for name, track in tracks.items()}


class TrackConfig(Section):
    """A track that is computed from the record's own sequence."""

    name: str = Field(pattern=TRACK_NAME, description="the channel's name; the corpus column is track_<name>")
    kind: Literal["cpg_observed_expected"] = Field(description="CpG observed / expected in a sliding window")
    window_bases: int = Field(default=64, ge=2, description="width of the sliding window, centred on each base")


def compute_track(config: TrackConfig, sequence: str, *, one_way: bool = False) -> FloatArray:
    """The track of one sequence: (L,) float32, NaN where undefined. Depends on nothing but the sequence, one_way: up to the residue."""
    assert config.kind == "cpg_observed_expected", config.kind
    return cpg_observed_expected(sequence, config.window_bases, one_way=one_way)


def cpg_observed_expected(sequence: str, window_bases: int, *, one_way: bool = False) -> FloatArray:
    """CpG observed / expected ratio in a window centred on each base (Gardiner-Garden and Frommer, 1987), one_way: ending at it.

    ratio = CpG count * window length / (C count * G count), over the part of the window inside the sequence.
    Returns (L,) float32; NaN where the window has no C or no G, or the base itself is N.

    >>> cpg_observed_expected("CGCG", 4)[1].round(2)
    np.float32(2.0)
    """
    letters = np.frombuffer(sequence.encode("ascii"), dtype=np.uint8)
    length = len(letters)
    c, g = letters == ord("C"), letters == ord("G")
    cpg = np.zeros(length, dtype=bool)
    cpg[:-1] = c[:-1] & g[1:]
    position = np.arange(length)
    if one_way:
        end = position + 1
        start = np.maximum(end - window_bases, 0)
    else:
        start = np.maximum(position - window_bases // 2, 0)
        end = np.minimum(start + window_bases, length)
        start = np.maximum(np.minimum(start, end - window_bases), 0)  # keep the full width at the right edge where there is room

    def count(mask: NDArray[np.bool_], last: NDArray[np.int64]) -> NDArray[np.int64]:
        cumulative = np.concatenate([[0], np.cumsum(mask)])
        return np.asarray(cumulative[last] - cumulative[start])

    expected = count(c, end) * count(g, end)
    observed = count(cpg, np.maximum(end - 1, start))  # a CpG counts where both its letters are inside
    ratio = np.full(length, np.nan, dtype=np.float32)
    defined = (expected > 0) & (letters != ord("N"))
    ratio[defined] = (observed * (end - start))[defined] / expected[defined]
    return ratio


@dataclass(frozen=True)
class TokenValues:
    """Channels over the spans of tokens, each (C, T) float64: mean level of the sites (0 without any), sites, and observations (0 if not
    counted)."""

    level: NDArray[np.float64]
    sites: NDArray[np.float64]
    coverage: NDArray[np.float64]


def over_tokens(tracks: Sequence[Track], residues_per_token: IntArray) -> TokenValues:
    """Aggregate the channels of a record over each token's span, exactly, by cumulative sums.

    residues_per_token: (T,) with sum L, 0 for tokens that stand for no residue, such as special ones.
    """
    ends = np.cumsum(residues_per_token)
    starts = ends - residues_per_token
    number, length = len(tracks), int(ends[-1]) if len(ends) else 0
    assert all(len(track.level) == length for track in tracks), ([len(track.level) for track in tracks], length)
    values = np.zeros((3, number, length), dtype=np.float32)  # sites, levels, observations
    levels = np.stack([track.level for track in tracks])
    present = ~np.isnan(levels)
    values[0] = present
    np.copyto(values[1], levels, where=present)
    for channel, track in enumerate(tracks):
        if track.coverage is not None:
            np.copyto(values[2, channel], track.coverage, where=present[channel] & ~np.isnan(track.coverage))
    sums = np.zeros((3, number, length + 1))
    np.cumsum(values, axis=-1, out=sums[..., 1:], dtype=np.float64)
    sites, levels, coverage = sums.take(ends, axis=-1) - sums.take(starts, axis=-1)
    return TokenValues(np.divide(levels, sites, out=levels, where=sites > 0), sites, coverage)
