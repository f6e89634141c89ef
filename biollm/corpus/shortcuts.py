"""Does something that is no biology predict the label: the id, the length, the composition alone?

Tiny models, five folds, the AUROC of the predictions for rows not trained on, and its interval. Chance is 0.5 whatever the class balance.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from biollm.core.machine import one_blas_thread
from biollm.core.seeding import generator
from biollm.corpus.similarity import Encoded, FloatArray, IntArray

FOLDS = 5
MOST_CLASSES = 20
_FEWEST_ROWS_OF_A_CLASS = 20
_MOST_ROWS = 20_000
_MOST_TOKENS = 50
_DIGITS = re.compile(r"\d+")
_PARTS = re.compile(r"[A-Za-z]+|\d+")


@dataclass(frozen=True)
class Prediction:
    """How well some features predict a label out of fold: AUROC (mean over classes), its 95 % interval, and the feature that says most."""

    auroc: float
    low: float
    high: float
    by: str
    rows: int


@dataclass(frozen=True)
class Features:
    values: FloatArray
    names: list[str]


def classes_of(labels: pl.Series) -> tuple[IntArray, list[str]]:
    """Each row's class (-1 = missing) and the names of the classes. Numbers with more than 20 values are cut at their median."""
    present = labels.drop_nulls()
    values = present.unique()
    if labels.dtype.is_numeric() and len(values) > MOST_CLASSES:
        middle = float(present.cast(pl.Float64).median())  # type: ignore[arg-type]  # there is one: values are present
        above = (labels.cast(pl.Float64) > middle).cast(pl.Int64).fill_null(-1)
        return above.to_numpy(), [f"<= {middle:g}", f"> {middle:g}"]
    names = sorted({str(value) for value in values.to_list()})
    number = {name: i for i, name in enumerate(names)}
    return np.array([-1 if value is None else number[str(value)] for value in labels.to_list()], dtype=np.int64), names


def draw(rows: IntArray) -> IntArray:
    """At most 20,000 of the rows, in their order, by a fixed seed: enough for a tiny model, and the audit of a large table stays quick."""
    return rows if len(rows) <= _MOST_ROWS else np.sort(generator(0, "audit").choice(rows, _MOST_ROWS, replace=False))


def predict(features: Features, classes: IntArray, linear: bool) -> Prediction | None:
    """How well a tree of depth 4 (or, if `linear`, a logistic regression) finds the class. None if there is too little to ask.

    classes: (rows,), -1 = not known. Asked of classes with at least 20 rows.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.tree import DecisionTreeClassifier

    varied = np.flatnonzero(features.values.max(axis=0, initial=-np.inf) > features.values.min(axis=0, initial=np.inf))
    asked = [c for c, n in Counter(classes[classes >= 0].tolist()).items() if n >= _FEWEST_ROWS_OF_A_CLASS]
    rows = np.flatnonzero(np.isin(classes, asked))
    if len(varied) == 0 or not 2 <= len(asked) <= MOST_CLASSES:
        return None
    x, y = features.values[rows][:, varied], classes[rows]
    tree = DecisionTreeClassifier(max_depth=4, min_samples_leaf=max(5, len(rows) // 200), random_state=0)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200)) if linear else tree
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    with one_blas_thread():
        scores = cross_val_predict(model, x, y, cv=folds, method="predict_proba")
    aurocs, errors = [], []
    for column, which in enumerate(sorted(set(y.tolist()))):
        auroc = float(roc_auc_score(y == which, scores[:, column]))
        aurocs.append(auroc)
        errors.append(_standard_error(auroc, int((y == which).sum()), int((y != which).sum())))
    mean, margin = float(np.mean(aurocs)), 1.96 * float(np.mean(errors))
    best = int(np.argmax(tree.fit(x, y).feature_importances_))
    return Prediction(mean, max(0.0, mean - margin), min(1.0, mean + margin), features.names[varied[best]], len(rows))


def header_features(headers: list[str]) -> Features:
    """Of each header: its words (those that several share), its first and last number, its length."""
    parts = [_PARTS.findall(header) for header in headers]
    words = Counter(word for found in parts for word in {part for part in found if not part[0].isdigit()})
    # The run number in "SRR123.7" is a name too: a first number that many rows share.
    words.update(Counter(word for found in parts for word in {part for part in found if part[0].isdigit()}))
    fewest = max(5, len(headers) // 100)
    common = [word for word, count in sorted(words.items(), key=lambda item: (-item[1], item[0])) if fewest <= count < len(headers)]
    column = {word: i for i, word in enumerate(common[:_MOST_TOKENS])}
    values = np.zeros((len(headers), len(column) + 3))
    for row, (header, found) in enumerate(zip(headers, parts, strict=True)):
        for part in found:
            if part in column:
                values[row, column[part]] = 1
        numbers = [float(number[:15]) for number in _DIGITS.findall(header)]
        values[row, -3:] = numbers[0] if numbers else -1, numbers[-1] if numbers else -1, len(header)
    return Features(values, [*(f"'{word}' in it" for word in column), "the first number in it", "the last number in it", "how long it is"])


def length_features(encoded: Encoded) -> Features:
    lengths = (encoded.offsets[1:] - encoded.offsets[:-1]).astype(np.float64)
    return Features(lengths[:, None], ["the length of the sequence"])


def composition_features(encoded: Encoded, letters: str) -> Features:
    """Share of each symbol in each row. Bases: also of each pair of neighbours."""
    rows = np.repeat(np.arange(len(encoded)), encoded.offsets[1:] - encoded.offsets[:-1])
    known = encoded.symbols != encoded.unknown
    values = _shares(rows[known], encoded.symbols[known].astype(np.int64), len(encoded), encoded.alphabet_size)
    if not encoded.nucleotides:
        used = np.flatnonzero(values.any(axis=0))
        return Features(values[:, used], [f"the share of {chr(symbol)}" for symbol in used])
    inside = known[1:] & known[:-1] & (rows[1:] == rows[:-1])
    pairs = 4 * encoded.symbols[:-1].astype(np.int64) + encoded.symbols[1:]
    both = _shares(rows[1:][inside], pairs[inside], len(encoded), 16)
    names = [f"the share of {one}" for one in letters] + [f"the share of {one}{two}" for one in letters for two in letters]
    return Features(np.hstack([values[:, :4], both]), names)


def _shares(rows: NDArray[np.int64], symbols: NDArray[np.int64], number: int, size: int) -> FloatArray:
    counts = np.bincount(rows * size + symbols, minlength=number * size).reshape(number, size).astype(np.float64)
    shares: FloatArray = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    return shares


def _standard_error(auroc: float, positives: int, negatives: int) -> float:
    """Of an AUROC: Hanley and McNeil, Radiology 1982."""
    q1, q2 = auroc / (2 - auroc), 2 * auroc**2 / (1 + auroc)
    variance = auroc * (1 - auroc) + (positives - 1) * (q1 - auroc**2) + (negatives - 1) * (q2 - auroc**2)
    return float(np.sqrt(max(variance, 1e-9) / (positives * negatives)))
