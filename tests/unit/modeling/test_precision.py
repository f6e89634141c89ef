"""Lower precision: where the hardware has it, at a cost that is measured; fp32 kernels that change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

from biollm.core.errors import ConfigError, ResourceError
from biollm.core.machine import processor_flags
from biollm.modeling import precision
from biollm.modeling.packed_linear import Int8Linear, PackedLinear
from biollm.modeling.precision import has_bf16, linear_layers, set_precision

on_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="the CPU's kernels")


@pytest.fixture
def body() -> Any:
    torch.manual_seed(0)
    config = BertConfig(vocab_size=50, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128)
    return BertModel(config).eval()


@pytest.fixture
def sample() -> list[Any]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 50, length) for length in (3, 40, 17)]


def vectors(body: Any, sample: list[Any]) -> torch.Tensor:
    with torch.inference_mode():
        return torch.cat([body(input_ids=torch.from_numpy(row)[None]).last_hidden_state[0] for row in sample])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5, 48), (2, 3, 48), (1, 48)])
def test_packed_and_integer_layers_compute_the_layer(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(48, 31, bias=bias)
    x = torch.randn(shape) + 0.5
    with torch.inference_mode():
        wanted = linear(x)
        torch.testing.assert_close(PackedLinear(linear, torch.float32)(x), wanted, atol=1e-5, rtol=1e-5)
        whole = Int8Linear(linear, x.abs().reshape(-1, 48).amax(0))(x)
        rough = PackedLinear(linear, torch.bfloat16)(x) if has_bf16() else whole
    assert rough.dtype == whole.dtype == torch.float32
    assert float((rough - wanted).abs().max()) < (0.02 if has_bf16() else 0.05)
    assert 0 < float((whole - wanted).abs().max()) < 0.05


def test_a_token_in_integers_does_not_depend_on_its_neighbours() -> None:
    torch.manual_seed(0)
    layer = Int8Linear(nn.Linear(48, 31), torch.ones(48))
    x = torch.randn(6, 48) * torch.tensor([[1.0], [100.0], [0.01], [1.0], [0.0], [5.0]])
    with torch.inference_mode():
        together, alone = layer(x), torch.cat([layer(row[None]) for row in x])
    assert torch.equal(together, alone)


@on_cpu
def test_fp32_computes_the_same_by_other_kernels(body: Any, sample: list[Any]) -> None:
    before = vectors(body, sample)
    assert set_precision(body, "fp32", sample, 0.99, keep_modules=False) == ("fp32", None)
    assert isinstance(body.encoder.layer[0].output.dense, PackedLinear)
    torch.testing.assert_close(vectors(body, sample), before, atol=1e-5, rtol=1e-5)


@on_cpu
def test_a_model_that_uses_its_weights_itself_keeps_its_layers(sample: list[Any]) -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.linear = nn.Embedding(50, 8), nn.Linear(8, 8)

        def forward(self, input_ids: torch.Tensor) -> Any:
            hidden = nn.functional.linear(self.table(input_ids), self.linear.weight)
            return type("Output", (), {"last_hidden_state": hidden})

    own = Own().eval()
    before = vectors(own, sample)
    set_precision(own, "fp32", sample, 0.99, keep_modules=False)
    assert type(own.linear) is nn.Linear
    assert torch.equal(vectors(own, sample), before)


@on_cpu
@pytest.mark.skipif(not has_bf16(), reason="no instructions for bfloat16 here")
def test_bf16_costs_little_and_says_how_much(body: Any, sample: list[Any]) -> None:
    before = vectors(body, sample)
    computed, fidelity = set_precision(body, "auto", sample, 0.99, keep_modules=False)
    assert computed == "bf16"
    assert fidelity is not None
    assert 0.999 < fidelity.min_cosine <= fidelity.mean_cosine < 1
    assert 0 < float((vectors(body, sample) - before).abs().max()) < 0.1


@on_cpu
def test_int8_keeps_to_the_fidelity_that_was_asked_for(sample: list[Any]) -> None:
    def quantised(least: float) -> Any:
        torch.manual_seed(0)
        config = BertConfig(vocab_size=50, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128)
        model = BertModel(config).eval()
        computed, fidelity = set_precision(model, "int8", sample, least, keep_modules=False)
        assert computed == "int8"
        assert fidelity is not None
        assert fidelity.min_cosine >= least
        found = sum(isinstance(m, Int8Linear) for m in model.modules())
        assert found == fidelity.int8_layers > 0
        return fidelity

    assert quantised(0.99).int8_layers == len(
        linear_layers(BertModel(BertConfig(num_hidden_layers=2, hidden_size=64, num_attention_heads=2)))
    )
    assert quantised(0.99).min_cosine < 1


@on_cpu
def test_int8_at_a_fidelity_that_cannot_be_had_is_refused(body: Any, sample: list[Any]) -> None:
    body.pooler = None  # which changes no token's vector
    with pytest.raises(ConfigError, match=r"no layer of this model can be computed in integers at a cosine of 0.99999999999999 to fp32"):
        set_precision(body, "int8", sample, 0.99999999999999, keep_modules=False)


def test_int8_of_an_adapter_is_refused(body: Any, sample: list[Any]) -> None:
    with pytest.raises(ConfigError, match=r"precision='int8' is for whole models on a CPU; (fold the adapter|use 'bf16' on a GPU)"):
        set_precision(body, "int8", sample, 0.99, keep_modules=True)


def test_bf16_without_instructions_is_refused_and_auto_takes_fp32(body: Any, sample: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_bf16", lambda: False)
    with pytest.raises(ResourceError, match="precision='bf16': this machine has no instructions for bfloat16"):
        set_precision(body, "bf16", sample, 0.99, keep_modules=False)
    assert set_precision(body, "auto", sample, 0.99, keep_modules=False)[0] == "fp32"


def test_the_processor_is_asked_for_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for flags, wanted in (("avx2 avx512_bf16", True), ("amx_bf16", True), ("avx2 avx512f", False)):
        told = f"model name\t: any\nflags\t\t: fpu {flags}\nbugs\t\t: amx_bf16\n"
        monkeypatch.setattr(Path, "read_text", lambda self, told=told: told)
        monkeypatch.setattr(Path, "is_file", lambda self: True)
        monkeypatch.setattr(precision, "processor_flags", processor_flags.__wrapped__)
        assert has_bf16() is wanted
