"""Token vectors of records, pooled or one by one: windows in batches through the engine, and back. One strand.

Legend: n records, d width of a record's vector, D of a token's, T tokens of a record, b windows of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from biollm.core.errors import ConfigError, DataError
from biollm.core.progress import progress
from biollm.embed.engine import Engine
from biollm.embed.reading import read_tokens, track_features
from biollm.embed.settings import InputKind, Settings
from biollm.embed.windows import OVERLAP, Tokens, Window, cut_windows
from biollm.modeling.encoding import IntArray, by_length
from biollm.modeling.pooling import FloatArray, PoolingName, max_segments, sum_segments
from biollm.modeling.tracks import RecordTracks


@dataclass(frozen=True)
class Records:
    """Records of one call, read. texts: sequences in the letters of the model; tracks: None where the model reads none at all."""

    texts: Sequence[str]
    names: Sequence[str]
    tokens: list[Tokens]
    tracks: Sequence[RecordTracks | None] | None


class Vectors:
    """An engine with settings: what turns records into vectors."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        """Raises ConfigError if the settings' windows do not fit the model."""
        self.engine, self.settings = engine, settings
        self.width, self.stride = _window(settings, engine.capacity)
        self._before, self._after = len(engine.encoder.prefix), len(engine.encoder.suffix)

    def read(
        self, texts: Sequence[str], names: Sequence[str], tracks: Sequence[RecordTracks | None] | None, kind: InputKind, *, spans: bool
    ) -> Records:
        """spans: whether it matters where tokens of text stand."""
        read, tokens = read_tokens(self.engine.encoder, kind, texts, names, spans=spans)
        return Records(read, names, tokens, tracks)

    def pooled(self, records: Records, centres: Sequence[int], batch_size: int | None, show_progress: bool) -> FloatArray:
        """(n, d) float32. centres: of each record the base that pooling `centre` asks for. Sums over windows are kept in float64."""
        poolings, number = self.settings.poolings, len(records.texts)
        sums = np.zeros((len(poolings), number, self.engine.dimension))
        totals = np.zeros((len(poolings), number, 1))
        for k, pooling in enumerate(poolings):
            if pooling == "max":
                sums[k], totals[k] = -np.inf, 1
        for batch, hidden in self._passes(self._windows(records, poolings, centres), batch_size, show_progress):
            rows = np.asarray([window.record for window in batch])
            for k, pooling in enumerate(poolings):
                weights, lengths = self._flat_weights(pooling, [window.weights[k] for window in batch], batch)
                if pooling == "max":
                    np.maximum.at(sums[k], rows, _max(hidden, weights, lengths))
                else:
                    np.add.at(sums[k], rows, _sum(hidden, weights, lengths))
                    np.add.at(totals[k, :, 0], rows, [window.weights[k].sum(dtype=np.float64) for window in batch])
        vectors = np.concatenate(list(sums / totals), axis=1).astype(np.float32)
        if (broken := np.flatnonzero(~np.isfinite(vectors).all(axis=1))).size:
            raise self._not_finite(records.names[broken[0]])
        return vectors

    def of_tokens(self, records: Records) -> list[FloatArray]:
        """(T, D) float32 of each record; a token that several windows see has their mean."""
        out = [np.zeros((len(found.ids), self.engine.dimension), dtype=np.float32) for found in records.tokens]
        for batch, hidden in self._passes(self._windows(records, [], []), None, True):
            parts = torch.split(hidden.float().cpu(), self._lengths(batch).tolist())
            for window, part in zip(batch, parts, strict=True):
                number = len(window.ids)
                inside = part[self._before : self._before + number].numpy()
                out[window.record][window.start : window.start + number] += window.share[:, None] * inside
        if broken := [name for name, vectors in zip(records.names, out, strict=True) if not np.isfinite(vectors).all()]:
            raise self._not_finite(broken[0])
        return out

    def features(self, records: Records, record: int) -> FloatArray | None:
        """(T, F) track features of one record; None where the model reads no tracks."""
        if records.tracks is None:
            return None
        assert self.engine.spec is not None
        where = records.texts[record], records.tracks[record], records.names[record]
        return track_features(self.engine.spec, records.tokens[record], *where)

    def framed(self, features: FloatArray | None) -> FloatArray | None:
        """With zero features, which mean no track, for special tokens."""
        return None if features is None else np.pad(features, ((self._before, self._after), (0, 0)))

    def _windows(self, records: Records, poolings: Sequence[PoolingName], centres: Sequence[int]) -> list[Window]:
        windows: list[Window] = []
        for i, found in enumerate(records.tokens):
            centre = found.at_base(centres[i]) if "centre" in poolings else 0
            windows += cut_windows(
                i, found, self.features(records, i), width=self.width, stride=self.stride, poolings=poolings, centre=centre
            )
        return windows

    def _passes(self, windows: list[Window], batch_size: int | None, show_progress: bool) -> Iterator[tuple[list[Window], Tensor]]:
        """Batches of windows of like lengths, and the vectors of all their tokens side by side, special ones included."""
        lengths = [len(window.ids) for window in windows]
        batches = [[windows[i] for i in batch] for batch in by_length(lengths, self.settings.tokens_per_batch, batch_size)]
        for batch in progress(batches, "embedding", unit="batch") if show_progress else batches:
            rows = [self.engine.encoder.with_special_tokens(window.ids) for window in batch]
            features = [framed for window in batch if (framed := self.framed(window.features)) is not None]
            yield batch, self.engine.hidden(rows, features or None)

    def _lengths(self, batch: Sequence[Window]) -> IntArray:
        """(b,) tokens of each window, special ones included."""
        return np.asarray([len(window.ids) for window in batch], dtype=np.int64) + self._before + self._after

    def _flat_weights(self, pooling: PoolingName, weights: Sequence[FloatArray], batch: Sequence[Window]) -> tuple[FloatArray, IntArray]:
        """Weights of the batch's tokens side by side, and the lengths of its windows."""
        lengths = self._lengths(batch)
        flat = np.zeros(int(lengths.sum()), dtype=np.float32)
        first = 0 if pooling == "cls" else self._before
        for of_window, begin in zip(weights, np.cumsum(lengths) - lengths, strict=True):
            flat[begin + first : begin + first + len(of_window)] = of_window
        return flat, lengths

    def _not_finite(self, name: str) -> DataError:
        lower = "" if self.engine.precision == "fp32" else f", or {self.engine.precision} is too narrow for it"
        return DataError(f"record {name}: its vector is not finite; the model or its weights are broken{lower}")


def _sum(hidden_ND: Tensor, weights: FloatArray, lengths: IntArray) -> NDArray[np.float32]:
    segment = torch.from_numpy(np.repeat(np.arange(len(lengths)), lengths)).to(hidden_ND.device)
    return sum_segments(hidden_ND, torch.from_numpy(weights).to(hidden_ND.device), segment, len(lengths)).cpu().numpy()


def _max(hidden_ND: Tensor, weights: FloatArray, lengths: IntArray) -> NDArray[np.float32]:
    device = hidden_ND.device
    return max_segments(hidden_ND, torch.from_numpy(weights).to(device), torch.from_numpy(lengths).to(device)).cpu().numpy()


def _window(settings: Settings, capacity: int) -> tuple[int, int]:
    """Tokens of a window and of a stride. Raises ConfigError if they do not fit the model or each other."""
    width = capacity if settings.window is None else settings.window
    if width > capacity:
        raise ConfigError(f"window {width}: this model reads {capacity} tokens at once, beside special ones; give fewer")
    stride = max(1, int(width * (1 - OVERLAP))) if settings.stride is None else settings.stride
    if stride > width:
        raise ConfigError(f"stride {stride}: is longer than the window of {width} tokens, so that tokens between would be lost; give less")
    return width, stride
