"""Growing a vocabulary: the old rows stay bit for bit, ties and biases stay what they were."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForMaskedLM, BertModel, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from biollm.core.errors import ConfigError
from biollm.modeling.surgery import resize, tables_of

_TINY: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 50}


def bert(tied: bool) -> nn.Module:
    torch.manual_seed(0)
    model = BertForMaskedLM(BertConfig(**_TINY, tie_word_embeddings=tied))
    with torch.no_grad():
        model.get_output_embeddings().bias.normal_()
    return model


def gpt2() -> nn.Module:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=50, n_positions=32))


def llama(tied: bool) -> nn.Module:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**_TINY, num_key_value_heads=1, tie_word_embeddings=tied))


MODELS = {
    "bert tied": lambda: bert(True),
    "bert untied": lambda: bert(False),
    "gpt2 tied": gpt2,
    "llama untied": lambda: llama(False),
    "llama tied": lambda: llama(True),
}


@pytest.mark.parametrize("name", MODELS)
def test_old_rows_are_bit_equal_and_new_rows_are_those_given(name: str) -> None:
    model = MODELS[name]()
    before = tables_of(model)
    old = [None if t is None else t.detach().clone() for t in (before.input, before.output, before.bias)]
    new_rows = torch.randn(7, 32)
    resize(model, 57, new_rows)
    after = tables_of(model)
    for was, now in zip(old, (after.input, after.output, after.bias), strict=True):
        assert (was is None) == (now is None)
        if was is not None and now is not None:
            assert len(now) == 57
            assert torch.equal(now[:50], was)
    assert torch.equal(after.input[50:], new_rows)
    if after.output is not None:
        assert torch.equal(after.output[50:], new_rows)
    if after.bias is not None and old[2] is not None:
        assert torch.allclose(after.bias[50:], old[2].mean().expand(7))
    assert model.config.vocab_size == 57


@pytest.mark.parametrize("name", ["bert tied", "gpt2 tied", "llama tied"])
def test_a_tied_table_stays_tied(name: str) -> None:
    model = MODELS[name]()
    resize(model, 57, torch.randn(7, 32))
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert tables_of(model).output is None


@pytest.mark.parametrize("name", MODELS)
def test_logits_of_old_tokens_do_not_change(name: str) -> None:
    model = MODELS[name]().eval()
    ids = torch.tensor([[3, 9, 27, 4]])
    with torch.no_grad():
        before = model(input_ids=ids).logits
        resize(model, 57, torch.randn(7, 32))
        after = model(input_ids=ids).logits
    assert after.shape[-1] == 57
    assert torch.allclose(after[..., :50], before, atol=1e-6)


def test_a_resized_model_is_the_same_after_save_and_load(tmp_path: Any) -> None:
    for name in ("bert tied", "bert untied"):
        model = MODELS[name]()
        resize(model, 57, torch.randn(7, 32))
        model.save_pretrained(str(tmp_path / name))
        again = BertForMaskedLM.from_pretrained(str(tmp_path / name))
        was, now = model.state_dict(), again.state_dict()
        assert was.keys() == now.keys()
        assert [key for key in was if not torch.equal(was[key], now[key])] == []


def test_a_model_without_an_output_table_is_resized() -> None:
    torch.manual_seed(0)
    model = BertModel(BertConfig(**_TINY))
    old = model.get_input_embeddings().weight.detach().clone()
    resize(model, 52, torch.ones(2, 32))
    assert torch.equal(model.get_input_embeddings().weight[:50], old)
    assert tables_of(model).output is None


def test_a_wrong_size_is_refused_before_anything_changes() -> None:
    model = bert(True)
    with pytest.raises(ConfigError, match="the model has 50 rows; with 7 new tokens that is 57, but the merged tokenizer has 60 tokens"):
        resize(model, 60, torch.randn(7, 32))
    assert len(tables_of(model).input) == 50


def test_tables_that_disagree_are_refused() -> None:
    model = llama(False)
    model.set_output_embeddings(nn.Linear(32, 48, bias=False))  # type: ignore[operator]
    with pytest.raises(ConfigError, match=r"the model's vocabulary tables disagree: sizes \[48, 50\]"):
        tables_of(model)
