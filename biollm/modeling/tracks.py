"""Tracks: a number per residue beside the sequence, such as a methylation level or a CpG ratio. NaN means missing.

NumPy only, so that ingest can use it without torch. Legend: N records, L residues, T tokens, F features.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from biollm.core.recipe import Section

FloatArray = NDArray[np.float32]
# Per channel and token: mean value, log(1 + number of residues with a value), and whether there is any.
FEATURES_PER_CHANNEL = 3


class TrackConfig(Section):
    """A track that is computed from the record's own sequence."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="the channel's name; the corpus column is track_<name>")
    kind: Literal["cpg_observed_expected"] = Field(description="CpG observed / expected in a sliding window")
    window_bases: int = Field(default=64, ge=2, description="width of the sliding window, centred on each base")


def compute_track(config: TrackConfig, sequence: str) -> FloatArray:
    """The track of one sequence: (L,) float32, NaN where undefined. Depends on nothing but the sequence."""
    assert config.kind == "cpg_observed_expected", config.kind
    return cpg_observed_expected(sequence, config.window_bases)


def cpg_observed_expected(sequence: str, window_bases: int) -> FloatArray:
    """CpG observed / expected ratio in a window centred on each base (Gardiner-Garden and Frommer, 1987).

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


def token_features(tracks: list[FloatArray], residues_per_token: NDArray[np.int64], mean: FloatArray, scale: FloatArray) -> FloatArray:
    """Aggregate per-residue channels over each token's span.

    tracks: one (L,) array per channel, NaN = missing; residues_per_token: (T,) with sum L, 0 for special tokens;
    mean, scale: (channels,) statistics of the train split, by which the token means are standardised.
    Returns (T, channels * FEATURES_PER_CHANNEL) float32. A token without any value has all-zero features, so that a missing
    track means exactly nothing to a fusion operator without bias.
    """
    ends = np.cumsum(residues_per_token)
    starts = ends - residues_per_token
    columns = []
    for channel, values in enumerate(tracks):
        assert len(values) == (ends[-1] if len(ends) else 0), (len(values), ends[-1:])
        present = ~np.isnan(values)
        total = np.concatenate([[0.0], np.cumsum(np.where(present, values, 0.0), dtype=np.float64)])
        number = np.concatenate([[0], np.cumsum(present)])
        sites = number[ends] - number[starts]
        has = sites > 0
        level = np.zeros(len(sites), dtype=np.float64)
        level[has] = ((total[ends] - total[starts])[has] / sites[has] - mean[channel]) / scale[channel]
        columns += [level, np.log1p(sites), has.astype(np.float64)]
    return np.stack(columns, axis=1).astype(np.float32) if columns else np.zeros((len(ends), 0), dtype=np.float32)


def channel_statistics(tracks: list[FloatArray]) -> tuple[float, float]:
    """Mean and standard deviation of one channel over many records (train split only). (0, 1) if nothing is present."""
    values = np.concatenate([track[~np.isnan(track)] for track in tracks]) if tracks else np.zeros(0)
    if len(values) == 0:
        return 0.0, 1.0
    deviation = float(np.std(values, dtype=np.float64))
    return float(np.mean(values, dtype=np.float64)), deviation if deviation > 0 else 1.0
