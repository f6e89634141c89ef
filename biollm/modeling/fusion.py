"""Fusion: per-token features of tracks enter a model beside its tokens.

A fused model is an ordinary Hugging Face model plus a small operator on its token embeddings. The operator starts at zero effect, and a
token without track values has zero features, so the fused model equals the stock one bit for bit before training, and for input without
tracks ever after.

Legend: B records, T tokens, D model width, F features.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from biollm.core.errors import ConfigError, DataError
from biollm.core.files import canonical_json, read_sidecar, write_json
from biollm.core.resources import FUSION_FILE
from biollm.modeling.channels import FusionSpec
from biollm.modeling.operators import Fusion
from biollm.modeling.shards import read_header

WEIGHTS = "fusion.safetensors"
# In the metadata of the weights: names of channels in the order of their rows, and on a second line the digest of the spec that they were
# trained on. One entry, since safetensors writes several in an order that differs from run to run.
_CHANNELS = "channels"
_SAMPLES, _SAMPLE_BYTES = 16, 1024


class FusedModel(nn.Module):
    """A Hugging Face model with or without fusion: one interface for both.

    `stock` is the untouched Hugging Face model; the operator acts through a hook on its input embeddings (an encoder-decoder's
    encoder's), so every architecture that embeds `input_ids` works, and saving `stock` gives a stock folder.
    """

    def __init__(self, stock: nn.Module, spec: FusionSpec | None = None, operator: Fusion | None = None) -> None:
        super().__init__()
        self.stock = stock
        self.spec = spec
        self.operator = operator or (Fusion(spec) if spec else None)
        self._features: Tensor | None = None
        self._documents: Tensor | None = None
        _embeddings_of(stock).register_forward_hook(self._fuse)

    def forward(self, features: Tensor | None = None, documents: Tensor | None = None, **inputs: Any) -> Any:
        """The stock model's output.

        features: (B, T, F), or None for input without tracks; documents: (B, T), the number of each token's document, where a row holds
        several. Raises DataError if the model has no fusion, or other features.
        """
        if features is not None:
            self._check(features)
        self._features, self._documents = features, documents
        try:
            output = self.stock(**inputs)
            if self._features is not None:
                raise DataError(
                    f"tracks were given, but the model embedded no tokens: it was given {', '.join(inputs)}; give it input_ids, "
                    "beside which tracks enter, or leave the tracks out"
                )
            return output
        finally:
            self._features = self._documents = None

    def learn_to_impute(self) -> None:
        """Make it one that predicts hidden track values. Raises ConfigError if it has no fusion."""
        if self.spec is None or self.operator is None:
            raise ConfigError("only a model with fusion predicts track values; add expand.fusion, or set pretrain.tracks.weight to 0")
        width = _width_read(self.stock)
        self.spec = self.spec.model_copy(update={"imputes": True, "read_size": width if width != self.spec.hidden_size else None})
        self.operator.learn_to_impute(self.spec)

    def stop_imputing(self) -> None:
        """Make it one that does not predict hidden track values: what it knew of them gets stale where it learns on without them."""
        if self.spec is not None and self.operator is not None:
            self.spec = self.spec.model_copy(update={"imputes": False, "read_size": None})
            self.operator.head = None

    def _check(self, features: Tensor) -> None:
        if self.operator is None or self.spec is None:
            raise DataError("this model has no fusion, but was given tracks; leave them out, or give a model with fusion.json")
        if features.shape[-1] != self.spec.width:
            raise DataError(
                f"this model reads {self.spec.width} track features a token ({', '.join(self.spec.channel_names)}), "
                f"but was given {features.shape[-1]}; make them with its own spec"
            )

    def _fuse(self, module: nn.Module, args: Any, embeddings: Tensor) -> Tensor:
        if self._features is None or self.operator is None:
            return embeddings
        features, self._features = self._features, None  # once a pass: a decoder may share the table, and reads other tokens
        if features.shape[:2] != embeddings.shape[:2]:
            raise DataError(
                f"tracks have features of {tuple(features.shape[:2])} (records, tokens), but the model was given "
                f"{tuple(embeddings.shape[:2])}; give (records, tokens, {features.shape[-1]})"
            )
        fused: Tensor = self.operator(embeddings, features, self._documents)
        return fused


def _embeddings_of(stock: nn.Module) -> nn.Module:
    """The module whose output stands for the tokens that the model reads."""
    config: Any = stock.config
    reader: Any = stock.get_encoder() if config.is_encoder_decoder else stock  # type: ignore[operator]
    found: nn.Module = reader.get_input_embeddings()
    return found


def _width_read(stock: nn.Module) -> int:
    """D of what a track head reads: the hidden states below a model's own head, an encoder-decoder's encoder's."""
    below: Any = stock.get_encoder() if stock.config.is_encoder_decoder else stock.base_model  # type: ignore[operator,union-attr]
    device = next(below.parameters()).device
    with torch.no_grad():
        hidden: Tensor = below(input_ids=torch.zeros(1, 1, dtype=torch.long, device=device)).last_hidden_state
    return hidden.shape[-1]


def _spec_digest(spec: FusionSpec) -> str:
    """SHA-256 of a spec but for the base it belongs to, which has its own."""
    return hashlib.sha256(canonical_json(spec.model_dump(mode="json", exclude_defaults=True, exclude={"base_sha256"})).encode()).hexdigest()


def weights_fingerprint(folder: Path) -> str:
    """SHA-256 of the names, formats, shapes and samples of all weights of a folder: what fusion weights belong to.

    Of each tensor as it is stored sixteen kilobytes, evenly spread: training changes weights all over, and reading whole files would take
    as long as loading them.
    """
    digest = hashlib.sha256()
    stored = [tensor for file in folder.glob("*.safetensors") if file.name != WEIGHTS for tensor in read_header(file).tensors]
    for tensor in sorted(stored, key=lambda tensor: tensor.key):
        digest.update(f"{tensor.key} {tensor.dtype} {tensor.shape}\n".encode())
        with tensor.file.open("rb") as file:
            for begin in sorted({int(at) for at in np.linspace(tensor.begin, max(tensor.begin, tensor.end - _SAMPLE_BYTES), _SAMPLES)}):
                file.seek(begin)
                digest.update(file.read(min(_SAMPLE_BYTES, tensor.end - begin)))
    return digest.hexdigest()


def save_fusion(folder: Path, model: FusedModel, *, of_adapter: bool = False) -> None:
    """Write the sidecar of a fused model beside its weights; nothing if the model has no fusion. of_adapter: the base lies elsewhere, and
    is checked there."""
    if model.spec is None or model.operator is None:
        return
    spec = model.spec.model_copy(update={"base_sha256": None if of_adapter else weights_fingerprint(folder)})
    write_json(folder / FUSION_FILE, spec.model_dump())
    weights = {name: tensor.detach().float().contiguous() for name, tensor in model.operator.state_dict().items()}
    save_file(weights, str(folder / WEIGHTS), {_CHANNELS: f"{', '.join(spec.channel_names)}\n{_spec_digest(spec)}"})


def read_spec(folder: Path) -> FusionSpec | None:
    """What a model folder is fused with, or None. Raises ConfigError if the sidecar is damaged."""
    if (folder / FUSION_FILE).is_file():
        return read_sidecar(folder / FUSION_FILE, FusionSpec)
    if (folder / WEIGHTS).is_file():
        raise ConfigError(f"{folder / FUSION_FILE}: is missing beside {WEIGHTS}; put it back, or take both away to go without tracks")
    return None


def attach_fusion(stock: nn.Module, folder: Path) -> FusedModel:
    """A stock model as a FusedModel, with the fusion of `folder` if that has one.

    Raises ConfigError if the sidecar is damaged, or not of this model.
    """
    spec = read_spec(folder)
    if spec is None:
        return FusedModel(stock)
    width = _embeddings_of(stock).weight.shape[1]  # type: ignore[index]
    if spec.hidden_size != width:
        raise ConfigError(f"{folder / FUSION_FILE}: fused for models of width {spec.hidden_size}, but this model has {width}")
    if spec.base_sha256 is not None and spec.base_sha256 != (found := weights_fingerprint(folder)):
        raise ConfigError(
            f"{folder / FUSION_FILE}: belongs to weights with the fingerprint {spec.base_sha256[:12]}, but those of this folder have "
            f"{found[:12]}; put the weights back that it was saved with, or take {FUSION_FILE} and {WEIGHTS} away"
        )
    model = FusedModel(stock, spec)
    assert model.operator is not None
    try:
        with safe_open(str(folder / WEIGHTS), "pt") as weights:
            trained_on, _, digest = (weights.metadata() or {}).get(_CHANNELS, "").partition("\n")  # nothing: written by something else
            model.operator.load_state_dict({name: weights.get_tensor(name).to(torch.float32) for name in weights.keys()})  # noqa: SIM118
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ConfigError(f"{folder / WEIGHTS}: damaged, or not of {FUSION_FILE} beside it; make the folder again") from error
    if trained_on not in ("", named := ", ".join(spec.channel_names)):
        raise ConfigError(
            f"{folder / FUSION_FILE}: names the channels {named}, but {WEIGHTS} was trained on {trained_on}; put back the right one"
        )
    if digest not in ("", _spec_digest(spec)):
        raise ConfigError(
            f"{folder / FUSION_FILE}: was changed after {WEIGHTS} was trained beside it (statistics, strand or values of a channel); put "
            "back the one that was written with the weights"
        )
    return model
