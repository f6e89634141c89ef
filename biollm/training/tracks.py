"""What a fused model reads of a document's tracks in training: some values withheld, and some of these to be predicted.

Legend: L residues, T tokens, C channels, F features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from biollm.modeling.channels import FEATURES_PER_CHANNEL, FusionSpec
from biollm.modeling.encoding import IntArray
from biollm.modeling.tracks import over_tokens
from biollm.training.config import TrackTraining
from biollm.training.examples import Example

FloatArray = NDArray[np.float32]
_MASKED = "N"
_CONTEXT_REACH = 2  # residues on either side that the context of a methylated cytosine (CG, CHG, CHH) tells


@dataclass(frozen=True)
class TrackQuestion:
    """features: (T, F) that the model reads. answers: (T, C) what it should say, a share or a standardised value, NaN where nothing is
    asked; weights: (T, C) in the loss."""

    features: FloatArray
    answers: FloatArray | None = None
    weights: FloatArray | None = None

    def at(self, tokens: IntArray | NDArray[np.bool_]) -> TrackQuestion:
        """About these tokens."""
        parts = (None if part is None else part[tokens] for part in (self.answers, self.weights))
        return TrackQuestion(self.features[tokens], *parts)


def ask_tracks(example: Example, hidden: IntArray, training: TrackTraining | None, seed: int) -> TrackQuestion | None:
    """The question about a document's tracks that this seed draws; None for a model without fusion.

    hidden: tokens that the model does not see. Neither does it see their tracks, nor what tracks that follow from the sequence would
    tell of them by their sliding window: otherwise the tracks would tell the answer. training: None, as in scoring, withholds the values
    beside them too, whose contexts tell letters, and asks nothing else.
    """
    spec = example.spec
    if spec is None:
        return None
    asks = training is not None and training.weight > 0
    if example.tracks is None:
        nothing = np.full((len(example.ids), len(spec.channels)), np.nan, dtype=np.float32)
        features = np.zeros((len(example.ids), spec.width), dtype=np.float32)
        return TrackQuestion(features, nothing, np.zeros_like(nothing)) if asks else TrackQuestion(features)
    rng = np.random.default_rng((seed, 1))
    residues = example.track_residues
    sequence = _without(example.sequence, residues, hidden) if len(hidden) else example.sequence
    tracks = example.tracks
    if training is not None and training.site_dropout:
        kept = rng.random(len(sequence)) >= training.site_dropout
        tracks = {name: track.only(kept) for name, track in tracks.items()}
    if training is None and len(hidden):
        far = ~_within(_CONTEXT_REACH, residues, hidden)
        tracks = {name: track.only(far) for name, track in tracks.items()}
    flat = spec.features(sequence, tracks, residues, example.name)
    by_channel = flat.reshape(len(residues), len(spec.channels), FEATURES_PER_CHANNEL)
    by_channel[hidden] = 0
    answers = weights = None
    if asks and training is not None:
        answers, weights = _answers(example, spec)
        chosen = rng.random(answers.shape) < training.hidden_fraction
        by_channel[chosen] = 0
        chosen[hidden] = True
        answers[~chosen] = np.nan
    if training is not None:
        by_channel[:, rng.random(len(spec.channels)) < training.channel_dropout] = 0
    return TrackQuestion(by_channel.reshape(len(residues), -1), answers, weights)


def _within(reach: int, residues: IntArray, hidden: IntArray) -> NDArray[np.bool_]:
    """(L,) whether a residue is in a hidden token, or at most `reach` residues beside one."""
    ends, found = np.cumsum(residues), np.zeros(residues.sum(), dtype=bool)
    for token in hidden:
        found[max(0, ends[token] - residues[token] - reach) : ends[token] + reach] = True
    return found


def _without(sequence: str, residues: IntArray, hidden: IntArray) -> str:
    letters = np.array(list(sequence))
    letters[_within(0, residues, hidden)] = _MASKED
    return "".join(letters)


def _answers(example: Example, spec: FusionSpec) -> tuple[FloatArray, FloatArray]:
    """(T, C) level of each token, NaN where there is none, and its weight: observations, as a share of a site's usual number.

    The level of a share is that of the observations of all sites of the token together, of other values the mean of the sites.
    """
    assert example.tracks is not None, "asked only of documents with tracks"
    seen = spec.seen(example.sequence, example.tracks, example.name)
    found, observed = (over_tokens(tracks, example.track_residues) for tracks in (seen, [track.of_observations() for track in seen]))
    mean, scale, usual, is_share = (
        np.array([[getattr(channel, name)] for channel in spec.channels]) for name in ("mean", "scale", "mean_coverage", "is_share")
    )
    share = np.divide(observed.level * observed.sites, found.coverage, out=found.level.copy(), where=found.coverage > 0)
    level = np.where(is_share, share, (found.level - mean) / scale)
    answers = np.where(found.sites > 0, level, np.nan)
    weights = np.where(found.coverage > 0, found.coverage / usual, found.sites)
    return answers.T.astype(np.float32), weights.T.astype(np.float32)


def track_loss(predicted: Tensor, answers: Tensor, weights: Tensor, is_share: Tensor) -> Tensor:
    """The summed loss of answered values, in nats of a site's usual number of observations.

    predicted, answers, weights: (M, C), NaN answers are not asked. Shares: minus the binomial log-likelihood of the observations; other
    values: half the squared error, of standardised values.
    """
    asked = ~answers.isnan()
    truth = answers.nan_to_num()
    of_shares = functional.binary_cross_entropy_with_logits(predicted, truth.clamp(0, 1), reduction="none")
    of_values = 0.5 * (predicted - truth).square()
    losses = torch.where(is_share, of_shares, of_values) * weights
    return losses[asked].sum()
