from __future__ import annotations

import numpy as np
import pytest

from biollm.modeling.inits import INITS, InitName, init_mean, init_normal

_BASE = np.random.default_rng(0).normal(2.0, 0.5, (400, 8)).astype(np.float32)


@pytest.mark.parametrize("name", INITS)
def test_new_rows_have_the_shape_of_the_table_and_are_finite(name: InitName) -> None:
    rows = INITS[name](_BASE, [[1, 2], [3], [5, 5, 6]], np.random.default_rng(1))
    assert rows.shape == (3, 8)
    assert rows.dtype == np.float32
    assert np.isfinite(rows).all()


@pytest.mark.parametrize("name", INITS)
def test_new_rows_repeat_with_the_seed_and_leave_the_table_alone(name: InitName) -> None:
    before = _BASE.copy()
    one, two = (INITS[name](_BASE, [[1], [2]], np.random.default_rng(1)) for _ in range(2))
    assert np.array_equal(one, two)
    assert np.array_equal(_BASE, before)


def test_mean_is_the_mean_of_the_pieces() -> None:
    rows = init_mean(_BASE, [[1, 2], [7]], np.random.default_rng(0))
    np.testing.assert_allclose(rows[0], (_BASE[1] + _BASE[2]) / 2, rtol=1e-6)
    assert np.array_equal(rows[1], _BASE[7])


def test_normal_has_the_mean_and_spread_of_the_table_and_rows_that_differ() -> None:
    rows = init_normal(_BASE, [[1]] * 2000, np.random.default_rng(0))
    np.testing.assert_allclose(rows.mean(axis=0), _BASE.mean(axis=0), atol=0.05)
    np.testing.assert_allclose(np.cov(rows.T), np.cov(_BASE.T), atol=0.05)
    assert len(np.unique(rows, axis=0)) == 2000
