"""Attention maps: which token of a sequence looks at which, as arrays, JSON and a page with a heat map."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import altair as alt
import numpy as np

from biollm.core import pictures
from biollm.core.errors import ConfigError, DataError, storage_error
from biollm.core.files import write_json, write_text_atomic
from biollm.embed.vectors import Records, Vectors
from biollm.modeling.encoding import IntArray
from biollm.modeling.pooling import FloatArray

# A page with more cells than this is slow to open.
_MOST_CELLS = 250_000


@dataclass(frozen=True)
class AttentionMap:
    """weights: (layers, heads, T, T) float32; row: the token that looks, column: what it looks at; special tokens included.

    labels: the tokens as text; spans: (T, 2), the letters [start, end) behind each, (-1, -1) for special tokens; layers, heads: their
    numbers, from 0. A row sums to 1.
    """

    weights: FloatArray
    labels: list[str]
    spans: IntArray
    layers: list[int]
    heads: list[int]

    def save(self, folder: Path) -> tuple[Path, Path]:
        """Write attention.json and attention.html into a folder; the page needs no network. Gives their paths.

        Raises DataError for a map too large for a page, naming what to do; ResourceError if the file system refuses a write.
        """
        if self.weights.size > _MOST_CELLS:
            raise DataError(
                f"{len(self.labels)} tokens, {len(self.layers)} layers and {len(self.heads)} heads are {self.weights.size} cells, and a "
                f"page holds {_MOST_CELLS}; choose a layer or a head, or a shorter sequence"
            )
        data, page = folder / "attention.json", folder / "attention.html"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(data, self.as_json())
            write_text_atomic(page, _html(self.chart()))
        except OSError as error:
            raise storage_error(error, folder) or error from None
        return data, page

    def as_json(self) -> dict[str, Any]:
        return {
            "labels": self.labels,
            "spans": self.spans.tolist(),
            "layers": self.layers,
            "heads": self.heads,
            "weights": np.round(self.weights.astype(float), 6).tolist(),
        }

    def chart(self) -> alt.Chart:
        """A Vega-Lite heat map with a menu each for the layer and the head (one of them, or the mean of all)."""
        side = int(np.clip(14 * len(self.labels), 300, 900))
        drawn = pictures.attention_map(self.labels, self.layers, self.heads, self.weights)
        return cast(alt.Chart, drawn.properties(width=side, height=side, title="Attention: each row sums to 1"))


def attention_map(vectors: Vectors, records: Records, layer: int | None, head: int | None) -> AttentionMap:
    """The map of the one record of `records`. Raises as Embedder.attention says."""
    (tokens,), (text,), (name,) = records.tokens, records.texts, records.names
    if len(tokens.ids) > vectors.width:
        raise DataError(f"text {name}: has {len(tokens.ids)} tokens, but this model attends to {vectors.width} at once; give a part of it")
    encoder = vectors.engine.encoder
    ids = encoder.with_special_tokens(tokens.ids)
    weights = vectors.engine.attentions(ids, vectors.framed(vectors.features(records, 0))).cpu().numpy().astype(np.float32)
    layers, heads = _pick(layer, weights.shape[0], "layer"), _pick(head, weights.shape[1], "head")
    spans = np.pad(tokens.spans, ((len(encoder.prefix), len(encoder.suffix)), (0, 0)), constant_values=-1)
    labels = [
        text[start:end] if end > start >= 0 else str(encoder.tokenizer.id_to_token(int(token)))
        for token, (start, end) in zip(ids, spans.tolist(), strict=True)
    ]
    return AttentionMap(weights[np.ix_(layers, heads)], labels, spans, layers, heads)


def _pick(number: int | None, of: int, what: str) -> list[int]:
    if number is None:
        return list(range(of))
    if not -of <= number < of:
        raise ConfigError(f"{what} {number}: this model has {of}; expected 0 to {of - 1}")
    return [number % of]


def _html(chart: alt.Chart) -> str:
    """One page that carries its libraries (vl-convert has them)."""
    import vl_convert

    return str(vl_convert.vegalite_to_html(chart.to_json(), bundle=True))
