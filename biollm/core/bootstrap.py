"""How sure a ratio of sums is, when rows come in groups whose rows are not independent.

Groups are drawn with replacement, so that neighbours and relatives are drawn together.
Source: B. Efron, R. Tibshirani, An Introduction to the Bootstrap (1993), chapters 8 and 13.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
SAMPLES = 1000


def ratio_interval(parts: FloatArray, whole: FloatArray, groups: Sequence[str], rng: np.random.Generator) -> tuple[float, float] | None:
    """2.5 % and 97.5 % points of sum(parts) / sum(whole) over resampled groups; None for one group, which says nothing of others.

    parts, whole: (rows,), the latter not negative; groups that are nothing of the whole are left out.
    """
    names, group = np.unique(np.array(groups, dtype=np.str_), return_inverse=True)
    sums = np.stack([np.bincount(group, weights=values, minlength=len(names)) for values in (parts, whole)])
    sums = sums[:, sums[1] > 0]
    if (number := sums.shape[1]) < 2:
        return None
    drawn = (sums[:, rng.integers(0, number, number)].sum(axis=1) for _ in range(SAMPLES))
    low, high = np.quantile([above / below for above, below in drawn], [0.025, 0.975])
    return float(low), float(high)
