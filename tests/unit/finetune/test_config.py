"""A method takes only what it uses, and says before anything runs what cannot be."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from biollm.finetune.config import _OPTIONS, Config, MethodConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "lora", "lora_rank": 0}, "greater than or equal to 1"),
        ({"name": "lora", "lora_dropout": 1.0}, "less than 1"),
        ({"name": "lora", "lora_alpha": 0}, "greater than 0"),
        ({"name": "lora", "rank": 4}, "Extra inputs are not permitted"),
        ({"name": "adapter_series", "adapter_width": 0}, "greater than or equal to 1"),
        ({"name": "adapter_series", "adapter_placement": "attention"}, "'ffn' or 'attention_and_ffn'"),
        ({"name": "prompt_tuning", "virtual_tokens": 0}, "greater than or equal to 1"),
        ({"name": "qat", "qat_scheme": "int2"}, "'int8_weights', 'int4_weights'"),
        ({"name": "adalora"}, "'output_layer', 'full', 'lora'"),
        ({"name": "output_layer", "lora_rank": 4}, "lora_rank is 4, but method output_layer does not use it; expected it only with lora"),
        ({"name": "lora", "adapter_scale": 2.0}, "adapter_scale is 2.0, but method lora does not use it; .* only with adapter_parallel"),
        ({"name": "full", "train_new_rows": True}, "train_new_rows is True, but method full does not use it"),
        ({"name": "lora", "target_modules": []}, r"target_modules is \[\]; expected 'auto' or the names"),
        ({"name": "ia3", "feedforward_modules": ["dense"]}, "feedforward_modules is given, but target_modules is 'auto'"),
        ({"name": "ia3", "target_modules": ["key"], "feedforward_modules": ["dense"]}, "expected a part of target_modules"),
        ({"name": "qat", "qat_scheme": "int8_weights", "qat_group_size": 64}, "int8_weights has one scale per output"),
        ({"name": "prefix_tuning", "prompt_encoder_width": 64}, "but prefix_projection is off"),
        ({"name": "prefix_tuning", "zero": 3}, "zero is 3, but with prefix_tuning .*; expected zero: 2 or lower"),
        ({"name": "prompt_tuning", "zero": 3}, "zero is 3, but with prompt_tuning"),
        ({"name": "p_tuning", "zero": 3}, "zero is 3, but with p_tuning"),
        ({"name": "lora", "train_new_rows": True, "zero": 3}, "zero is 3, but train_new_rows cannot gather the rows there"),
        ({"name": "qlora", "zero": 3}, "zero is 3, but qlora needs whole weights in every process"),
        ({"name": "prefix_tuning", "gradient_checkpointing": True}, "gradient_checkpointing is true, but prefix_tuning hands over"),
    ],
)  # fmt: skip
def test_contradictions_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        MethodConfig.model_validate(settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "lora", "zero": 3},
        {"name": "prefix_tuning", "zero": 2},
        {"name": "lora", "train_new_rows": True, "zero": 2},
        {"name": "p_tuning", "prompt_encoder_width": 64, "gradient_checkpointing": True},
        {"name": "ia3", "target_modules": ["key", "dense"], "feedforward_modules": ["dense"]},
        {"name": "qat", "qat_group_size": 64},
    ],
)
def test_what_can_be_is_taken_and_comes_back_from_a_manifest(settings: dict[str, Any]) -> None:
    config = MethodConfig.model_validate(settings)
    assert MethodConfig.model_validate(config.model_dump()) == config


def test_alpha_is_twice_the_rank_unless_it_is_given() -> None:
    assert MethodConfig(name="lora", lora_rank=4).alpha == 8
    assert MethodConfig(name="lora", lora_rank=4, lora_alpha=3).alpha == 3


def test_every_option_of_a_method_is_in_the_table_of_options() -> None:
    inherited = set(MethodConfig.__mro__[1].model_fields) | {"name"}  # type: ignore[attr-defined]
    assert set(_OPTIONS) == set(MethodConfig.model_fields) - inherited


def test_a_method_stands_once() -> None:
    with pytest.raises(ValidationError, match="methods has lora twice; expected each once"):
        Config.model_validate({"methods": [{"name": "lora"}, {"name": "lora", "lora_rank": 4}]})
