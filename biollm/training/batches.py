"""Questions as the tensors of one forward pass: packed into a flat row without padding where the model can read one, else padded.

Beside what the model reads, a batch of questions says what its loss is divided by (`count`), and how many bases, residues or bytes its
labels stand for (`units`).

Legend: B documents, N their tokens together, K the longest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from biollm.modeling.documents import position_ids
from biollm.modeling.encoding import IntArray, pad, pad_features
from biollm.training.examples import Example
from biollm.training.objectives import IGNORED, Question

Batch = dict[str, Tensor]
Collate = Callable[[Sequence[Question]], Batch]
_PAD_MULTIPLE = 8


def pack_questions(questions: Sequence[Question], first_position: int = 0) -> Batch:
    """A flat batch: input_ids, position_ids, labels (1, N), lengths (B,), and features, track_answers, track_weights, weights,
    prefixes where there are any.

    Documents stand by length, so that equally long ones are neighbours. first_position: what the model calls the first token's position.
    """
    ordered = sorted(questions, key=lambda q: len(q.ids))
    lengths = [len(q.ids) for q in ordered]
    batch: dict[str, Any] = {
        "input_ids": np.concatenate([q.ids for q in ordered])[None],
        "position_ids": position_ids(lengths, first_position)[None],
        "lengths": np.asarray(lengths, dtype=np.int64),
        "labels": np.concatenate([q.labels for q in ordered])[None],
    }
    if ordered[0].tracks is not None:
        batch |= {name: np.concatenate(parts)[None] for name, parts in _track_parts(ordered).items()}
    if any(q.weights is not None for q in ordered):
        batch["weights"] = np.concatenate([_weights(q) for q in ordered])[None]
    if any(q.prefix is not None for q in ordered):
        batch["prefixes"] = np.asarray([q.prefix or 1 for q in ordered], dtype=np.int64)
    return _tensors(batch, ordered)


def pad_questions(questions: Sequence[Question], pad_id: int) -> Batch:
    """A padded batch: input_ids, attention_mask (B, K), labels (B, K) or those of a decoder with decoder_input_ids, features, weights."""
    ids, mask = pad([q.ids for q in questions], pad_id, _PAD_MULTIPLE)
    answers = [q.labels if q.decoder_ids is None else q.decoder_ids for q in questions]
    width = pad(answers, 0, _PAD_MULTIPLE)[0].shape[1]
    batch: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "labels": _matrix([q.labels for q in questions], width, IGNORED)}
    if questions[0].decoder_ids is not None:
        batch["decoder_input_ids"] = _matrix([q.decoder_ids for q in questions if q.decoder_ids is not None], width, pad_id)
    if questions[0].tracks is not None:
        batch |= {name: pad_features(parts, ids.shape[1]) for name, parts in _track_parts(questions).items()}
    if any(q.weights is not None for q in questions):
        batch["weights"] = _matrix([_weights(q) for q in questions], width, 0)
    return _tensors(batch, questions)


def pad_examples(examples: Sequence[Example], pad_id: int) -> Batch:
    """A padded batch of whole documents: input_ids, attention_mask (B, K), features."""
    ids, mask = pad([example.ids for example in examples], pad_id, _PAD_MULTIPLE)
    batch: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
    features = [found for found in (example.features for example in examples) if found is not None]  # made anew whenever asked for
    if features:
        batch["features"] = pad_features(features, ids.shape[1])
    return {name: torch.from_numpy(array) for name, array in batch.items()}


def _track_parts(questions: Sequence[Question]) -> dict[str, list[NDArray[np.float32]]]:
    """features, and for a model that imputes track_answers and track_weights, of each question. (Padding is asked with weight zero.)"""
    asked = [q.tracks for q in questions if q.tracks is not None]
    parts = {"features": [t.features for t in asked]}
    if asked[0].answers is not None:
        parts["track_answers"] = [t.answers for t in asked if t.answers is not None]
        parts["track_weights"] = [t.weights for t in asked if t.weights is not None]
    return parts


def _weights(question: Question) -> NDArray[np.float32]:
    return question.weights if question.weights is not None else np.ones(len(question.labels), dtype=np.float32)


def _matrix(rows: Sequence[IntArray | NDArray[np.float32]], width: int, value: int) -> NDArray[Any]:
    filled = np.full((len(rows), width), value, dtype=rows[0].dtype)
    for i, row in enumerate(rows):
        filled[i, : len(row)] = row
    return filled


def _tensors(batch: dict[str, Any], questions: Sequence[Question]) -> Batch:
    totals = {"count": sum(q.count for q in questions), "units": sum(q.units for q in questions)}
    return {name: torch.from_numpy(np.asarray(array)) for name, array in (batch | totals).items()}
