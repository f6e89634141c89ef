"""biollm adapts a pretrained language model to a biological domain, and proves that it helped.

    from biollm import Embedder
    vectors = Embedder("results/quickstart/pretrain").embed(["ACGTACGTACGTACGT"])

Importing biollm loads neither torch nor transformers; they load when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from biollm.embed.embedder import Embedder
    from biollm.embed.transformer import SequenceEmbedder
    from biollm.modeling.loading import load_model
    from biollm.predictor import Predictor
    from biollm.stages import Run

__version__ = "0.1.0"
__all__ = ["Embedder", "Predictor", "Run", "SequenceEmbedder", "__version__", "load_model"]

_WHERE = {
    "Embedder": "biollm.embed.embedder",
    "SequenceEmbedder": "biollm.embed.transformer",
    "load_model": "biollm.modeling.loading",
    "Predictor": "biollm.predictor",
    "Run": "biollm.stages",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'biollm' has no attribute '{name}'; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
