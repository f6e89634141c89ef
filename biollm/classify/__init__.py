"""Heads on embeddings beside baselines.

    from biollm.classify import HeadClassifier, load_head
    head = HeadClassifier("xgboost", calibration="isotonic").fit(X, y, groups=groups)
    saved = load_head("results/quickstart/classify/heads/pretrain_logistic")

Importing this package loads nothing; scikit-learn and XGBoost load when a name is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from biollm.classify.boosting import cross_validate_trees
    from biollm.classify.estimators import HeadClassifier, HeadRanker, HeadRegressor
    from biollm.classify.features import Inputs
    from biollm.classify.heads import HEADS
    from biollm.classify.saved import SavedHead, load_head

_WHERE = {
    "HEADS": "heads",
    "HeadClassifier": "estimators",
    "HeadRanker": "estimators",
    "HeadRegressor": "estimators",
    "Inputs": "features",
    "SavedHead": "saved",
    "cross_validate_trees": "boosting",
    "load_head": "saved",
}
__all__ = ["HEADS", "HeadClassifier", "HeadRanker", "HeadRegressor", "Inputs", "SavedHead", "cross_validate_trees", "load_head"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'biollm.classify' has no attribute '{name}'; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(f"biollm.classify.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
