"""Fitted models behind one face: (n,) or (n, C) scores, saved without pickle. Library by library; what is fitted when is `fitting`'s.

Legend: n rows, C classes or labels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import skops.io
import xgboost
from sklearn.pipeline import Pipeline

from biollm.classify.config import Task
from biollm.classify.metrics import FloatArray, IntArray
from biollm.classify.skops_file import dump_stable
from biollm.classify.targets import Targets
from biollm.core.errors import ArtifactError, first_line

Settings = dict[str, Any]
# What a head of ours may hold beyond what skops trusts by itself. A tree's node numbers are checked before it is asked anything.
_TRUSTED = ["sklearn.neural_network._stochastic_optimizers.AdamOptimizer", "sklearn.tree._tree.Tree"]

_CONSTANT = "constant_labels"


@dataclass(frozen=True)
class Examples:
    """Rows of a table. features: (n, columns); targets: what is true of them.

    bins: XGBoost's cut points of all rows of the table, where folds share them; they know features, no labels.
    """

    features: FloatArray
    targets: Targets
    bins: xgboost.QuantileDMatrix | None = None

    def take(self, rows: IntArray) -> Examples:
        return Examples(self.features[rows], self.targets.take(rows), self.bins)


class Model(Protocol):
    """A fitted model."""

    @property
    def suffix(self) -> str:
        """Of the file that `save` writes."""

    @property
    def gives_probabilities(self) -> bool:
        """Or distances from a border, which only a calibrator turns into probabilities."""

    @property
    def constant(self) -> FloatArray | None:
        """(C,) 0 or 1 for the labels that none or all of its train rows had (binary: (1,), of the positive class), NaN for the others."""

    def output(self, features: FloatArray) -> FloatArray:
        """(n,) of the positive class, a quantity or a rank score; (n, C) of classes or labels."""

    def save(self, path: Path) -> None: ...


@dataclass(frozen=True)
class SklearnModel:
    """One pipeline, or for labels one each; in place of a pipeline a number, where the train rows held one class only: its share."""

    parts: list[Pipeline | float]
    task: Task
    classes: int
    suffix: str = ".skops"

    @property
    def gives_probabilities(self) -> bool:
        return all(isinstance(part, float) or hasattr(part, "predict_proba") for part in self.parts)

    @property
    def constant(self) -> FloatArray | None:
        if self.task not in ("binary", "multilabel"):
            return None
        return np.array([part if isinstance(part, float) else np.nan for part in self.parts])

    def output(self, features: FloatArray) -> FloatArray:
        if self.task == "multilabel":
            return np.column_stack([self._of_two(part, features) for part in self.parts])
        part = self.parts[0]
        if self.task == "binary":
            return self._of_two(part, features)
        if self.task != "multiclass":
            assert isinstance(part, Pipeline)
            return np.asarray(part.predict(features), dtype=np.float64)
        table = np.zeros((len(features), self.classes))
        if isinstance(part, float):
            table[:, int(part)] = 1
            return table
        seen = part.classes_.astype(np.int64)
        if self.gives_probabilities:
            table[:, seen] = part.predict_proba(features)
        else:
            # A class that the train rows lack lies as far away as the farthest that they have.
            distance = part.decision_function(features)
            distance = np.column_stack([-distance, distance]) if distance.ndim == 1 else distance
            table[:] = distance.min(axis=1, keepdims=True)
            table[:, seen] = distance
        return table

    def _of_two(self, part: Pipeline | float, features: FloatArray) -> FloatArray:
        if isinstance(part, float):
            share = part if self.gives_probabilities else np.sign(part - 0.5)
            return np.full(len(features), float(share))
        if hasattr(part, "predict_proba"):
            return np.asarray(part.predict_proba(features)[:, 1], dtype=np.float64)
        return np.asarray(part.decision_function(features), dtype=np.float64)

    def save(self, path: Path) -> None:
        dump_stable(self.parts[0] if self.task != "multilabel" else self.parts, path)


def fit_sklearn(make: Any, train: Examples, classes: int) -> SklearnModel:
    """make(): an unfitted pipeline. Of a task with classes the train rows may lack some."""
    task, values = train.targets.task, train.targets.values
    columns = values.T if task == "multilabel" else [values]
    parts: list[Pipeline | float] = []
    for column in columns:
        if task in ("binary", "multilabel", "multiclass") and len(np.unique(column)) < 2:
            parts.append(float(column[0]))
        else:
            labels = column if task in ("regression", "ranking") else column.astype(np.int64)
            parts.append(make().fit(train.features, labels))
    return SklearnModel(parts, task, classes)


def load_sklearn(path: Path, task: Task, classes: int) -> SklearnModel:
    """Raises ArtifactError if the file is damaged or holds a type that no head of ours has."""
    try:
        loaded = skops.io.load(path, trusted=_TRUSTED)
    except Exception as error:
        raise ArtifactError(f"{path}: not a head that biollm wrote ({first_line(error)}); run the stage classify again") from error
    model = SklearnModel(loaded if task == "multilabel" else [loaded], task, classes)
    for part in model.parts:
        for tree in getattr(part[-1], "estimators_", []) if isinstance(part, Pipeline) else []:
            _check_tree(path, tree.tree_)
    return model


def _check_tree(path: Path, tree: Any) -> None:
    """scikit-learn walks a tree by these numbers without looking where they point."""
    nodes, place = tree.node_count, np.arange(tree.node_count)
    leaf = tree.children_left == -1
    inside = (tree.children_left > place) & (tree.children_left < nodes) & (tree.children_right > place) & (tree.children_right < nodes)
    known = (tree.feature >= 0) & (tree.feature < tree.n_features)
    if not (leaf | (inside & known)).all() or (tree.children_right[leaf] != -1).any():
        raise ArtifactError(f"{path}: a tree of this forest points outside itself; the file is damaged; run the stage classify again")


@dataclass(frozen=True)
class BoostedModel:
    """Gradient-boosted trees of XGBoost; `reduce` (standardised principal components) goes before them where the recipe asks for it.

    What is constant stands in the file itself, as an attribute of the booster: trees come near to 0 and 1, but not there.
    """

    booster: xgboost.Booster
    reduce: Pipeline | None = None
    suffix: str = ".ubj"
    gives_probabilities: bool = True

    def output(self, features: FloatArray) -> FloatArray:
        return np.asarray(self.booster.inplace_predict(self.reduced(features)), dtype=np.float64)

    @property
    def constant(self) -> FloatArray | None:
        told = self.booster.attr(_CONSTANT)
        return None if told is None else np.array([float(value) for value in told.split()])

    def reduced(self, features: FloatArray) -> FloatArray:
        return features if self.reduce is None else np.asarray(self.reduce.transform(features))

    @property
    def rounds(self) -> int:
        return int(self.booster.num_boosted_rounds())

    def save(self, path: Path) -> None:
        self.booster.save_model(path)
        if self.reduce is not None:
            dump_stable(self.reduce, path.with_suffix(".skops"))


def mark_constant(booster: xgboost.Booster, targets: Targets) -> xgboost.Booster:
    """The booster, which says from now on which of the labels that it was fitted to are the same for all rows (see `Model.constant`)."""
    if targets.task in ("binary", "multilabel"):
        member = targets.of_class()
        constant = np.where((member == member[0]).all(axis=0), member[0], np.nan)
        if not np.isnan(constant).all():
            booster.set_attr(**{_CONSTANT: " ".join(f"{value:g}" for value in constant)})
    return booster


def load_boosted(path: Path) -> BoostedModel:
    """Raises ArtifactError if the file is damaged."""
    try:
        model = BoostedModel(xgboost.Booster(model_file=path))
        reduce = path.with_suffix(".skops")
        return replace(model, reduce=skops.io.load(reduce, trusted=[])) if reduce.is_file() else model
    except Exception as error:
        raise ArtifactError(f"{path}: not a head that biollm wrote ({first_line(error)}); run the stage classify again") from error
