"""What a model in training sees of tracks: what is hidden is hidden, what is withheld is withheld, and what is asked is the truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from biollm.modeling.channels import FEATURES_PER_CHANNEL, PRESENT, SITES, FusionSpec
from biollm.modeling.tracks import Track
from biollm.training.config import TrackTraining
from biollm.training.examples import Example
from biollm.training.tracks import ask_tracks, track_loss

Specs = Callable[..., FusionSpec]
SEEDS = st.integers(0, 10**6)
NOTHING = np.zeros(0, dtype=np.int64)
PLAIN = TrackTraining(channel_dropout=0)


def example(spec: FusionSpec | None, tokens: int = 40) -> Example:
    """Tokens of three bases CGA with a level at each C and G, and none at the first and last token, which are special."""
    residues = np.asarray([0, *[3] * tokens, 0])
    rng = np.random.default_rng(4)
    level = np.where(np.arange(3 * tokens) % 3 < 2, rng.random(3 * tokens), np.nan).astype(np.float32)
    tracks = {name: Track(level, np.where(np.isnan(level), np.nan, 6).astype(np.float32)) for name in (spec.channel_names if spec else ())}
    ids = np.arange(len(residues))
    return Example(ids, residues, residues == 0, ids, "CGA" * tokens, "r", spec, tracks if spec else None)


def features(question: Any, spec: FusionSpec) -> Any:
    return question.features.reshape(-1, len(spec.channels), FEATURES_PER_CHANNEL)


@given(SEEDS, st.sets(st.integers(1, 40), min_size=1, max_size=12))
def test_the_tracks_of_hidden_tokens_are_hidden_and_no_others(fusion_spec: Specs, seed: int, chosen: set[int]) -> None:
    spec = fusion_spec("CG", "signal")
    asked, hidden = example(spec), np.asarray(sorted(chosen))
    for training in (None, PLAIN):
        found = ask_tracks(asked, hidden, training, seed)
        assert found is not None
        assert found.answers is None
        assert not found.features[hidden].any()
        reach = [0] if training else [-1, 0, 1]  # in scoring, values beside a hidden token are too near to it
        rest = np.setdiff1d(np.arange(42), np.add.outer(hidden, reach))
        assert asked.features is not None
        np.testing.assert_array_equal(found.features[rest], asked.features[rest])


@given(SEEDS)
def test_answers_are_the_hidden_values_and_their_weights_the_observations(fusion_spec: Specs, seed: int) -> None:
    spec = fusion_spec("CG", "signal", imputes=True)
    asked = example(spec)
    training = TrackTraining(channel_dropout=0, hidden_fraction=0.3, weight=1)
    found = ask_tracks(asked, np.asarray([5]), training, seed)
    assert found is not None
    assert found.answers is not None
    assert found.weights is not None
    told = ~np.isnan(found.answers)
    assert told[5].all(), "what stands at a hidden token is asked too"
    assert not told[[0, 41]].any(), "there is nothing to ask where there is no value"
    assert not features(found, spec)[told].any(), "an answer is never given away"
    level = np.nanmean(asked.tracks["CG"].level.reshape(40, 3), axis=1)  # type: ignore[index]
    truth = np.stack([level, (level - 0.5) / 2], axis=1)  # a share; a value by mean and deviation
    np.testing.assert_allclose(found.answers[1:-1][told[1:-1]], truth[told[1:-1]], rtol=1e-5)
    assert (found.weights[told] == 12 / 4).all(), "two sites of six reads, where a site usually has four"


def test_a_token_s_share_is_that_of_the_reads_of_its_sites_together(fusion_spec: Specs) -> None:
    spec = fusion_spec("CG", "signal", imputes=True)
    level, reads = np.float32([1, 0, np.nan]), np.float32([30, 2, np.nan])
    asked = replace(example(spec, 1), tracks={"CG": Track(level, reads), "signal": Track(level, reads)})
    found = ask_tracks(asked, np.asarray([1]), TrackTraining(channel_dropout=0, weight=1), 0)
    assert found is not None
    assert found.answers is not None
    assert found.weights is not None
    np.testing.assert_allclose(found.answers[1], [30 / 32, (0.5 - 0.5) / 2], rtol=1e-6)  # of other values the mean
    np.testing.assert_allclose(found.weights[1], 32 / 4)


def test_a_share_of_the_values_is_asked(fusion_spec: Specs) -> None:
    spec = fusion_spec("CG", imputes=True)
    training = TrackTraining(channel_dropout=0, hidden_fraction=0.25, weight=1)
    asked = example(spec, 4000)
    found = ask_tracks(asked, NOTHING, training, 1)
    assert found is not None
    assert found.answers is not None
    assert 0.22 < np.mean(~np.isnan(found.answers[1:-1])) < 0.28


def test_channels_and_sites_are_withheld_as_often_as_asked(fusion_spec: Specs) -> None:
    spec = fusion_spec("CG", "CHG")
    asked = example(spec)
    kept = np.zeros(2)
    for seed in range(400):
        found = ask_tracks(asked, NOTHING, TrackTraining(channel_dropout=0.25), seed)
        present = features(found, spec)[1:-1, :, PRESENT]
        assert ((present.sum(axis=0) == 0) | (present.sum(axis=0) == 40)).all(), "whole channels"
        kept += present[0]
    assert (np.abs(kept / 400 - 0.75) < 0.08).all()
    without = ask_tracks(example(spec, 4000), NOTHING, TrackTraining(channel_dropout=0, site_dropout=0.5), 1)
    share = features(without, spec)[1:-1, 0, PRESENT].mean()
    assert abs(share - 0.75) < 0.03, "both sites of a token are gone once in four times"


@given(SEEDS)
def test_a_seed_always_asks_the_same(fusion_spec: Specs, seed: int) -> None:
    spec = fusion_spec("CG", "CHG", imputes=True)
    training = TrackTraining(site_dropout=0.2, weight=1)
    one, other = (ask_tracks(example(spec), np.asarray([3]), training, seed) for _ in range(2))
    assert one is not None
    assert other is not None
    for a, b in zip(vars(one).values(), vars(other).values(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_documents_without_tracks_ask_nothing_and_say_so(fusion_spec: Specs) -> None:
    assert ask_tracks(example(None), NOTHING, PLAIN, 1) is None
    spec = fusion_spec("CG", imputes=True)
    bare = replace(example(spec), tracks=None)
    found = ask_tracks(bare, NOTHING, replace_weight(1.0), 1)
    assert found is not None
    assert not found.features.any()
    assert found.answers is not None
    assert np.isnan(found.answers).all()


def replace_weight(weight: float) -> TrackTraining:
    return TrackTraining(weight=weight)


def test_the_loss_is_minus_the_binomial_log_likelihood_of_the_reads() -> None:
    logit, methylated, reads = torch.tensor([[0.3]]), 3.0, 5.0
    p = torch.sigmoid(logit)
    wanted = -(methylated * p.log() + (reads - methylated) * (1 - p).log())
    found = track_loss(logit, torch.tensor([[methylated / reads]]), torch.tensor([[reads]]), torch.tensor([True]))
    torch.testing.assert_close(found, wanted.squeeze())
    value = track_loss(torch.tensor([[1.0, 9.0]]), torch.tensor([[-1.0, float("nan")]]), torch.ones(1, 2), torch.tensor([False, False]))
    assert float(value) == pytest.approx(2.0), "half the squared error, and nothing of what is not asked"


def test_in_scoring_values_beside_a_hidden_token_are_hidden_too(fusion_spec: Specs) -> None:
    """Tokens of three bases: two of a neighbour's are within reach of a hidden token, one is not."""
    spec = fusion_spec("CG")
    found = features(ask_tracks(example(spec), np.asarray([5]), None, 0), spec)[:, 0]
    whole = features(ask_tracks(example(spec), NOTHING, None, 0), spec)[:, 0]
    same = (found == whole).all(axis=1)
    assert set(np.flatnonzero(~same)) == {4, 5, 6}
    assert np.expm1(found[[4, 5, 6], SITES]).round().tolist() == [1, 0, 0], "of CGA before it the C is left, of CGA behind it nothing"
    assert np.expm1(whole[[4, 5, 6], SITES]).round().tolist() == [2, 2, 2]
