"""Classifiers on a feature table: fitted on train rows, tuned on validation rows, saved without pickle.

A new head is one class with `fit`, `choice`, `score` and `save`, and one entry in HEADS.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
import xgboost
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from biollm.classify.config import HeadName
from biollm.classify.metrics import BoolArray, FloatArray, measure_once
from biollm.classify.skops_file import dump_stable

# Strongest regularisation first: from almost a constant to almost free.
_C_GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
_MAX_ITERATIONS = 2000
_MAX_ROUNDS = 1000
_PATIENCE_ROUNDS = 30
_TREES = {"max_depth": 4, "eta": 0.1, "subsample": 0.8, "colsample_bytree": 0.5}


@dataclass(frozen=True)
class Examples:
    """Rows of one split. features: (rows, columns); positive: (rows,)."""

    features: FloatArray
    positive: BoolArray


class Head(Protocol):
    """A fitted classifier."""

    suffix: ClassVar[str]  # of the file that `save` writes

    @property
    def choice(self) -> str:
        """What was chosen on the validation rows, for people."""

    def score(self, features: FloatArray) -> FloatArray:
        """Probability of the positive class, (rows,)."""

    def save(self, path: Path) -> None: ...


@dataclass(frozen=True)
class LogisticHead:
    """Standardised logistic regression; the regularisation is the one with the best validation AUROC."""

    pipeline: Pipeline
    C: float
    suffix: ClassVar[str] = ".skops"

    @classmethod
    def fit(cls, train: Examples, validation: Examples, seed: int) -> LogisticHead:
        """`seed` is not used: the solver (L-BFGS) makes no random choice. Of equally good C the strongest regularisation wins."""
        fitted = [cls(_fit_pipeline(train, C), C) for C in _C_GRID]
        aurocs = [measure_once(validation.positive, head.score(validation.features))[0] for head in fitted]
        return fitted[int(np.argmax(aurocs))]

    @property
    def choice(self) -> str:
        return f"C = {self.C:g}"

    def score(self, features: FloatArray) -> FloatArray:
        return np.asarray(self.pipeline.predict_proba(features)[:, 1], dtype=np.float64)

    def save(self, path: Path) -> None:
        dump_stable(self.pipeline, path)


@dataclass(frozen=True)
class XGBoostHead:
    """Gradient-boosted trees, cut where the validation loss was lowest, so that the saved file scores as this object does."""

    booster: xgboost.Booster
    suffix: ClassVar[str] = ".ubj"

    @classmethod
    def fit(cls, train: Examples, validation: Examples, seed: int) -> XGBoostHead:
        """Rounds are chosen by log loss: on a few hundred validation rows AUROC jumps from round to round."""
        parameters = {
            **_TREES,
            "objective": "binary:logistic",
            "eval_metric": "logloss",
            "tree_method": "hist",
            "seed": seed % 2**31,
            "nthread": _threads(),
        }
        booster = xgboost.train(
            parameters,
            xgboost.DMatrix(train.features, train.positive),
            num_boost_round=_MAX_ROUNDS,
            evals=[(xgboost.DMatrix(validation.features, validation.positive), "validation")],
            early_stopping_rounds=_PATIENCE_ROUNDS,
            verbose_eval=False,
        )
        return cls(booster[: booster.best_iteration + 1])

    @property
    def choice(self) -> str:
        return f"{self.booster.num_boosted_rounds()} trees"

    def score(self, features: FloatArray) -> FloatArray:
        return np.asarray(self.booster.predict(xgboost.DMatrix(features)), dtype=np.float64)

    def save(self, path: Path) -> None:
        self.booster.save_model(path)


HEADS: dict[HeadName, type[LogisticHead] | type[XGBoostHead]] = {"logistic": LogisticHead, "xgboost": XGBoostHead}
HEAD_TITLES: dict[HeadName, str] = {"logistic": "logistic", "xgboost": "XGBoost"}


def _fit_pipeline(train: Examples, C: float) -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=_MAX_ITERATIONS)).fit(train.features, train.positive)


def _threads() -> int:
    """The thread count that the run was given; it decides the last bits of the histogram sums."""
    return int(os.environ.get("OMP_NUM_THREADS", "1"))
