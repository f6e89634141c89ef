"""Fusion: per-token features of tracks enter a model beside its tokens.

A fused model is an ordinary Hugging Face model plus a small operator that adds to the token embeddings. The operator starts at
zero effect, and a token without track values has zero features, so the fused model equals the stock one bit for bit before
training, and for input without tracks ever after.

Legend: B records, T tokens, D model width, F features.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from biollm.core.errors import ConfigError, DataError
from biollm.core.files import read_sidecar, write_json
from biollm.modeling.tracks import FEATURES_PER_CHANNEL, FloatArray, TrackConfig, compute_track, token_features

SIDECAR = "fusion.json"
WEIGHTS = "fusion.safetensors"


class FusionSpec(BaseModel):
    """`fusion.json`: which channels a model was fused with, and how their values are standardised."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    operator: Literal["add"]
    channels: list[TrackConfig]
    mean: list[float]  # of the train split, per channel
    scale: list[float]
    hidden_size: int

    @property
    def channel_names(self) -> list[str]:
        return [channel.name for channel in self.channels]

    @property
    def width(self) -> int:
        """F, the number of features of a token."""
        return len(self.channels) * FEATURES_PER_CHANNEL

    def compute(self, sequence: str) -> list[FloatArray]:
        """The tracks of one sequence, one (L,) array per channel."""
        return [compute_track(channel, sequence) for channel in self.channels]

    def features(self, tracks: list[FloatArray], residues_per_token: np.ndarray[Any, np.dtype[np.int64]]) -> FloatArray:
        """(T, F) features of one record. Raises DataError if a track is not as long as the sequence."""
        length = int(residues_per_token.sum())
        for channel, track in zip(self.channels, tracks, strict=True):
            if len(track) != length:
                raise DataError(f"track '{channel.name}' has {len(track)} values, but the sequence has {length} residues; they must agree")
        return token_features(tracks, residues_per_token, np.asarray(self.mean, dtype=np.float32), np.asarray(self.scale, dtype=np.float32))


class AddFusion(nn.Module):
    """Operator `add`: embeddings + W features. W is zero at the start and there is no bias, so zero features never have an effect."""

    def __init__(self, features: int, hidden_size: int) -> None:
        super().__init__()
        self.project = nn.Linear(features, hidden_size, bias=False)
        nn.init.zeros_(self.project.weight)

    def forward(self, embeddings_BTD: Tensor, features_BTF: Tensor) -> Tensor:
        added: Tensor = self.project(features_BTF.to(self.project.weight.dtype))
        return embeddings_BTD + added.to(embeddings_BTD.dtype)


class FusedModel(nn.Module):
    """A Hugging Face model with or without a fusion operator: one interface for both.

    `stock` is the untouched Hugging Face model; the operator acts through a hook on its input embeddings, so every
    architecture that embeds `input_ids` works, and saving `stock` gives a stock folder.
    """

    def __init__(self, stock: nn.Module, spec: FusionSpec | None = None, operator: AddFusion | None = None) -> None:
        super().__init__()
        self.stock = stock
        self.spec = spec
        self.operator = operator or (AddFusion(spec.width, spec.hidden_size) if spec else None)
        self._features: Tensor | None = None
        stock.get_input_embeddings().register_forward_hook(self._fuse)  # type: ignore[operator]

    def forward(self, features: Tensor | None = None, **inputs: Any) -> Any:
        """The stock model's output. features: (B, T, F) or None for input without tracks."""
        if features is not None and self.operator is None:
            raise DataError("this model has no fusion, but was given tracks; leave them out, or give a model with fusion.json")
        self._features = features
        try:
            return self.stock(**inputs)
        finally:
            self._features = None

    def _fuse(self, module: nn.Module, args: Any, embeddings: Tensor) -> Tensor:
        if self._features is None or self.operator is None:
            return embeddings
        fused: Tensor = self.operator(embeddings, self._features)
        return fused


def save_fusion(folder: Path, model: FusedModel) -> None:
    """Write the sidecar of a fused model; nothing if the model has no fusion."""
    if model.spec is None or model.operator is None:
        return
    write_json(folder / SIDECAR, model.spec.model_dump())
    save_file({name: tensor.detach().float().contiguous() for name, tensor in model.operator.state_dict().items()}, str(folder / WEIGHTS))


def read_spec(folder: Path) -> FusionSpec | None:
    """What a model folder is fused with, or None. Raises ConfigError if the sidecar is damaged."""
    return read_sidecar(folder / SIDECAR, FusionSpec) if (folder / SIDECAR).is_file() else None


def attach_fusion(stock: nn.Module, folder: Path) -> FusedModel:
    """A stock model as a FusedModel, with the fusion of `folder` if that has one.

    Raises ConfigError if the sidecar does not fit the model.
    """
    spec = read_spec(folder)
    if spec is None:
        return FusedModel(stock)
    width = stock.get_input_embeddings().weight.shape[1]  # type: ignore[operator]
    if spec.hidden_size != width:
        raise ConfigError(f"{folder / SIDECAR}: fused for models of width {spec.hidden_size}, but this model has {width}")
    model = FusedModel(stock, spec)
    assert model.operator is not None
    try:
        model.operator.load_state_dict({name: tensor.to(torch.float32) for name, tensor in load_file(str(folder / WEIGHTS)).items()})
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ConfigError(f"{folder / WEIGHTS}: damaged, or not of {SIDECAR} beside it; make the folder again") from error
    return model
