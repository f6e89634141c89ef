"""Which columns a head goes by: contributions to its output, mapped to names (k-mers where the columns are k-mers).

Trees: SHAP values, exact for trees (Lundberg et al., Nat. Mach. Intell. 2:56, 2020), by XGBoost itself or, of a forest, by shap.
Linear heads: coefficient times distance from the train mean, which is SHAP for a linear model with independent columns.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xgboost
from sklearn.pipeline import Pipeline

from biollm.classify.metrics import FloatArray
from biollm.classify.models import BoostedModel, SklearnModel

TOP_FEATURES = 20


def explain_trees(model: BoostedModel, features: FloatArray) -> FloatArray | None:
    """(n, columns) SHAP values in logits (regression: in units of the label), of several classes their mean absolute; None behind PCA."""
    if model.reduce is not None:
        return None
    found = np.asarray(model.booster.predict(xgboost.DMatrix(features), pred_contribs=True), dtype=np.float64)[..., :-1]
    return np.asarray(found if found.ndim == 2 else np.abs(found).mean(axis=1))


def explain_linear(model: SklearnModel, features: FloatArray) -> FloatArray | None:
    """(n, columns) contributions in the units of the score, of several classes or labels their mean absolute; None behind PCA."""
    parts = [scaler.transform(features) * row for scaler, estimator in _unmixed(model) for row in np.atleast_2d(estimator.coef_)]
    return _together(parts)


def explain_forest(model: SklearnModel, features: FloatArray) -> FloatArray | None:
    """(n, columns) SHAP values in probability (regression: in units of the label), of several classes or labels their mean absolute; None
    behind PCA."""
    from shap import TreeExplainer  # two seconds

    parts: list[FloatArray] = []
    for scaler, forest in _unmixed(model):
        found = TreeExplainer(forest).shap_values(scaler.transform(features))
        per_class = [found] if found.ndim == 2 else np.moveaxis(found, 2, 0)
        parts.extend(per_class[1:] if len(per_class) == 2 else per_class)  # what one of two gains the other loses
    return _together(parts)


def _unmixed(model: SklearnModel) -> list[tuple[Any, Any]]:
    """Scaler and estimator of each pipeline, where nothing between them mixes columns."""
    return [(part[0], part[1]) for part in model.parts if isinstance(part, Pipeline) and len(part) == 2]


def _together(parts: list[FloatArray]) -> FloatArray | None:
    if not parts:
        return None
    return np.asarray(parts[0] if len(parts) == 1 else np.abs(parts).mean(axis=0), dtype=np.float64)


def top_features(explained: FloatArray | None, names: list[str], features: FloatArray) -> list[dict[str, Any]]:
    """The columns that matter most: name, mean absolute contribution, and the sign of its correlation with the column's value (+1: more
    of it raises the output; 0: of several classes)."""
    if explained is None:
        return []
    weight = np.abs(explained).mean(axis=0)
    order = [int(i) for i in np.argsort(-weight, kind="stable")[:TOP_FEATURES] if weight[i] > 0]
    signed = bool((explained < 0).any())
    return [
        {"feature": names[i], "importance": float(weight[i]), "direction": _direction(features[:, i], explained[:, i]) if signed else 0}
        for i in order
    ]


def _direction(values: FloatArray, contributions: FloatArray) -> int:
    together = float(((values - values.mean()) * (contributions - contributions.mean())).sum())
    return int(np.sign(together))


def explained_rows(features: FloatArray, most: int) -> FloatArray:
    """At most so many rows, evenly spread."""
    return features[:: max(1, -(-len(features) // most))]
