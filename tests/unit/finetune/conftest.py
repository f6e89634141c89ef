"""Tiny random models of four families as `pretrain` leaves them, and each way of fine-tuning run once on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    RobertaConfig,
    RobertaForMaskedLM,
)

from biollm.finetune.config import MethodConfig
from biollm.finetune.methods import apply_method, load_for, new_rows_for, output_modules, save_finetuned
from biollm.modeling.channels import FEATURES_PER_CHANNEL, Channel, FusionSpec
from biollm.modeling.fusion import FusedModel, save_fusion
from biollm.modeling.tracks import TrackConfig
from biollm.modeling.vocabulary import Domain, DomainVocabulary

BASE_TOKENS, NEW_TOKENS, ROWS = 50, 8, 61  # the last three rows are padding
_SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 64}
_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "bos_token_id": 2, "eos_token_id": 2}
_LLAMA = {"num_key_value_heads": 1, "tie_word_embeddings": False}
_FAMILIES: dict[str, Callable[[], Any]] = {
    "bert": lambda: BertForMaskedLM(BertConfig(vocab_size=ROWS, pad_token_id=0, **_SHAPE)),
    "roberta": lambda: RobertaForMaskedLM(RobertaConfig(vocab_size=ROWS, pad_token_id=1, **_SHAPE)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=ROWS, pad_token_id=0, **_GPT2)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(vocab_size=ROWS, pad_token_id=0, **_SHAPE, **_LLAMA)),
}
CLASSIFY, LABEL_TOKENS, WRITE = "AutoModelForSequenceClassification", "AutoModelForTokenClassification", "AutoModelForCausalLM"
# Small enough for tiny models, where a method has an option that is not.
_OPTIONS: dict[str, dict[str, Any]] = {
    "adapter_series": {"adapter_width": 16, "adapter_placement": "attention_and_ffn"},
    "adapter_parallel": {"adapter_width": 16},
    "prefix_tuning": {"virtual_tokens": 4},
    "prompt_tuning": {"virtual_tokens": 4},
    "p_tuning": {"virtual_tokens": 4, "prompt_encoder_width": 16},
}


def write_base(folder: Path, family: str, *, fused: bool = False, seed: int = 1) -> Path:
    """A model folder whose vocabulary was merged; with a fusion operator that is not zero if `fused`."""
    torch.manual_seed(seed)
    stock = _FAMILIES[family]()
    stock.save_pretrained(str(folder))
    domain = Domain(name="dna", strategy="isolate", modality="dna", kind="bpe", first_id=BASE_TOKENS, new_tokens=NEW_TOKENS)
    DomainVocabulary(base_vocab_size=BASE_TOKENS, domains=[domain]).save(folder)
    if fused:
        track = TrackConfig(name="cpg", kind="cpg_observed_expected", window_bases=16)
        channel = Channel(name="cpg", computed=track, is_share=False, mean=0.0, scale=1.0, low=0, high=1, edges=[])
        model = FusedModel(stock, FusionSpec(operator="add", channels=[channel], hidden_size=32))
        assert model.operator is not None
        torch.nn.init.normal_(model.operator.operator.project.weight, std=0.1)
        save_fusion(folder, model)
    return folder


def method(name: str, **options: Any) -> MethodConfig:
    return MethodConfig(name=name, **_OPTIONS.get(name, {}) | options)


def prepare(source: Path, kind: str, config: MethodConfig) -> FusedModel:
    """As the stage does it."""
    torch.manual_seed(5)
    options = {"num_labels": 3, "id2label": {0: "exon", 1: "intron", 2: "other"}} if kind != WRITE else {}
    model = load_for(source, kind, config, **options)
    return apply_method(model, config, output_modules(model.stock), new_rows_for(config, source))


def batch(model: FusedModel, *, with_new_tokens: bool = True) -> dict[str, Tensor]:
    """Two records, the second padded from its sixth token on; with features if the model is fused."""
    generator = torch.Generator().manual_seed(2)
    padding = model.stock.config.pad_token_id
    ids = torch.randint(3, BASE_TOKENS, (2, 9), generator=generator)
    if with_new_tokens:
        ids[:, 1:4] = torch.tensor([BASE_TOKENS, BASE_TOKENS + 3, BASE_TOKENS + NEW_TOKENS - 1])
    mask = torch.ones_like(ids)
    ids[1, 5:], mask[1, 5:] = padding, 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    if model.spec is not None:
        inputs["features"] = torch.randn(2, 9, FEATURES_PER_CHANNEL, generator=generator)
    return inputs


@torch.no_grad()
def logits(model: FusedModel, inputs: dict[str, Tensor]) -> Tensor:
    model.eval()
    return model(**inputs).logits


def step(model: FusedModel, inputs: dict[str, Tensor], rate: float = 0.01) -> list[str]:
    """One optimiser step; the names of trainable parameters that got no gradient."""
    model.train()
    model.zero_grad()
    output = model(**inputs).logits
    (output * torch.randn(output.shape, generator=torch.Generator().manual_seed(3))).sum().backward()
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    without = [name for name, p in trainable.items() if p.grad is None]
    torch.optim.Adam(trainable.values(), lr=rate, eps=1e-30).step()  # whatever has a gradient moves
    return without


@dataclass(frozen=True)
class Case:
    """A way of fine-tuning on a family, run for a step. Logits are of the same batch: of the model that came in, at the start, behind."""

    model: FusedModel
    inputs: dict[str, Tensor]
    before: Tensor
    start: Tensor
    after: Tensor
    trainable: set[str]
    without_gradient: list[str]
    changed: set[str]
    source: Path
    folder: Path


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    """Two threads on matrices of 32 columns mostly wait for each other: four times slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """base("llama", fused=False) -> its folder. Shared: read it, or copy it to change it."""
    return cache(lambda family, fused=False: write_base(tmp_path_factory.mktemp("results") / "pretrain", family, fused=fused))


@pytest.fixture(scope="session")
def run_case(base: Callable[..., Path]) -> Callable[..., Case]:
    """run_case("llama", kind, "lora", fused=False, **options) -> Case, made once."""

    @cache
    def run(family: str, kind: str, name: str, fused: bool = False, **options: Any) -> Case:
        source, config = base(family, fused=fused), method(name, **options)
        torch.manual_seed(5)
        plain = load_for(source, kind, config, **({"num_labels": 3} if kind != WRITE else {}))
        model = prepare(source, kind, config)
        inputs = batch(model)
        head = dict(plain.stock.named_parameters())
        assert all(torch.equal(p, head[n]) for n, p in model.stock.named_parameters() if n in head), "the same seed draws the same head"
        before, start = logits(plain, inputs), logits(model, inputs)
        values = {n: p.detach().clone() for n, p in model.named_parameters()}
        without = step(model, inputs)
        changed = {n for n, p in model.named_parameters() if not torch.equal(p, values[n])}
        trainable = {n for n, p in model.named_parameters() if p.requires_grad}
        step(model, inputs)  # adapters begin at a saddle, where half of them has the gradient zero
        changed |= {n for n, p in model.named_parameters() if not torch.equal(p, values[n])}
        folder = source.parent / "finetune" / f"{family}-{kind}-{name}-{'-'.join(map(str, options.values()))}"
        folder.parent.mkdir(exist_ok=True)
        save_finetuned(model, folder, source, config)
        return Case(model, inputs, before, start, logits(model, inputs), trainable, without, changed, source, folder)

    return run


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory, make_bert_base: Callable[..., Path]) -> Path:
    folder = tmp_path_factory.mktemp("supervised") / "bert"
    return make_bert_base(folder, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
