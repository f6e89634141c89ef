"""Tracks against loops that a reader can check."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from biollm.modeling.tracks import FEATURES_PER_CHANNEL, channel_statistics, cpg_observed_expected, token_features


def naive_cpg(sequence: str, window: int) -> list[float]:
    """Base by base: a window of full width as near to centred as the sequence allows, then count letters."""
    ratios = []
    for position, base in enumerate(sequence):
        width = min(window, len(sequence))
        start = min(max(position - window // 2, 0), len(sequence) - width)
        part = sequence[start : start + width]
        expected = part.count("C") * part.count("G")
        ratios.append(part.count("CG") * width / expected if expected and base != "N" else float("nan"))
    return ratios


@given(st.text("ACGTN", min_size=1, max_size=60), st.integers(2, 30))
def test_cpg_observed_expected_is_what_counting_gives(sequence: str, window: int) -> None:
    found = cpg_observed_expected(sequence, window)
    assert found.dtype == np.float32
    assert found.shape == (len(sequence),)
    np.testing.assert_allclose(found, np.float32(naive_cpg(sequence, window)), rtol=1e-6)


def naive_features(tracks: list[list[float]], residues: list[int], mean: list[float], scale: list[float]) -> list[list[float]]:
    rows, place = [], 0
    for count in residues:
        row: list[float] = []
        for channel, values in enumerate(tracks):
            present = [v for v in values[place : place + count] if not np.isnan(v)]
            level = (sum(present) / len(present) - mean[channel]) / scale[channel] if present else 0.0
            row += [level, np.log(1 + len(present)), 1.0 if present else 0.0]
        rows.append(row)
        place += count
    return rows


@given(st.data())
def test_token_features_are_what_a_loop_over_tokens_gives(data: st.DataObject) -> None:
    residues = data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=8))  # 0: special tokens, anywhere
    value = st.one_of(st.just(float("nan")), st.floats(-5, 5, width=32))
    tracks = [data.draw(st.lists(value, min_size=sum(residues), max_size=sum(residues))) for _ in range(data.draw(st.integers(1, 3)))]
    mean, scale = [0.5 * i for i in range(len(tracks))], [1.0 + i for i in range(len(tracks))]
    found = token_features([np.float32(t) for t in tracks], np.asarray(residues), np.float32(mean), np.float32(scale))
    assert found.shape == (len(residues), len(tracks) * FEATURES_PER_CHANNEL)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, naive_features(tracks, residues, mean, scale), rtol=1e-4, atol=1e-5)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=8))
def test_a_track_without_values_has_features_that_are_exactly_zero(residues: list[int]) -> None:
    missing = np.full(sum(residues), np.nan, dtype=np.float32)
    found = token_features([missing], np.asarray(residues), np.float32([0.7]), np.float32([0.1]))
    assert not found.any()


def test_a_special_token_has_features_that_are_exactly_zero() -> None:
    found = token_features([np.float32([1, 2, 3])], np.asarray([0, 2, 1, 0]), np.float32([9]), np.float32([2]))
    assert not found[[0, 3]].any()
    assert found[[1, 2]].all()


def test_no_channel_gives_no_feature() -> None:
    assert token_features([], np.asarray([0, 2]), np.float32([]), np.float32([])).shape == (2, 0)


def test_channel_statistics_count_present_values_only() -> None:
    assert channel_statistics([np.float32([1, np.nan]), np.float32([3])]) == (2.0, 1.0)
    assert channel_statistics([np.float32([np.nan])]) == channel_statistics([]) == (0.0, 1.0)
    mean, scale = channel_statistics([np.float32([4, 4])])
    assert (mean, scale) == (4.0, pytest.approx(1.0)), "a constant channel is not divided by zero"
