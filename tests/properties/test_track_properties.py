"""Tracks against loops that a reader can check."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from biollm.core.alphabets import reverse_complement
from biollm.core.errors import DataError
from biollm.modeling.channels import FEATURES_PER_CHANNEL, FusionSpec, describe_channel
from biollm.modeling.tracks import Track, cpg_observed_expected, reverse_tracks

NAN = float("nan")
RESIDUES = st.lists(st.integers(0, 5), min_size=1, max_size=8)  # 0: special tokens, anywhere


def naive_cpg(sequence: str, window: int) -> list[float]:
    """Base by base: a window of full width as near to centred as the sequence allows, then count letters."""
    ratios = []
    for position, base in enumerate(sequence):
        width = min(window, len(sequence))
        start = min(max(position - window // 2, 0), len(sequence) - width)
        part = sequence[start : start + width]
        expected = part.count("C") * part.count("G")
        ratios.append(part.count("CG") * width / expected if expected and base != "N" else NAN)
    return ratios


@given(st.text("ACGTN", min_size=1, max_size=60), st.integers(2, 30))
def test_cpg_observed_expected_is_what_counting_gives(sequence: str, window: int) -> None:
    found = cpg_observed_expected(sequence, window)
    assert found.dtype == np.float32
    assert found.shape == (len(sequence),)
    np.testing.assert_allclose(found, np.float32(naive_cpg(sequence, window)), rtol=1e-6)


@given(st.text("ACGTN", min_size=1, max_size=60), st.integers(2, 30))
def test_a_window_that_ends_at_the_base_tells_nothing_of_what_follows(sequence: str, window: int) -> None:
    found = cpg_observed_expected(sequence, window, one_way=True)
    for end in range(1, len(sequence) + 1):
        np.testing.assert_array_equal(cpg_observed_expected(sequence[:end], window, one_way=True), found[:end])
    centred = np.float32(naive_cpg(sequence[-window:], 2 * window))[-1]  # the whole last window
    np.testing.assert_allclose(found[-1], centred, rtol=1e-6)


def naive_features(spec: FusionSpec, sequence: str, tracks: dict[str, Track], residues: list[int]) -> list[list[float]]:
    rows, place = [], 0
    for count in residues:
        row: list[float] = []
        for channel in spec.channels:
            track, letter = tracks[channel.name], {"plus": "C", "minus": "G"}.get(channel.strand)
            sites = [i for i in range(place, place + count) if not np.isnan(track.level[i]) and (letter is None or sequence[i] == letter)]
            level = sum(float(track.level[i]) for i in sites) / len(sites) if sites else channel.mean
            reads = 0.0 if track.coverage is None else sum(float(track.coverage[i]) for i in sites if not np.isnan(track.coverage[i]))
            share = reads / len(sites) if sites else 0.0
            row += [(level - channel.mean) / channel.scale, np.log(1 + len(sites)), np.log(1 + share), 1.0 if sites else 0.0]
        rows.append(row)
        place += count
    return rows


@given(st.data())
def test_token_features_are_what_a_loop_over_tokens_gives(fusion_spec: Callable[..., FusionSpec], data: st.DataObject) -> None:
    residues = data.draw(RESIDUES)
    length = sum(residues)
    level = st.one_of(st.just(NAN), st.floats(0, 1, width=32))
    spec = fusion_spec("CG", "CHH", "signal")
    strands = [data.draw(st.sampled_from(["both", "plus", "minus"])) for _ in spec.channels]
    spec = spec.model_copy(update={"channels": [c.model_copy(update={"strand": s}) for c, s in zip(spec.channels, strands, strict=True)]})
    sequence = data.draw(st.text("ACGTN", min_size=length, max_size=length))
    tracks = {}
    for name in spec.channel_names:
        reads = data.draw(st.one_of(st.none(), st.lists(st.one_of(st.just(NAN), st.integers(0, 30)), min_size=length, max_size=length)))
        values = data.draw(st.lists(level, min_size=length, max_size=length))
        tracks[name] = Track(np.float32(values), None if reads is None else np.float32(reads))
    found = spec.features(sequence, tracks, np.asarray(residues))
    assert found.shape == (len(residues), spec.width) == (len(residues), 3 * FEATURES_PER_CHANNEL)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, naive_features(spec, sequence, tracks, residues), rtol=1e-4, atol=1e-5)
    # the other strand: values turn with their base pairs, and those of one strand become those of the other
    turned = {"plus": "minus", "minus": "plus", "both": "both"}
    other = spec.model_copy(update={"channels": [c.model_copy(update={"strand": turned[c.strand]}) for c in spec.channels]})
    reverse = other.features(reverse_complement(sequence), reverse_tracks(tracks), np.asarray(residues[::-1]))
    np.testing.assert_allclose(reverse[::-1], found, rtol=1e-4, atol=1e-5)


@given(RESIDUES)
def test_a_track_without_values_has_features_that_are_exactly_zero(fusion_spec: Callable[..., FusionSpec], residues: list[int]) -> None:
    missing = Track(np.full(sum(residues), np.nan, dtype=np.float32), np.zeros(sum(residues), dtype=np.float32))
    found = fusion_spec("CG").features("C" * sum(residues), {"CG": missing}, np.asarray(residues))
    assert not found.any()


def test_a_special_token_has_features_that_are_exactly_zero(fusion_spec: Callable[..., FusionSpec]) -> None:
    found = fusion_spec("CG").features("CCG", {"CG": Track(np.float32([1, 0.2, 0.3]), np.float32([2, 3, 4]))}, np.asarray([0, 2, 1, 0]))
    assert not found[[0, 3]].any()
    assert found[[1, 2]].all()


def test_channels_are_described_by_the_values_that_there_are() -> None:
    share = describe_channel("CG", np.float32([0, 1, 1, 0]), np.float32([4, 4, np.nan, 10]), strand="both", computed=None, is_share=True)
    assert (share.is_share, share.mean, share.scale, share.low, share.high, share.mean_coverage) == (True, 0.5, 0.5, 0, 1, 6)
    assert share.edges == [0.5], "two values are two bins"
    signal = describe_channel("ATAC", np.float32([4, 4]), None, strand="both", computed=None, is_share=False)
    assert (signal.is_share, signal.mean, signal.scale, signal.mean_coverage) == (False, 4, 1, 1), "a constant is not divided by zero"
    with pytest.raises(DataError, match="track 'ATAC': no residue of the train split has a value; leave the channel out"):
        describe_channel("ATAC", np.zeros(0, dtype=np.float32), None, strand="both", computed=None, is_share=False)


def test_bins_part_the_values_of_a_channel_that_is_mostly_zero() -> None:
    """As CHG and CHH levels are: quantiles are all 0 there."""
    rng = np.random.default_rng(0)
    levels = np.concatenate([np.zeros(9400), np.full(100, 1.0), rng.uniform(0.05, 0.95, 500)]).astype(np.float32)
    edges = describe_channel("CHH", levels, None, strand="both", computed=None, is_share=True).edges
    filled = np.bincount(np.searchsorted(edges, levels, side="right"), minlength=8)
    assert filled[0] == 9400
    assert len(filled) == 8
    assert (filled[1:] > 60).all(), "the others are divided about equally"


def test_what_a_masked_array_hides_is_missing_and_what_is_no_number_refused(fusion_spec: Callable[..., FusionSpec]) -> None:
    spec, residues = fusion_spec("CG"), np.asarray([2, 1])
    hidden = np.ma.masked_array([1.0, 0.2, 0.5], mask=[False, True, False])
    wanted = spec.features("CGC", {"CG": Track(np.float32([1, NAN, 0.5]))}, residues)
    np.testing.assert_array_equal(spec.features("CGC", {"CG": Track(hidden)}, residues), wanted)
    np.testing.assert_array_equal(spec.features("CGC", {"CG": Track(np.array([1, None, 0.5], dtype=object))}, residues), wanted)
    with pytest.raises(DataError, match="a track's level holds what is no number"):
        Track(np.array(["x", "y"]))
    with pytest.raises(DataError, match="is infinite at position 1"), np.errstate(over="ignore"):
        spec.features("C", {"CG": Track(np.array([1e39]))}, np.asarray([1]))


def test_a_share_may_be_one_by_rounding(fusion_spec: Callable[..., FusionSpec]) -> None:
    spec = fusion_spec("CG")
    spec.check({"CG": Track(np.float32([1.000001, -1e-6]))}, 2, "r")
    with pytest.raises(DataError, match=r"record r: track 'CG' is 1\.0001 at position 1; it holds shares"):
        spec.check({"CG": Track(np.float32([1.0001, 0]))}, 2, "r")


def test_a_track_of_plain_numbers_is_one_of_arrays(fusion_spec: Callable[..., FusionSpec]) -> None:
    spec, residues = fusion_spec("CG"), np.asarray([2, 1])
    found = spec.features("CGC", {"CG": Track([1, None, 0.5], [3, None, 2])}, residues)  # type: ignore[arg-type]
    wanted = spec.features("CGC", {"CG": Track(np.float32([1, NAN, 0.5]), np.float32([3, NAN, 2]))}, residues)
    np.testing.assert_array_equal(found, wanted)
