"""First values for the rows of new tokens. Each function: (base rows, pieces per new token, generator) -> new rows.

Legend: V base tokens, N new tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

FloatMatrix = NDArray[np.float32]
InitName = Literal["mean", "normal"]


def init_mean(base_VD: FloatMatrix, pieces: list[list[int]], rng: np.random.Generator) -> FloatMatrix:
    """The mean of the base tokens that the new token's text had (Casanueva et al. 2020; the usual strong default).

    Tokens whose text the base splits alike get equal rows: DNA tokens often do, and training tells them apart.
    """
    return np.stack([base_VD[row].mean(axis=0, dtype=np.float64) for row in pieces]).astype(np.float32)


def init_normal(base_VD: FloatMatrix, pieces: list[list[int]], rng: np.random.Generator) -> FloatMatrix:
    """Draws from a normal distribution with the base table's mean and covariance (Hewitt 2021)."""
    mean = base_VD.mean(axis=0, dtype=np.float64)
    centred = base_VD - mean
    covariance = centred.T @ centred / len(base_VD)
    return rng.multivariate_normal(mean, covariance, size=len(pieces), method="eigh").astype(np.float32)


INITS: dict[InitName, Callable[[FloatMatrix, list[list[int]], np.random.Generator], FloatMatrix]] = {
    "mean": init_mean,
    "normal": init_normal,
}
