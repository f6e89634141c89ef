"""What is no loadable model folder is refused in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import RobertaConfig, RobertaModel

from biollm.core.errors import BiollmError, ConfigError
from biollm.modeling.loading import copy_tokenizer, load_model, load_stock, store_as_in, token_capacity
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


def _drop(folder: Path, *keys: str) -> None:
    weights = load_file(folder / "model.safetensors")
    assert all(key in weights for key in keys)
    save_file({k: v for k, v in weights.items() if k not in keys}, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("kind", ["AutoModel", "AutoModelForMaskedLM"])
def test_weights_without_a_tensor_are_refused_with_its_name(folder: Path, kind: str) -> None:
    load_stock(folder, kind)
    _drop(folder, "bert.embeddings.word_embeddings.weight")
    with pytest.raises(
        ConfigError, match=r"bert: its weights lack .*word_embeddings\.weight.* of a BertForMaskedLM: no \.safetensors file"
    ):
        load_stock(folder, kind)


def test_an_index_that_names_no_file_for_a_tensor_is_named(folder: Path) -> None:
    stock = load_stock(folder, "AutoModelForMaskedLM")
    (folder / "model.safetensors").unlink()
    stock.save_pretrained(str(folder), max_shard_size="20KB")
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    del content["weight_map"]["bert.encoder.layer.0.output.dense.bias"]
    file = content["weight_map"]["bert.embeddings.word_embeddings.weight"]
    content["weight_map"] = {key: name for key, name in content["weight_map"].items() if name != file}
    index.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"model\.safetensors\.index\.json names no file for them"):
        load_stock(folder, "AutoModelForMaskedLM")


def test_heads_and_poolers_that_a_folder_has_not_are_new(folder: Path) -> None:
    load_stock(folder, "AutoModelForSequenceClassification")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["BertModel"]}))
    assert load_stock(folder, "AutoModel").pooler is not None, "drawn anew"
    _drop(folder, *(key for key in load_file(folder / "model.safetensors") if key.startswith("cls.")))
    load_stock(folder, "AutoModelForMaskedLM")
    del config["architectures"]
    (folder / "config.json").write_text(json.dumps(config))
    load_stock(folder, "AutoModelForMaskedLM")
    _drop(folder, "bert.encoder.layer.0.output.dense.bias")
    with pytest.raises(ConfigError, match=r"its weights lack bert\.encoder\.layer\.0\.output\.dense\.bias of a BertModel"):
        load_stock(folder, "AutoModelForMaskedLM")


def test_weights_go_back_into_the_format_of_the_folder_or_are_refused(folder: Path) -> None:
    load_stock(folder, "AutoModelForMaskedLM").half().save_pretrained(str(folder))
    stock = load_stock(folder, "AutoModelForMaskedLM")
    store_as_in(stock, folder)
    assert {parameter.dtype for parameter in stock.parameters()} == {torch.float16}
    stock = load_stock(folder, "AutoModelForMaskedLM")
    stock.get_input_embeddings().weight.data[3] = 1e6
    with pytest.raises(ConfigError, match=r"word_embeddings\.weight: new values are not finite in float16; choose another initialiser"):
        store_as_in(stock, folder)


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
