from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from biollm.core.errors import DataError
from biollm.modeling.pooling import POOLINGS, max_segments, overlap_weights, pool_mean, sum_segments, token_weights


def test_padding_and_special_tokens_never_contribute() -> None:
    hidden = torch.tensor([[[9.0], [1.0], [3.0], [9.0], [1e30]]])
    sums, totals = pool_mean(hidden, torch.tensor([[0, 1, 1, 0, 0]]))
    assert (sums / totals[:, None]).tolist() == [[2.0]]


def test_the_result_is_float32_whatever_the_model_computes_in() -> None:
    hidden = torch.ones(1, 3, 2, dtype=torch.bfloat16)
    sums, totals = pool_mean(hidden, torch.ones(1, 3, dtype=torch.long))
    assert (sums.dtype, totals.dtype, sums.tolist()) == (torch.float32, torch.float32, [[3.0, 3.0]])


def test_a_row_without_a_token_is_refused_by_its_number() -> None:
    with pytest.raises(DataError, match=r"row 1 of the batch has no token to average; is the sequence empty?"):
        pool_mean(torch.ones(2, 3, 4), torch.tensor([[1, 1, 1], [0, 0, 0]]))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_vector_that_is_not_finite_is_refused_by_its_row(number: float) -> None:
    hidden = torch.ones(3, 2, 2)
    hidden[2, 1, 0] = number
    with pytest.raises(DataError, match="row 2 of the batch has a vector that is not finite"):
        pool_mean(hidden, torch.ones(3, 2))


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
def test_overlap_weights_count_every_token_once(length: int, width: int, step: int) -> None:
    starts = list(range(0, length, min(step, width)))
    sums = torch.zeros(length)
    for start, weights in zip(starts, overlap_weights(length, starts, width), strict=True):
        assert len(weights) == min(width, length - start)
        sums[start : start + width] += weights
    torch.testing.assert_close(sums, torch.ones(length))


@pytest.mark.parametrize("pooling", [pooling for pooling in POOLINGS if pooling not in ("max", "cls")])
@given(length=st.integers(1, 40), width=st.integers(1, 40), step=st.integers(1, 40), place=st.integers(0, 39))
def test_windows_weigh_tokens_as_one_long_window_does(pooling: Any, length: int, width: int, step: int, place: int) -> None:
    starts = [0]
    while starts[-1] + width < length:
        starts.append(starts[-1] + min(step, width))
    shares = [share.numpy() for share in overlap_weights(length, starts, width)]
    whole = token_weights(pooling, [np.ones(length, dtype=np.float32)], [0], place % length)[0]
    together = np.zeros(length, dtype=np.float32)
    for start, weights in zip(starts, token_weights(pooling, shares, starts, place % length), strict=True):
        together[start : start + len(weights)] += weights
    np.testing.assert_allclose(together, whole, rtol=1e-5)


def test_segments_are_summed_and_maximised_over_tokens_that_weigh_something() -> None:
    hidden = torch.tensor([[9.0], [1.0], [3.0], [-4.0], [-2.0], [7.0]])
    weights = torch.tensor([0.0, 1.0, 0.5, 1.0, 1.0, 0.0])
    assert sum_segments(hidden, weights, torch.tensor([0, 0, 0, 1, 1, 1]), 2).tolist() == [[2.5], [-6.0]]
    assert max_segments(hidden, weights, torch.tensor([3, 3])).tolist() == [[3.0], [-2.0]]
