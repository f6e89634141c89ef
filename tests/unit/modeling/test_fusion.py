"""Fusion changes nothing before training, learns in training, and never acts on input without tracks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from biollm.core.errors import ConfigError, DataError
from biollm.modeling.fusion import FusedModel, FusionSpec, attach_fusion, save_fusion
from biollm.modeling.loading import load_model
from biollm.modeling.tracks import TrackConfig

_TINY: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 50}
MODELS: dict[str, Callable[[], nn.Module]] = {
    "bert": lambda: BertForMaskedLM(BertConfig(**_TINY)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=50, n_positions=32)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**_TINY, num_key_value_heads=1)),
}
_CHANNEL = TrackConfig(name="cpg", kind="cpg_observed_expected", window_bases=8)


def spec(width: int = 32) -> FusionSpec:
    return FusionSpec(operator="add", channels=[_CHANNEL], mean=[0.5], scale=[2.0], hidden_size=width)


def stock(name: str) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[name]().eval()


def inputs() -> tuple[dict[str, Tensor], Tensor]:
    torch.manual_seed(1)
    return {"input_ids": torch.randint(0, 50, (3, 9)), "attention_mask": torch.ones(3, 9, dtype=torch.long)}, torch.randn(3, 9, 3)


@pytest.mark.parametrize("name", MODELS)
def test_a_fused_model_equals_the_stock_one_bit_for_bit_before_training(name: str) -> None:
    model = stock(name)
    batch, features = inputs()
    with torch.no_grad():
        wanted = model(**batch).logits
        fused = FusedModel(model, spec()).eval()
        assert torch.equal(fused(**batch).logits, wanted), "without tracks"
        assert torch.equal(fused(features=features, **batch).logits, wanted), "with tracks"


@pytest.mark.parametrize("name", MODELS)
def test_the_gradient_reaches_the_operator_and_a_trained_one_acts(name: str) -> None:
    fused = FusedModel(stock(name), spec())
    batch, features = inputs()
    before = fused(features=features, **batch).logits
    before.square().mean().backward()
    assert fused.operator is not None
    gradient = fused.operator.project.weight.grad
    assert gradient is not None
    assert gradient.abs().sum() > 0
    assert torch.isfinite(gradient).all()
    with torch.no_grad():
        fused.operator.project.weight -= gradient / gradient.norm()
        assert not torch.equal(fused(features=features, **batch).logits, before)


@pytest.mark.parametrize("name", MODELS)
def test_a_trained_operator_never_acts_on_input_without_tracks(name: str) -> None:
    model = stock(name)
    batch, features = inputs()
    with torch.no_grad():
        wanted = model(**batch).logits
        fused = FusedModel(model, spec()).eval()
        assert fused.operator is not None
        fused.operator.project.weight.normal_()
        assert not torch.equal(fused(features=features, **batch).logits, wanted)
        assert torch.equal(model(**batch).logits, wanted), "the features of the call before are forgotten"
        assert torch.equal(fused(**batch).logits, wanted)
        assert torch.equal(fused(features=torch.zeros_like(features), **batch).logits, wanted)


def test_features_are_forgotten_when_a_call_fails() -> None:
    model = stock("bert")
    batch, features = inputs()
    with torch.no_grad():
        wanted = model(**batch).logits
        fused = FusedModel(model, spec()).eval()
        assert fused.operator is not None
        fused.operator.project.weight.normal_()
        with pytest.raises(IndexError):
            fused(features=features, input_ids=torch.full((3, 9), 999))
        assert torch.equal(fused(**batch).logits, wanted)


def test_tracks_for_a_model_without_fusion_are_refused() -> None:
    batch, features = inputs()
    with pytest.raises(
        DataError, match=r"this model has no fusion, but was given tracks; leave them out, or give a model with fusion.json"
    ):
        FusedModel(stock("bert"))(features=features, **batch)


def test_a_track_of_another_length_is_refused() -> None:
    with pytest.raises(DataError, match="track 'cpg' has 5 values, but the sequence has 6 residues; they must agree"):
        spec().features([np.zeros(5, dtype=np.float32)], np.asarray([0, 2, 4, 0]))


def test_features_are_standardised_by_the_statistics_of_the_spec() -> None:
    found = spec().features([np.float32([1.5, 2.5, np.nan])], np.asarray([0, 2, 1, 0]))
    np.testing.assert_allclose(found, [[0, 0, 0], [(2.0 - 0.5) / 2, np.log(3), 1], [0, 0, 0], [0, 0, 0]], rtol=1e-6)


def test_a_fused_model_is_the_same_after_save_and_load(tmp_path: Path) -> None:
    model = stock("bert")
    fused = FusedModel(model, spec()).eval()
    assert fused.operator is not None
    nn.init.normal_(fused.operator.project.weight)
    save_fusion(tmp_path, fused)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fusion.json", "fusion.safetensors"]
    again = attach_fusion(stock("bert"), tmp_path).eval()
    batch, features = inputs()
    with torch.no_grad():
        assert torch.equal(again(features=features, **batch).logits, fused(features=features, **batch).logits)
    assert again.spec == fused.spec


def test_a_model_without_fusion_writes_no_sidecar_and_is_opened_as_such(tmp_path: Path) -> None:
    save_fusion(tmp_path, FusedModel(stock("bert")))
    assert not list(tmp_path.iterdir())
    assert attach_fusion(stock("bert"), tmp_path).operator is None


def test_a_sidecar_for_another_width_is_refused(tmp_path: Path) -> None:
    save_fusion(tmp_path, FusedModel(stock("bert"), spec()))
    (tmp_path / "fusion.json").write_text(spec(64).model_dump_json())
    with pytest.raises(ConfigError, match=r"fusion.json: fused for models of width 64, but this model has 32"):
        attach_fusion(stock("bert"), tmp_path)


@pytest.mark.parametrize("damage", ["unknown key", "no JSON", "weights missing", "weights cut", "weights of another shape"])
def test_a_damaged_sidecar_is_refused_in_one_line(tmp_path: Path, damage: str) -> None:
    save_fusion(tmp_path, FusedModel(stock("bert"), spec()))
    weights, sidecar = tmp_path / "fusion.safetensors", tmp_path / "fusion.json"
    if damage == "unknown key":
        sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {"new_key": 1}))
    elif damage == "no JSON":
        sidecar.write_text("{")
    elif damage == "weights missing":
        weights.unlink()
    elif damage == "weights cut":
        weights.write_bytes(weights.read_bytes()[:-20])
    else:
        two = spec().model_copy(update={"channels": [_CHANNEL, _CHANNEL], "mean": [0.0, 0.0], "scale": [1.0, 1.0]})
        sidecar.write_text(two.model_dump_json())
    with pytest.raises(ConfigError, match=r"fusion\.") as caught:
        attach_fusion(stock("bert"), tmp_path)
    assert len(str(caught.value).splitlines()) == 1


def test_an_expanded_folder_is_opened_with_its_fusion_and_by_stock_transformers_without(tiny_results: Path) -> None:
    from transformers import AutoModelForMaskedLM

    folder = tiny_results / "expand"
    fused = load_model(folder, "AutoModelForMaskedLM")
    plain = AutoModelForMaskedLM.from_pretrained(str(folder)).eval()
    assert fused.spec is not None
    assert fused.spec.channel_names == ["cpg"]
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        assert torch.equal(fused(input_ids=ids).logits, plain(input_ids=ids).logits)
