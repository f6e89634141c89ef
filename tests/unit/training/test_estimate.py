"""Estimates grow and shrink with what decides them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from biollm.modeling.loading import load_config
from biollm.training.config import TrainingConfig
from biollm.training.estimate import Shape, memory_bytes, operations

MEDIUM = Shape(parameters=10**8, table=3 * 10**7, layers=12, width=768, vocabulary=40_000)


def config(**values: Any) -> TrainingConfig:
    return TrainingConfig(**{"steps": 10, "learning_rate": 1e-3, "batch_size": 8} | values)


def test_model_states_take_sixteen_bytes_a_parameter_and_zero_shares_them_out() -> None:
    def states(**values: Any) -> float:
        return memory_bytes(MEDIUM, config(**values), 0, 0, bf16=True) / MEDIUM.parameters

    assert states() == 16
    assert [states(processes=4, zero=zero) for zero in (0, 1, 2, 3)] == [16, 7, 5.5, 4]
    assert memory_bytes(MEDIUM, config(), 0, 0, bf16=False) / MEDIUM.parameters == 16


def test_activations_and_logits_come_on_top() -> None:
    base = memory_bytes(MEDIUM, config(), 0, 0, bf16=True)
    assert memory_bytes(MEDIUM, config(), 1000, 0, bf16=True) - base == 1000 * 768 * 12 * 34
    assert memory_bytes(MEDIUM, config(), 1000, 0.5, bf16=True) - memory_bytes(MEDIUM, config(), 1000, 0, bf16=True) == 500 * 40_000 * 12
    assert memory_bytes(MEDIUM, config(gradient_checkpointing=True), 1000, 0, True) < memory_bytes(MEDIUM, config(), 1000, 0, True)


def test_a_masked_token_in_seven_costs_a_seventh_of_the_head() -> None:
    assert operations(MEDIUM, 100, 1.0) == 600 * 10**8
    assert operations(MEDIUM, 100, 0.0) == 600 * 7 * 10**7


@pytest.mark.parametrize("architecture", ["encoder", "decoder", "encoder-decoder"])
def test_the_shape_is_read_from_any_config(model_folder: Callable[[str], Path], architecture: str) -> None:
    shape = Shape.of(load_config(model_folder(architecture)), 1000)
    assert (shape.layers, shape.width) == (2, 32)
    assert shape.table == shape.vocabulary * 32
