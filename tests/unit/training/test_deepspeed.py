from __future__ import annotations

from biollm.training.config import TrainingConfig
from biollm.training.deepspeed import deepspeed_config, use_bf16


def test_the_deepspeed_configuration_is_what_the_recipe_means() -> None:
    config = TrainingConfig(steps=3, batch_size=4, gradient_accumulation=2, learning_rate=1e-3, max_grad_norm=0.5)
    values = deepspeed_config(config, bf16=False)
    assert (values["train_micro_batch_size_per_gpu"], values["gradient_accumulation_steps"], values["train_batch_size"]) == (4, 2, 8)
    assert values["gradient_clipping"] == 0.5
    assert values["optimizer"]["params"]["lr"] == 1e-3
    assert values["bf16"] == {"enabled": False}
    assert deepspeed_config(config, bf16=True)["bf16"] == {"enabled": True}
    assert values["optimizer"]["params"]["torch_adam"] is True, "DeepSpeed's own would need a compiler"


def test_a_named_precision_is_obeyed_on_any_hardware() -> None:
    assert use_bf16("bf16") is True
    assert use_bf16("fp32") is False
    assert use_bf16("auto") in (True, False)
