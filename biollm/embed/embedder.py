"""Embeddings from a model folder, as an array. Legend: n records, d width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from biollm.core.errors import ConfigError, DataError
from biollm.core.progress import progress
from biollm.core.resources import model_folder
from biollm.modeling.encoding import Encoded, Encoder, IntArray, by_length, pad, pad_features
from biollm.modeling.loading import load_model, token_capacity
from biollm.modeling.pooling import overlap_weights, pool_mean
from biollm.modeling.tracks import FEATURES_PER_CHANNEL

# Consecutive windows of a long sequence share this part of the context, so that no token is seen only at a border.
_OVERLAP = 0.25


@dataclass(frozen=True)
class _Window:
    """A stretch of one record that fits the model. ids without special tokens; weights of its tokens in the record's mean."""

    record: int
    ids: IntArray
    weights: NDArray[np.float32]
    features: NDArray[np.float32] | None


class Embedder:
    """Mean-pooled embeddings of sequences or text by a model folder.

    Vectors average the last layer over the real tokens: padding and special tokens are not counted. They do not depend on the
    batch size or on neighbours (float32, differences below 1e-5). Sequences beyond the model's context are read in
    overlapping windows and recombined, every token counting once; nothing is cut.

    A fused folder computes its tracks from the sequence itself; tracks="off" withholds them.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        input: Literal["auto", "sequence", "text"] = "auto",
        tracks: Literal["computed", "off"] = "computed",
        tokens_per_batch: int = 4096,
    ) -> None:
        """model: a folder, package:NAME/path, or a hub name. input: `auto` reads strings as the stock tokenizer.json does: runs of
        at least its `min_run` (12) nucleotide letters are DNA, all else is text; `sequence` reads every string as DNA, however short.

        Raises ResourceError if there is no such model, ConfigError if the folder is not a loadable one.
        """
        folder = model_folder(model)
        self._encoder = Encoder(folder)
        if input == "sequence" and self._encoder.vocabulary is None:
            raise ConfigError(
                f"{model}: has no domain vocabulary, so nothing tells sequences from text; use input='text', or a merged model"
            )
        self._model = load_model(folder)
        self._input, self._use_tracks, self._tokens_per_batch = input, tracks == "computed", tokens_per_batch
        self._capacity = token_capacity(folder, self._model.stock.config) - len(self._encoder.prefix) - len(self._encoder.suffix)

    @property
    def dimension(self) -> int:
        """d, the width of the vectors."""
        return int(self._model.stock.config.hidden_size)  # type: ignore[union-attr, arg-type]

    def embed(
        self, texts: Sequence[str], *, names: Sequence[str] | None = None, batch_size: int | None = None, show_progress: bool = True
    ) -> NDArray[np.float32]:
        """Embed sequences or texts, in their order: (n, d) float32.

        names: what records are called in errors; batch_size: records per forward pass (default: by tokens_per_batch);
        show_progress: a bar on stderr if it takes longer than two seconds.
        Raises DataError naming the record for an empty string, for foreign letters with input='sequence', and for a vector that
        is not finite. An empty list gives (0, d).
        """
        if isinstance(texts, str):
            raise DataError("embed takes a list of strings, but was given one string; write [text]")
        labels = list(names) if names is not None else [f"number {i}" for i in range(len(texts))]
        if len(labels) != len(texts):
            raise DataError(f"embed was given {len(texts)} texts, but {len(labels)} names; they must agree")
        windows = [w for i, encoded in enumerate(self._encode(texts, labels)) for w in self._windows(i, labels[i], encoded, texts[i])]
        sums = np.zeros((len(texts), self.dimension), dtype=np.float64)
        totals = np.zeros(len(texts), dtype=np.float64)
        batches = [[windows[i] for i in batch] for batch in by_length([len(w.ids) for w in windows], self._tokens_per_batch, batch_size)]
        for batch in progress(batches, "embedding", unit="batch") if show_progress else batches:
            window_sums, window_totals = self._forward(batch)
            for window, row, total in zip(batch, window_sums, window_totals, strict=True):
                sums[window.record] += row
                totals[window.record] += total
        return (sums / totals[:, None]).astype(np.float32) if len(texts) else sums.astype(np.float32)

    def count_tokens(self, texts: Sequence[str]) -> int:
        """How many tokens, without special ones, the texts have together."""
        return sum(len(e.ids) for e in self._encode(texts, [f"number {i}" for i in range(len(texts))]))

    def _encode(self, texts: Sequence[str], names: Sequence[str]) -> list[Encoded]:
        if empty := [name for name, text in zip(names, texts, strict=True) if not text.strip()]:
            raise DataError(f"text {empty[0]} is empty; remove it or give its content")
        if self._input == "sequence":
            return self._encoder.encode_sequences(texts, names)
        if self._input == "auto" and len(texts) and all(self._encoder.is_sequence(text) for text in texts):
            return self._encoder.encode_sequences(texts, names)
        return self._encoder.encode_text(texts)

    def _windows(self, record: int, name: str, encoded: Encoded, text: str) -> list[_Window]:
        length = len(encoded.ids)
        if length == 0:
            raise DataError(f"text {name} has no token for this tokenizer; remove it")
        step = max(1, int(self._capacity * (1 - _OVERLAP)))
        starts = list(range(0, max(1, length - self._capacity + step), step)) if length > self._capacity else [0]
        weights = overlap_weights(length, starts, self._capacity)
        features = self._features(encoded, text)
        return [
            _Window(
                record,
                encoded.ids[start : start + self._capacity],
                weight.numpy(),
                features[start : start + self._capacity] if features is not None else None,
            )
            for start, weight in zip(starts, weights, strict=True)
        ]

    def _features(self, encoded: Encoded, text: str) -> NDArray[np.float32] | None:
        """Track features of one record; zero (no track) for text, whose tokens stand for no residues."""
        spec = self._model.spec
        if spec is None or not self._use_tracks:
            return None
        if int(encoded.residues.sum()) != len(text):
            return np.zeros((len(encoded.ids), len(spec.channels) * FEATURES_PER_CHANNEL), dtype=np.float32)
        return spec.features(spec.compute(text.upper()), encoded.residues)

    def _forward(self, batch: list[_Window]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        before, after = len(self._encoder.prefix), len(self._encoder.suffix)
        ids, mask = pad([self._encoder.with_special_tokens(w.ids) for w in batch], self._encoder.pad_id or 0)
        weights = np.zeros(ids.shape, dtype=np.float32)
        for i, window in enumerate(batch):
            weights[i, before : before + len(window.ids)] = window.weights
        device = next(self._model.parameters()).device
        features = None
        if batch[0].features is not None:
            rows = [np.pad(w.features, ((before, after), (0, 0))) for w in batch if w.features is not None]
            features = torch.from_numpy(pad_features(rows, ids.shape[1])).to(device)
        with torch.inference_mode():
            inputs = {"input_ids": torch.from_numpy(ids).to(device), "attention_mask": torch.from_numpy(mask).to(device)}
            output = self._model(features=features, **inputs)
            sums, totals = pool_mean(output.last_hidden_state, torch.from_numpy(weights).to(device))
        return sums.cpu().numpy(), totals.cpu().numpy()
