"""Which columns a head goes by: contributions to its output, mapped to names (k-mers where the columns are k-mers).

Trees of XGBoost: SHAP values, exact for trees, by XGBoost itself (`pred_contribs`; Lundberg et al., Nat. Mach. Intell. 2:56, 2020).
Linear heads: coefficient times distance from the train mean, which is SHAP for a linear model with independent columns.
Random forest: mean decrease in impurity, measured on train rows; SHAP values of a forest would need the package `shap`, whose other
dependencies weigh more than this one picture is worth.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xgboost
from sklearn.pipeline import Pipeline

from biollm.classify.metrics import FloatArray
from biollm.classify.models import BoostedModel, SklearnModel

# Contributions are averaged over at most so many rows.
_ROWS = 500
TOP_FEATURES = 20


def explain_trees(model: BoostedModel, features: FloatArray) -> FloatArray | None:
    """(n, columns) SHAP values in logits (regression: in units of the label), of several classes their mean absolute; None behind PCA."""
    if model.reduce is not None:
        return None
    found = np.asarray(model.booster.predict(xgboost.DMatrix(features), pred_contribs=True), dtype=np.float64)[..., :-1]
    return np.asarray(found if found.ndim == 2 else np.abs(found).mean(axis=1))


def explain_linear(model: SklearnModel, features: FloatArray) -> FloatArray | None:
    """(n, columns) contributions in the units of the score, of several classes or labels their mean absolute; None behind PCA."""
    pipelines = [part for part in model.parts if isinstance(part, Pipeline)]
    if not pipelines or len(pipelines[0]) != 2:
        return None
    parts = []
    for scaler, estimator in (list(pipeline) for pipeline in pipelines):
        parts += [np.asarray(scaler.transform(features) * row, dtype=np.float64) for row in np.atleast_2d(estimator.coef_)]
    return np.asarray(parts[0] if len(parts) == 1 else np.abs(parts).mean(axis=0))


def explain_forest(model: SklearnModel, features: FloatArray) -> FloatArray | None:
    """(columns,) mean decrease in impurity; None behind PCA."""
    pipelines = [part for part in model.parts if isinstance(part, Pipeline)]
    if not pipelines or len(pipelines[0]) != 2:
        return None
    return np.asarray(np.mean([pipeline[-1].feature_importances_ for pipeline in pipelines], axis=0))


def top_features(explained: FloatArray | None, names: list[str], features: FloatArray) -> list[dict[str, Any]]:
    """The columns that matter most: name, mean absolute contribution (or importance), and the sign of its correlation with the column's
    value (+1: more of it raises the output; 0: not known, or of several classes)."""
    if explained is None:
        return []
    weight = np.abs(explained).mean(axis=0) if explained.ndim == 2 else explained
    order = [int(i) for i in np.argsort(-weight, kind="stable")[:TOP_FEATURES] if weight[i] > 0]
    signed = explained.ndim == 2 and bool((explained < 0).any())
    return [
        {"feature": names[i], "importance": float(weight[i]), "direction": _direction(features[:, i], explained[:, i]) if signed else 0}
        for i in order
    ]


def _direction(values: FloatArray, contributions: FloatArray) -> int:
    together = float(((values - values.mean()) * (contributions - contributions.mean())).sum())
    return int(np.sign(together))


def explained_rows(features: FloatArray) -> FloatArray:
    """At most 500 rows, evenly spread."""
    step = max(1, -(-len(features) // _ROWS))
    return features[::step]
