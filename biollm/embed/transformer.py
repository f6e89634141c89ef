"""Embeddings as a step of a scikit-learn pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from biollm.core.alphabets import Modality
from biollm.core.errors import ConfigError, DataError
from biollm.embed.embedder import Embedder
from biollm.embed.settings import InputKind, LayerPooling, PoolingName, Precision, Strands, TracksMode
from biollm.modeling.pooling import FloatArray


class SequenceEmbedder(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """An Embedder as a scikit-learn transformer: strings in, (n, d) float32 out. Stateless but for the model, which `fit` loads.

    The parameters are those of Embedder. Nothing is learnt from the data, so that it cannot leak. X: a list, array or Series of strings, or
    a table or array with one column of them. A fused model computes its tracks; measured ones need Embedder.embed.

        make_pipeline(SequenceEmbedder("results/quickstart/pretrain"), LogisticRegression()).fit(sequences, labels)
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        pooling: PoolingName | Sequence[PoolingName] = "mean",
        layer: int | Sequence[int] = -1,
        layer_pooling: LayerPooling = "mean",
        window: int | None = None,
        stride: int | None = None,
        strands: Strands = "forward",
        centre_base: int | None = None,
        input: InputKind = "auto",
        modality: Modality | None = None,
        tracks: TracksMode = "auto",
        precision: Precision = "fp32",
        int8_min_cosine: float = 0.9999,
        tokens_per_batch: int = 4096,
    ) -> None:
        self.folder = folder
        self.pooling = pooling
        self.layer = layer
        self.layer_pooling = layer_pooling
        self.window = window
        self.stride = stride
        self.strands = strands
        self.centre_base = centre_base
        self.input = input
        self.modality = modality
        self.tracks = tracks
        self.precision = precision
        self.int8_min_cosine = int8_min_cosine
        self.tokens_per_batch = tokens_per_batch

    def fit(self, X: Any, y: Any = None) -> SequenceEmbedder:
        """Load the model, and check that X is strings. Raises as Embedder does, and DataError for anything but strings."""
        if self.folder is None:
            raise ConfigError("SequenceEmbedder: no folder; give the folder of a model, package:NAME/path, or a hub name")
        _strings(X)
        self._embedder: Embedder | None = self._load()
        self.n_features_in_ = 1
        return self

    @property
    def embedder_(self) -> Embedder:
        """The loaded model; a copy of a fitted transformer (pickled, or sent to another process) loads it again from its folder."""
        check_is_fitted(self)
        if self._embedder is None:
            self._embedder = self._load()
        return self._embedder

    def _load(self) -> Embedder:
        assert self.folder is not None
        return Embedder(self.folder, **{name: value for name, value in self.get_params(deep=False).items() if name != "folder"})

    def transform(self, X: Any) -> FloatArray:
        """(n, d) float32, row i of X[i]. Raises NotFittedError before `fit`, and as Embedder.embed does."""
        return self.embedder_.embed(_strings(X), show_progress=False)

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """embedding0, embedding1, …: (d,)."""
        return np.asarray([f"embedding{i}" for i in range(self.embedder_.dimension)], dtype=object)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        tags.input_tags.one_d_array = True
        tags.requires_fit = True
        tags.transformer_tags.preserves_dtype = []
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "n_features_in_")

    def __getstate__(self) -> dict[str, Any]:
        """Without the model's weights: they are in its folder."""
        state: dict[str, Any] = super().__getstate__()
        return state | {"_embedder": None}


def _strings(X: Any) -> list[str]:
    """One string a row. Raises DataError naming the first that is none."""
    if isinstance(X, str) or not hasattr(X, "__len__"):
        raise DataError(f"SequenceEmbedder reads a list of strings, but was given {type(X).__name__}; write [text]")
    values = np.asarray(X, dtype=object)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise DataError(f"SequenceEmbedder reads one string a row, but was given an array of shape {values.shape}; choose one column")
    if wrong := [(i, v) for i, v in enumerate(values) if not isinstance(v, str)]:
        raise DataError(f"row {wrong[0][0]} is {type(wrong[0][1]).__name__}, not a string")
    return [str(value) for value in values]
