"""Tiny real models of five architectures, one fused with measured tracks, for what embeds."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

KINDS = {"bert": "bert_uncased", "roberta": "gpt2", "llama": "llama3", "gpt2": "gpt2", "t5": "t5"}
CONTEXT = 64


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory, base_tokenizer: Callable[[str], Any]) -> Callable[[str], Path]:
    """folder_of("llama") -> a folder as a user has it. Shared: read it, or copy it."""
    made: dict[str, Path] = {}

    def make(architecture: str) -> Path:
        if architecture not in made:
            made[architecture] = _write(tmp_path_factory.mktemp(architecture), architecture, base_tokenizer(KINDS[architecture]))
        return made[architecture]

    return make


def _write(folder: Path, architecture: str, tokenizer: Any) -> Path:
    import torch
    import transformers as hf

    torch.manual_seed(0)
    size = tokenizer.get_vocab_size()
    shape = {"vocab_size": size, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
    if architecture == "bert":
        model: Any = hf.BertForMaskedLM(hf.BertConfig(**shape, max_position_embeddings=CONTEXT, initializer_range=0.3))
    elif architecture == "roberta":
        model = hf.RobertaModel(hf.RobertaConfig(**shape, max_position_embeddings=CONTEXT + 2, pad_token_id=1, initializer_range=0.3))
    elif architecture == "llama":
        config = hf.LlamaConfig(**shape, num_key_value_heads=2, max_position_embeddings=CONTEXT, initializer_range=0.3)
        model = hf.LlamaForCausalLM(config)
    elif architecture == "gpt2":
        small = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": CONTEXT, "initializer_range": 0.3}
        model = hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=size, **small))
    else:
        small = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 3, "num_heads": 4}
        model = hf.T5ForConditionalGeneration(hf.T5Config(vocab_size=size, decoder_start_token_id=0, **small))
    model.save_pretrained(str(folder))
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="session")
def several(
    tmp_path_factory: pytest.TempPathFactory,
    base_tokenizer: Callable[[str], Any],
    domain_tokenizer: Callable[..., Any],
    start_merge: Callable[[Any], Any],
) -> Path:
    """A tiny model that reads proteins and, merged after them, DNA."""
    domains = (domain_tokenizer(modality, "wordpiece") for modality in ("protein", "dna"))
    merged = start_merge(base_tokenizer("bert_uncased")).add(*domains)
    folder = _write(tmp_path_factory.mktemp("several"), "bert", merged.tokenizer)
    merged.vocabulary.save(folder)
    return folder


@pytest.fixture(scope="session")
def texts(plain_lines: Callable[[int], list[str]]) -> list[str]:
    """Texts of very different lengths, some beyond the context of the tiny models."""
    lines = plain_lines(90)
    return [" ".join(lines[i : i + 1 + 3 * (i % 9 == 4)]) for i in range(len(lines) - 4)][:70]


@pytest.fixture(scope="session")
def merged(tiny_results: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The expanded tiny model, which reads DNA, without fusion."""
    copy = Path(shutil.copytree(tiny_results / "expand", tmp_path_factory.mktemp("merged") / "model"))
    for name in ("fusion.json", "fusion.safetensors"):
        (copy / name).unlink()
    return copy


@pytest.fixture(scope="session")
def measured(merged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, fused with a measured channel `meth` and a computed one, by an operator that acts."""
    import torch

    from biollm.modeling.channels import Channel, FusionSpec
    from biollm.modeling.fusion import FusedModel, save_fusion
    from biollm.modeling.loading import load_model
    from biollm.modeling.tracks import TrackConfig

    copy = Path(shutil.copytree(merged, tmp_path_factory.mktemp("measured") / "model"))
    numbers: dict[str, Any] = {"mean": 0.5, "scale": 0.3, "low": 0.0, "high": 1.0, "edges": [0.5]}
    spec = FusionSpec(
        operator="add",
        channels=[
            Channel(name="meth", is_share=True, **numbers),
            Channel(name="cpg", computed=TrackConfig(name="cpg", kind="cpg_observed_expected", window_bases=16), is_share=False, **numbers),
        ],
        hidden_size=32,
    )
    model = FusedModel(load_model(copy).stock, spec)
    torch.manual_seed(0)
    assert model.operator is not None
    with torch.no_grad():
        for parameter in model.operator.parameters():
            parameter.normal_(std=0.3)
    save_fusion(copy, model)
    return copy


@pytest.fixture(scope="session")
def levels() -> Callable[[int, int], Any]:
    """levels(bases, seed) -> (bases,) float32 methylation levels, a third of them NaN."""

    def make(bases: int, seed: int) -> Any:
        rng = np.random.default_rng(seed)
        return np.where(rng.random(bases) < 1 / 3, np.nan, rng.random(bases)).astype(np.float32)

    return make
