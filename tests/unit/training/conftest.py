"""Tiny real models of three architectures with tokenizers trained on biomedical text, a small corpus, and runs over them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

if TYPE_CHECKING:
    from biollm.pretrain.config import Config
    from biollm.training.run import RunSettings, Trained
    from biollm.training.task import Recipe

KINDS = {"encoder": "bert_uncased", "decoder": "smollm2", "encoder-decoder": "t5"}
CONTEXT = 64


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory, base_tokenizer: Callable[[str], Any]) -> Callable[[str], Path]:
    """model_folder("decoder") -> a folder as a user has it: config, weights, tokenizer.json. Shared: read it, or copy it."""
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
    shape = {"vocab_size": size, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # or passes could not be compared
    if architecture == "encoder":
        model = hf.BertForMaskedLM(hf.BertConfig(**shape, max_position_embeddings=CONTEXT, **no_dropout))
    elif architecture == "decoder":
        model = hf.LlamaForCausalLM(
            hf.LlamaConfig(**shape, num_key_value_heads=2, max_position_embeddings=CONTEXT, tie_word_embeddings=True)
        )
    else:
        small = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0}
        config = hf.T5Config(vocab_size=size, decoder_start_token_id=0, **small)
        model = hf.T5ForConditionalGeneration(config)
    model.save_pretrained(str(folder))
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory, plain_lines: Callable[[int], list[str]]) -> Path:
    """The folder of a text corpus with 120 records of very different lengths, 20 of them held out."""
    folder = tmp_path_factory.mktemp("corpus")
    lines = plain_lines(240)
    texts = [" ".join(lines[i : i + 1 + i % 5]) for i in range(120)]
    split = ["validation" if i % 6 == 0 else "train" for i in range(120)]
    pl.DataFrame({"id": [f"r{i}" for i in range(120)], "sequence": texts, "split": split}).write_parquet(folder / "records.parquet")
    return folder


@pytest.fixture(scope="session")
def arguments(corpus: Path, model_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """arguments("decoder", steps=4, …) -> what biollm.pretrain.task:build is called with."""
    from biollm.pretrain.config import Config
    from biollm.pretrain.task import read_materials

    def make(architecture: str, model: str | None = None, **settings: Any) -> dict[str, Any]:
        config = Config(**{"steps": 4, "batch_size": 4, "row_tokens": CONTEXT, "precision": "fp32", "trackers": []} | settings)
        folder, documents = Path(model or model_folder(architecture)), tmp_path_factory.mktemp("documents")
        read_materials(corpus, folder, "text", [], config, documents)
        where = {"corpus": str(corpus), "model": str(folder), "modality": "text", "documents": str(documents)}
        return where | {"config": config.model_dump(), "seed": 5, "weights": None, "new_rows_from": None}

    return make


@pytest.fixture(scope="session")
def run_of(arguments: Callable[..., dict[str, Any]]) -> Callable[..., tuple[Recipe, Config, RunSettings, Path]]:
    """run_of("decoder", work, steps=4, …) -> what `train` is asked for."""

    def make(architecture: str, work: Path, **settings: Any) -> tuple[Recipe, Config, RunSettings, Path]:
        from biollm.pretrain.config import Config
        from biollm.training.run import RunSettings
        from biollm.training.task import Recipe

        values = arguments(architecture, **{"log_steps": 1, "checkpoint_steps": 2} | settings)
        return Recipe("biollm.pretrain.task:build", values), Config(**values["config"]), RunSettings(5, "test"), work

    return make


@pytest.fixture(scope="session")
def pretrain(run_of: Callable[..., tuple[Recipe, Config, RunSettings, Path]]) -> Callable[..., Trained]:
    """pretrain("decoder", work, steps=4, …) -> what the run gives."""

    def run(architecture: str, work: Path, **settings: Any) -> Trained:
        from biollm.training.run import train

        *asked, _ = run_of(architecture, work, **settings)
        return train(*asked, work=work, logs=work / "logs")

    return run
