"""What is no loadable model folder is refused in one line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import RobertaConfig, RobertaModel

from biollm.core.errors import BiollmError, ConfigError
from biollm.modeling.loading import copy_tokenizer, load_model, load_stock, token_capacity
from biollm.modeling.vocabulary import DomainVocabulary


@pytest.fixture
def folder(bert_base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bert_base, tmp_path / "bert"))


def test_a_model_is_loaded_in_float32_and_ready_for_inference(folder: Path) -> None:
    model = load_model(folder)
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_pickled_weights_are_never_read(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"holds no \.safetensors weights \(pickled \.bin files are never read\)"):
        load_model(folder)


def _cut_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


_DAMAGE: dict[str, Callable[[Path], object]] = {
    "no config": lambda f: (f / "config.json").unlink(),
    "config no JSON": lambda f: (f / "config.json").write_text("{"),
    "config without a type": lambda f: (f / "config.json").write_text("{}"),
    "weights cut": _cut_weights,
    "weights empty": lambda f: (f / "model.safetensors").write_bytes(b""),
}


@pytest.mark.parametrize("damage", _DAMAGE)
def test_a_damaged_folder_is_refused_in_one_line_with_its_name(folder: Path, damage: str) -> None:
    _DAMAGE[damage](folder)
    with pytest.raises(BiollmError) as caught:
        load_model(folder)
    assert str(folder) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_model_of_another_kind_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="transformers cannot load it as AutoModelForSeq2SeqLM: "):
        load_stock(folder, "AutoModelForSeq2SeqLM")


def test_capacity_is_the_smaller_of_positions_and_what_the_tokenizer_declares(folder: Path) -> None:
    stock = load_stock(folder, "AutoModel")
    assert token_capacity(folder, stock.config) == 128
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 100}')
    assert token_capacity(folder, stock.config) == 100
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 1000000000000000019884624838656}')
    assert token_capacity(folder, stock.config) == 128
    (folder / "tokenizer_config.json").unlink()
    assert token_capacity(folder, stock.config) == 128


def test_capacity_of_roberta_leaves_out_the_positions_behind_padding(tmp_path: Path) -> None:
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 50}
    model = RobertaModel(RobertaConfig(**shape, max_position_embeddings=34, pad_token_id=1)).eval()
    capacity = token_capacity(tmp_path, model.config)
    assert capacity == 32
    model(input_ids=torch.full((1, capacity), 5))
    with pytest.raises((IndexError, RuntimeError), match="out of"):
        model(input_ids=torch.full((1, capacity + 1), 5))


def test_the_tokenizer_files_travel_and_nothing_else(tiny_results: Path, tmp_path: Path) -> None:
    copy_tokenizer(tiny_results / "expand", tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["biollm_vocabulary.json", "tokenizer.json", "tokenizer_config.json"]


def test_a_vocabulary_sidecar_of_another_version_is_refused_in_one_line(tmp_path: Path) -> None:
    assert DomainVocabulary.load(tmp_path) is None
    (tmp_path / "biollm_vocabulary.json").write_text('{"strategy": "isolate"}')
    with pytest.raises(ConfigError, match=r"biollm_vocabulary.json"):
        DomainVocabulary.load(tmp_path)
