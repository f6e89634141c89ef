"""The model of a folder as a reader of tokens: rows of ids in, vectors of their tokens out.

Rows are read side by side without padding where the model can (modeling.documents), padded otherwise. Legend: N tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from biollm.core.errors import ConfigError
from biollm.embed.settings import Settings
from biollm.modeling.adapters import inner, is_adapter, virtual_tokens
from biollm.modeling.documents import Documents, position_ids, position_offset, reads_documents, set_documents, use_documents
from biollm.modeling.encoding import Encoder, IntArray, pad, pad_features
from biollm.modeling.fusion import FusedModel
from biollm.modeling.loading import load_model, token_capacity
from biollm.modeling.pooling import FloatArray
from biollm.modeling.precision import draw_sample, set_precision

# Lengths of the rows on which a model is tried; the long one is longer than local attention reaches in models that have it.
_PROBE_TOKENS = (5, 9, 9, 3, 160)


class Engine:
    """A loaded model. `why_padded` says why rows are padded, None if they are not; `fidelity` what a lower precision costs."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        """Raises ConfigError if the folder is not a loadable model, or has no such layer."""
        self.encoder = Encoder(folder, settings.modality)
        loaded = load_model(folder)
        if virtual_tokens(loaded.stock):
            raise ConfigError(f"{folder}: an adapter of prompt tokens, which are no model to embed with; give a LoRA, DoRA or IA3 adapter")
        self.stock = _body(loaded.stock)
        self.spec = loaded.spec
        self._model = FusedModel(self.stock, loaded.spec, loaded.operator).eval() if self.stock is not loaded.stock else loaded
        self.config: Any = self.stock.config
        self._layers, self._layer_pooling = _checked_layers(settings.layers, self.config), settings.layer_pooling
        self.capacity = token_capacity(folder, self.config) - len(self.encoder.prefix) - len(self.encoder.suffix)
        # asked before the precision is set: lower ones round more than this may differ
        self.why_padded = reads_documents(self.stock, self._probe())
        sample = draw_sample(self.encoder.ordinary_ids, self.encoder.with_special_tokens, self.capacity)
        self.precision, self.fidelity = set_precision(
            self.stock, settings.precision, sample, settings.int8_min_cosine, keep_modules=is_adapter(folder)
        )
        if self.why_padded is None:
            use_documents(self.stock)

    @property
    def dimension(self) -> int:
        """D, the width of a token's vector."""
        width = int(getattr(self.config, "d_model", None) or self.config.hidden_size)
        return width * (len(self._layers) if self._layer_pooling == "concat" else 1)

    def hidden(self, rows: Sequence[IntArray], features: Sequence[FloatArray] | None = None) -> Tensor:
        """Vectors of the tokens of some rows, side by side: (N, D), N their tokens together. rows: ids with special tokens."""
        with torch.inference_mode():
            return self._packed(rows, features) if self.why_padded is None else self._padded(rows, features)

    @contextmanager
    def eager(self) -> Iterator[None]:
        """Within it, attention is computed so that its weights can be looked at."""
        before = self.config._attn_implementation
        self.stock.set_attn_implementation("eager")  # type: ignore[operator]
        try:
            yield
        finally:
            self.stock.set_attn_implementation(before)  # type: ignore[operator]

    def attentions(self, row: IntArray, features: FloatArray | None) -> Tensor:
        """(layers, heads, T, T) attention weights of one row. Raises ConfigError for a model that does not tell them."""
        with self.eager(), torch.inference_mode():
            ids = torch.from_numpy(row)[None].to(self._device)
            extra = torch.from_numpy(features)[None].to(self._device) if features is not None else None
            output = self._model(features=extra, input_ids=ids, attention_mask=torch.ones_like(ids), output_attentions=True)
        found = getattr(output, "attentions", None)
        if not found or any(layer is None for layer in found):
            raise ConfigError(f"{type(self.stock).__name__}: does not tell its attention weights")
        return torch.stack([layer[0].float() for layer in found])

    @property
    def is_causal(self) -> bool:
        """Whether tokens see only what stands before them, found by changing the last token of a row."""
        row, other = self._probe()[1], self._probe()[1].copy()
        place = len(row) - 1 - len(self.encoder.suffix)
        other[place] = next(i for i in self.encoder.ordinary_ids if i != other[place])
        changed = self.hidden([row])[0] - self.hidden([other])[0]
        return bool(changed.abs().max() == 0)

    @property
    def _device(self) -> torch.device:
        return next(self.stock.parameters()).device

    def _probe(self) -> list[IntArray]:
        ordinary = self.encoder.ordinary_ids
        spread = ordinary[np.linspace(0, len(ordinary) - 1, max(_PROBE_TOKENS)).astype(np.int64)]
        return [self.encoder.with_special_tokens(spread[-min(number, self.capacity) :]) for number in _PROBE_TOKENS]

    def _packed(self, rows: Sequence[IntArray], features: Sequence[FloatArray] | None) -> Tensor:
        lengths = [len(row) for row in rows]
        set_documents(Documents(tuple(lengths)))
        inputs: dict[str, Any] = {
            "input_ids": torch.from_numpy(np.concatenate(rows))[None].to(self._device),
            "position_ids": torch.from_numpy(position_ids(lengths, position_offset(self.config)))[None].to(self._device),
        }
        if features is not None:
            inputs["features"] = torch.from_numpy(np.concatenate(features))[None].to(self._device)
            inputs["documents"] = torch.from_numpy(np.repeat(np.arange(len(rows)), lengths))[None].to(self._device)
        return self._chosen(self._model(**inputs, output_hidden_states=self._looks_inside))[0]

    def _padded(self, rows: Sequence[IntArray], features: Sequence[FloatArray] | None) -> Tensor:
        ids, mask = pad(rows, self.encoder.pad_id or 0)
        real = torch.from_numpy(mask).to(self._device)
        inputs: dict[str, Any] = {"input_ids": torch.from_numpy(ids).to(self._device), "attention_mask": real}
        if features is not None:
            inputs["features"] = torch.from_numpy(pad_features(features, ids.shape[1])).to(self._device)
        hidden = self._chosen(self._model(**inputs, output_hidden_states=self._looks_inside))
        return hidden[real.bool()]

    @property
    def _looks_inside(self) -> bool:
        return self._layers != [_depth(self.config)]

    def _chosen(self, output: Any) -> Tensor:
        """(…, D) of the layers that were asked for."""
        if not self._looks_inside:
            last: Tensor = output.last_hidden_state
            return last
        depth = _depth(self.config)
        chosen = [output.last_hidden_state if layer == depth else output.hidden_states[layer] for layer in self._layers]
        return torch.stack(chosen).float().mean(dim=0) if self._layer_pooling == "mean" else torch.cat(chosen, dim=-1)


def _body(stock: nn.Module) -> nn.Module:
    """What reads tokens: the model under adapters and heads; of an encoder-decoder, its encoder."""
    body: Any = inner(stock).base_model
    return body.get_encoder() if body.config.is_encoder_decoder else body  # type: ignore[no-any-return]


def _depth(config: Any) -> int:
    """The number of layers of a body."""
    return int(getattr(config, "encoder_layers", None) or getattr(config, "num_hidden_layers", None) or config.num_layers)


def _checked_layers(layers: Sequence[int], config: Any) -> list[int]:
    """Layers by their number from 0 (the token embeddings) to the depth. Raises ConfigError naming one that does not exist."""
    depth = _depth(config)
    if wrong := [layer for layer in layers if not -depth - 1 <= layer <= depth]:
        raise ConfigError(
            f"layer {wrong[0]}: this model has {depth} layers; expected 0 (token embeddings) to {depth}, or -1 (last) to {-depth - 1}"
        )
    return [layer if layer >= 0 else depth + 1 + layer for layer in layers]
