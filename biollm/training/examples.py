"""Corpus records as training examples: ids with special tokens, residues and track features per token.

The order of examples and every random mask are functions of (seed, position) alone, never of workers, ranks or a generator's
state. So a run that was cut anywhere and goes on sees exactly what an uninterrupted run sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from biollm.core.errors import DataError
from biollm.core.seeding import derive_seed, generator
from biollm.modeling.corpus import read_tracks
from biollm.modeling.encoding import Encoder, IntArray, pad, pad_features
from biollm.modeling.fusion import FusionSpec

IGNORED = -100  # the label of positions that do not count, as in torch and transformers
_PAD_MULTIPLE = 8


@dataclass(frozen=True)
class Example:
    """One record. ids, residues: (T,) with special tokens (which have 0 residues); features: (T, F) or None; labels: what is asked."""

    sequence: str
    ids: IntArray
    residues: IntArray
    features: NDArray[np.float32] | None
    labels: IntArray | int | None = None


def encode_corpus(records: pl.DataFrame, encoder: Encoder, spec: FusionSpec | None, label: str | None = None) -> list[Example]:
    """Records as examples, in their order; with track features if the model is fused, with a label column if one is named.

    Whether the model can read them whole is asked by `check_lengths`. Raises DataError naming a record that is no sequence.
    """
    encoded = encoder.encode_sequences(records["sequence"].to_list(), records["id"].to_list())
    tracks = read_tracks(records, spec.channel_names) if spec else [None] * records.height
    labels = records[label].to_list() if label else [None] * records.height
    examples = []
    for sequence, row, record_tracks, answer in zip(records["sequence"].to_list(), encoded, tracks, labels, strict=True):
        before, after = np.zeros(len(encoder.prefix), dtype=np.int64), np.zeros(len(encoder.suffix), dtype=np.int64)
        residues = np.concatenate([before, row.residues, after])
        features = spec.features(record_tracks, residues) if spec and record_tracks is not None else None
        examples.append(Example(sequence, encoder.with_special_tokens(row.ids), residues, features, answer))
    return examples


def check_lengths(examples: Sequence[Example], names: Sequence[str], capacity: int) -> None:
    """Refuse records that the model could only read cut. Raises DataError naming the record and the remedy."""
    for example, name in zip(examples, names, strict=True):
        if len(example.ids) > capacity:
            raise DataError(
                f"record {name} has {len(example.ids)} tokens, but "
                f"the model reads {capacity} and nothing is cut in silence; lower ingest.window_bases"
            )


class TrainingPlan(Dataset[Example]):
    """All positions of a training run, over all epochs: position -> record of a seeded permutation of its epoch."""

    def __init__(self, examples: Sequence[Example], positions: int, seed: int) -> None:
        self._examples, self._positions, self._seed = examples, positions, seed
        self._permutations: dict[int, NDArray[np.int64]] = {}

    def __len__(self) -> int:
        return self._positions

    def __getitem__(self, position: int) -> Example:
        epoch, within = divmod(position, len(self._examples))
        if epoch not in self._permutations:
            self._permutations = {epoch: generator(self._seed, "order", epoch).permutation(len(self._examples))}
        return self._examples[int(self._permutations[epoch][within])]


class MaskedPlan(TrainingPlan):
    """A training plan whose examples are masked for masked language modelling, by a mask of their own for every position."""

    def __init__(
        self, examples: Sequence[Example], positions: int, seed: int, encoder: Encoder, spec: FusionSpec | None, rate: float
    ) -> None:
        super().__init__(examples, positions, seed)
        self._encoder, self._spec, self._rate = encoder, spec, rate

    def __getitem__(self, position: int) -> Example:
        example, seed = super().__getitem__(position), derive_seed(self._seed, "mask", position)
        return mask_tokens(example, self._encoder, self._spec, self._rate, seed)


def mask_tokens(
    example: Example, encoder: Encoder, spec: FusionSpec | None, rate: float, seed: int, masked: float = 0.8, randomised: float = 0.1
) -> Example:
    """Mask an example for masked language modelling (Devlin et al. 2019).

    A share `rate` of the non-special tokens, at least one, is to be predicted; of these a share `masked` becomes the mask token,
    a share `randomised` a random token of the domain, and the rest stays. labels: (T,), the true id where it is to be predicted,
    IGNORED elsewhere. Tracks that are computed from the sequence are computed anew with the hidden bases unknown: they would
    tell the answer otherwise, at the hidden token and, by their sliding window, beside it.
    """
    assert encoder.mask_id is not None, "checked when the stage began"
    rng = np.random.default_rng(seed)
    real = np.flatnonzero(example.residues > 0)
    chosen = rng.choice(real, size=max(1, round(rate * len(real))), replace=False)
    fate = rng.random(len(chosen))
    ids, labels = example.ids.copy(), np.full_like(example.ids, IGNORED)
    labels[chosen] = example.ids[chosen]
    ids[chosen[fate < masked]] = encoder.mask_id
    replaced = chosen[(fate >= masked) & (fate < masked + randomised)]
    domain = np.flatnonzero(encoder.residues_by_id > 0)
    ids[replaced] = rng.choice(domain, size=len(replaced))
    features = example.features if spec is None else spec.features(spec.compute(_hide(example, chosen)), example.residues)
    return replace(example, ids=ids, labels=labels, features=features)


def _hide(example: Example, tokens: NDArray[np.int64]) -> str:
    """The sequence of an example with the bases of some tokens unknown."""
    letters, ends = np.array(list(example.sequence)), np.cumsum(example.residues)
    for token in tokens:
        letters[ends[token] - example.residues[token] : ends[token]] = "N"
    return "".join(letters)


def require_mask_token(encoder: Encoder) -> None:
    """Raises DataError if masked language modelling cannot work with this tokenizer."""
    if encoder.mask_id is None:
        raise DataError(
            "the tokenizer has no mask token ([MASK] or <mask>), so the masked objective cannot train it; choose an encoder as base"
        )


def collate(examples: Sequence[Example], encoder: Encoder) -> dict[str, Tensor]:
    """A batch: input_ids, attention_mask (B, T), features (B, T, F) if there are any, and labels as the examples have them.

    With token labels (B, T) there is also `predicted`, true where a label counts.
    """
    ids, mask = pad([example.ids for example in examples], encoder.pad_id or 0, _PAD_MULTIPLE)
    arrays: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
    if examples[0].features is not None:
        arrays["features"] = pad_features([e.features for e in examples if e.features is not None], ids.shape[1])
    if isinstance(examples[0].labels, np.ndarray):
        rows = [np.asarray(example.labels) for example in examples]
        arrays["labels"] = np.full_like(ids, IGNORED)
        for i, row in enumerate(rows):
            arrays["labels"][i, : len(row)] = row
        arrays["predicted"] = arrays["labels"] != IGNORED
    elif examples[0].labels is not None:
        arrays["labels"] = np.asarray([example.labels for example in examples], dtype=np.int64)
    return {name: torch.from_numpy(array) for name, array in arrays.items()}
