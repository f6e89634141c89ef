"""Which layer a parameter counts as."""

from __future__ import annotations

from typing import Any

import pytest
import transformers as hf

from biollm.training.config import TrainingConfig
from biollm.training.optimizer import parameter_groups

SMALL = {"vocab_size": 16, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
GPT_2 = {"vocab_size": 16, "n_embd": 8, "n_layer": 2, "n_head": 2}
T5 = {"vocab_size": 16, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 2, "num_heads": 2}
BERT = {"word_embeddings", "position_embeddings", "token_type_embeddings", "LayerNorm"}


@pytest.mark.parametrize(("kind", "config", "lowest", "top"), [
    (hf.BertForMaskedLM, hf.BertConfig(**SMALL), {f"bert.embeddings.{name}" for name in BERT}, "cls.predictions.transform.dense"),
    (hf.RobertaForMaskedLM, hf.RobertaConfig(**SMALL), {f"roberta.embeddings.{name}" for name in BERT}, "lm_head.dense"),
    (hf.ModernBertForMaskedLM, hf.ModernBertConfig(**SMALL, pad_token_id=0), {"model.embeddings.tok_embeddings", "model.embeddings.norm"},
     "model.final_norm"),
    (hf.GPT2LMHeadModel, hf.GPT2Config(**GPT_2), {"transformer.wte", "transformer.wpe"}, "transformer.ln_f"),
    (hf.LlamaForCausalLM, hf.LlamaConfig(**SMALL), {"model.embed_tokens"}, "lm_head"),
    (hf.T5ForConditionalGeneration, hf.T5Config(**T5), {"shared"}, "encoder.final_layer_norm"),
])  # fmt: skip
def test_all_of_the_embeddings_is_the_lowest_layer(kind: Any, config: Any, lowest: set[str], top: str) -> None:
    model = kind(config)
    names = {id(p): name.rpartition(".")[0] for name, p in model.named_parameters()}
    groups = parameter_groups(model, TrainingConfig(steps=1, learning_rate=1.0, layer_decay=0.5))
    rates = {names[id(p)]: group["lr"] for group in groups for p in group["params"]}
    # the biases of T5's attention are embeddings in its lowest block
    assert {name for name, rate in rates.items() if rate == 0.125 and "relative_attention_bias" not in name} == lowest
    assert rates[top] == 1
    assert set(rates.values()) == {0.125, 0.25, 0.5, 1}
