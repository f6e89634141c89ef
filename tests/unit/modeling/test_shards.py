"""Surgery on files gives what surgery in memory gives, bit for bit, and damages nothing."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from biollm.core.artifacts import make_artifact
from biollm.core.errors import BiollmError, ConfigError, ResourceError
from biollm.core.resources import digest_folder as digest
from biollm.modeling import file_copies, shards
from biollm.modeling.shards import expand_shards, read_checkpoint, read_header, read_table
from biollm.modeling.surgery import TRUE_SIZE, resize, tables_of

V, N, D = 90, 7, 32
_IDS = {"pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3}
_SHAPE = {"vocab_size": V, "hidden_size": D, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48, **_IDS}
_GPT2 = {"vocab_size": V, "n_embd": D, "n_layer": 2, "n_head": 2, "n_positions": 64, **_IDS}
_T5 = {"vocab_size": V, "d_model": D, "d_kv": 16, "d_ff": 48, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 1, **_IDS}
_GEMMA3 = {
    "text_config": _SHAPE | {"num_key_value_heads": 1, "head_dim": 16},
    "vision_config": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "image_size": 28,
                      "patch_size": 14},
    "mm_tokens_per_image": 4, "image_token_index": 5, "boi_token_index": 6, "eoi_token_index": 7,
}  # fmt: skip
_BART = {"vocab_size": V, "d_model": D, "max_position_embeddings": 64, "decoder_start_token_id": 1, "forced_eos_token_id": 3, **_IDS} | {
    f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in (("layers", 1), ("attention_heads", 2), ("ffn_dim", 48))
}
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("BertForMaskedLM", "BertConfig", _SHAPE),
    "bert-untied": ("BertForMaskedLM", "BertConfig", _SHAPE | {"tie_word_embeddings": False}),
    "bert-headless": ("BertModel", "BertConfig", _SHAPE),
    "roberta": ("RobertaForMaskedLM", "RobertaConfig", _SHAPE),
    "modernbert": ("ModernBertForMaskedLM", "ModernBertConfig", _SHAPE | {"cls_token_id": 2, "sep_token_id": 3}),
    "modernbert-untied-nobias": (
        "ModernBertForMaskedLM",
        "ModernBertConfig",
        _SHAPE | {"cls_token_id": 2, "sep_token_id": 3, "tie_word_embeddings": False, "decoder_bias": False},
    ),
    "esm": ("EsmForMaskedLM", "EsmConfig", _SHAPE | {"mask_token_id": 4}),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", _GPT2),
    "llama": ("LlamaForCausalLM", "LlamaConfig", _SHAPE),
    "llama-tied": ("LlamaForCausalLM", "LlamaConfig", _SHAPE | {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", _SHAPE | {"head_dim": 16}),
    "gemma": ("GemmaForCausalLM", "GemmaConfig", _SHAPE | {"head_dim": 16}),
    "gemma3-nested": ("Gemma3ForConditionalGeneration", "Gemma3Config", _GEMMA3),
    "t5": ("T5ForConditionalGeneration", "T5Config", _T5),
    "t5-untied": ("T5ForConditionalGeneration", "T5Config", _T5),
    "bart": ("BartForConditionalGeneration", "BartConfig", _BART),
    "marian": ("MarianMTModel", "MarianConfig", _BART),
}


def write_base(folder: Path, name: str, dtype: torch.dtype = torch.float32, shard_size: str | int = "50GB") -> Path:
    """A tiny random model folder as save_pretrained writes it."""
    model_name, config_name, values = MODELS[name]
    torch.manual_seed(0)
    model = getattr(transformers, model_name)(getattr(transformers, config_name)(**values))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
        if config_name in ("BartConfig", "MarianConfig"):
            model.final_logits_bias.normal_()
    if name == "t5-untied":
        model.lm_head.weight = nn.Parameter(torch.randn(V, D))
    model.to(dtype).save_pretrained(str(folder), max_shard_size=shard_size)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "README.md").write_text("a card")
    return folder


def open_stock(folder: Path, name: str) -> Any:
    return getattr(transformers, MODELS[name][0]).from_pretrained(str(folder), dtype="auto")


def rows(seed: int = 0, count: int = N) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, D)).astype(np.float32)


def both_ways(tmp_path: Path, name: str, dtype: torch.dtype, multiple: int, shard_size: str | int = "50GB") -> tuple[Path, Path]:
    """The same surgery in memory and on shards: (folder of the one, folder of the other)."""
    base = write_base(tmp_path / "base", name, dtype, shard_size)
    untouched = digest(base)
    model = open_stock(base, name)
    resize(model, V + N, torch.from_numpy(rows()), pad_to_multiple=multiple)
    model.save_pretrained(str(tmp_path / "memory"), max_shard_size=shard_size)
    (tmp_path / "files").mkdir()
    expand_shards(base, tmp_path / "files", rows(), V + N, pad_to_multiple=multiple)
    assert digest(base) == untouched
    return tmp_path / "memory", tmp_path / "files"


@pytest.mark.parametrize("multiple", [1, 16], ids=["unpadded", "padded"])
@pytest.mark.parametrize("shard_size", ["50GB", 9000], ids=["one file", "shards"])
@pytest.mark.parametrize("name", MODELS)
def test_files_and_memory_give_the_same_model_bit_for_bit(name: str, shard_size: str | int, multiple: int, tmp_path: Path) -> None:
    memory, files = both_ways(tmp_path, name, torch.float32, multiple, shard_size)
    one, other = open_stock(memory, name), open_stock(files, name)
    was, now = one.state_dict(), other.state_dict()
    assert was.keys() == now.keys()
    assert [key for key in was if not torch.equal(was[key], now[key])] == []
    assert one.config.to_json_string() == other.config.to_json_string()
    assert (tables_of(one).output is None) == (tables_of(other).output is None)
    if one.can_generate():
        assert one.generation_config.to_dict() == other.generation_config.to_dict()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["bert-untied", "esm", "llama", "t5-untied", "bart"])
def test_half_precision_is_kept_and_rounded_alike(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    memory, files = both_ways(tmp_path, name, dtype, 16)
    was, now = open_stock(memory, name).state_dict(), open_stock(files, name).state_dict()
    stored = read_checkpoint(files).tables.values()
    assert {tensor.dtype for tensor, _ in stored} == {"BF16" if dtype == torch.bfloat16 else "F16"}
    assert [key for key in was if not torch.equal(was[key], now[key])] == []


@pytest.mark.parametrize("name", ["bert-untied", "gpt2", "llama", "t5", "t5-untied", "bart"])
def test_the_index_says_what_the_files_hold(name: str, tmp_path: Path) -> None:
    memory, files = both_ways(tmp_path, name, torch.float32, 16, 9000)
    one, other = (json.loads((folder / "model.safetensors.index.json").read_text()) for folder in (memory, files))
    assert one["metadata"]["total_parameters"] == other["metadata"]["total_parameters"]
    assert one["metadata"]["total_size"] == other["metadata"]["total_size"]
    assert len(set(other["weight_map"].values())) > 3
    for key, file in other["weight_map"].items():
        with safe_open(files / file, framework="pt") as opened:
            assert key in opened.keys()  # noqa: SIM118  not a dict


def test_a_tied_table_that_is_stored_twice_stays_tied(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "llama-tied")
    tensors = load_file(base / "model.safetensors")
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, base / "model.safetensors", {"format": "pt"})
    (tmp_path / "out").mkdir()
    facts = expand_shards(base, tmp_path / "out", rows(), V + N, pad_to_multiple=16)
    assert facts["tied"]
    assert len(facts["tables"]) == 2
    model = open_stock(tmp_path / "out", "llama-tied")
    assert tables_of(model).output is None
    assert torch.equal(tables_of(model).input[V : V + N], torch.from_numpy(rows()))


def test_keys_without_the_prefix_of_the_inner_model_are_found(tmp_path: Path) -> None:
    """The first GPT-2 files name their tensors as GPT2Model does, under a config that names GPT2LMHeadModel."""
    base = write_base(tmp_path / "base", "gpt2")
    tensors = {key.removeprefix("transformer."): value for key, value in load_file(base / "model.safetensors").items()}
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    (tmp_path / "out").mkdir()
    facts = expand_shards(base, tmp_path / "out", rows(), V + N)
    assert [table["key"] for table in facts["tables"]] == ["wte.weight"]
    assert torch.equal(tables_of(open_stock(tmp_path / "out", "gpt2")).input[V:], torch.from_numpy(rows()))


@pytest.mark.parametrize("name", ["llama", "t5-untied"])
def test_an_untied_output_table_may_have_rows_of_its_own(name: str, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", name)
    (tmp_path / "out").mkdir()
    expand_shards(base, tmp_path / "out", rows(), V + N, new_output_rows_ND=rows(1))
    tables = tables_of(open_stock(tmp_path / "out", name))
    assert tables.output is not None
    assert torch.equal(tables.input[V:], torch.from_numpy(rows()))
    assert torch.equal(tables.output[V:], torch.from_numpy(rows(1)))


def test_output_rows_for_a_tied_table_are_refused(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "llama-tied")
    with pytest.raises(ConfigError, match="has no output table apart from its input table: leave them out"):
        expand_shards(base, tmp_path / "out", rows(), V + N, new_output_rows_ND=rows(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_base_rows_are_read_without_the_model(dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_CHUNK_BYTES", 1000)  # several chunks
    base = write_base(tmp_path / "base", "llama", dtype, 9000)
    tables = tables_of(open_stock(base, "llama"))
    assert tables.output is not None
    assert np.array_equal(read_table(base, "input"), tables.input.detach().float().numpy())
    assert np.array_equal(read_table(base, "output"), tables.output.detach().float().numpy())
    some = np.array([89, 0, 17, 17, 3])
    assert np.array_equal(read_table(base, "input", some), tables.input.detach().float().numpy()[some])
    assert read_table(base, "input", np.array([], dtype=np.int64)).shape == (0, D)
    with pytest.raises(ConfigError, match="row 90 was asked for, but its input table has 90 rows"):
        read_table(base, "input", np.array([90]))


def test_the_output_table_of_a_tied_model_is_its_input_table(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "bert")
    assert np.array_equal(read_table(base, "output"), read_table(base, "input"))


def test_an_output_table_that_is_not_there_is_refused(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "bert-headless")
    _edit(base / "config.json", lambda config: config.update(tie_word_embeddings=False))
    with pytest.raises(ConfigError, match="its weights hold no output table, and its config ties none"):
        read_table(base, "output")


def test_other_files_travel_except_stale_ones(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "bert")
    for name in ("pytorch_model.bin", "onnx/model.onnx", "1_Pooling/config.json", ".cache/x", "vocab.txt", "manifest.json", "fusion.json"):
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).write_text("{}")
    (tmp_path / "out").mkdir()
    facts = expand_shards(base, tmp_path / "out", rows(), V + N)
    written = sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert written == ["1_Pooling/config.json", "README.md", "config.json", "model.safetensors"]
    assert facts["copied"] == ["1_Pooling/config.json", "README.md"]
    assert facts["left_out"] == ["fusion.json", "manifest.json", "onnx/model.onnx", "pytorch_model.bin", "tokenizer.json", "vocab.txt"]


def test_every_other_key_of_the_config_stays(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "gemma3-nested")
    (tmp_path / "out").mkdir()
    expand_shards(base, tmp_path / "out", rows(), V + N, pad_to_multiple=16)
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (base, tmp_path / "out"))
    assert after["text_config"].pop("vocab_size") == 112
    assert after["text_config"].pop(TRUE_SIZE) == V + N
    assert before["text_config"].pop("vocab_size") == V
    assert after == before


def test_a_folder_without_generation_config_gets_one_to_suppress_padding(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "gpt2")
    (base / "generation_config.json").unlink()
    for name, multiple in (("plain", 1), ("padded", 16)):
        (tmp_path / name).mkdir()
        expand_shards(base, tmp_path / name, rows(), V + N, pad_to_multiple=multiple)
    assert not (tmp_path / "plain" / "generation_config.json").exists()
    generation = transformers.GenerationConfig.from_pretrained(str(tmp_path / "padded"))
    assert generation.suppress_tokens == list(range(V + N, 112))
    assert (generation.bos_token_id, generation.eos_token_id, generation.pad_token_id) == (2, 3, 1)


def test_padding_of_the_base_becomes_tokens(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "llama")
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    expand_shards(base, tmp_path / "one", rows(), V + N, pad_to_multiple=64)
    expand_shards(tmp_path / "one", tmp_path / "two", rows(1), V + 2 * N)
    table = tables_of(open_stock(tmp_path / "two", "llama")).input.detach().numpy()
    assert np.array_equal(table[V : V + N], rows())
    assert np.array_equal(table[V + N :], rows(1))
    assert TRUE_SIZE not in json.loads((tmp_path / "two" / "config.json").read_text())
    assert "suppress_tokens" not in json.loads((tmp_path / "two" / "generation_config.json").read_text())
    (tmp_path / "three").mkdir()
    with pytest.raises(ConfigError, match="the model has 97 rows; with 7 new tokens that is 104, but the merged tokenizer has 105 tokens"):
        expand_shards(tmp_path / "one", tmp_path / "three", rows(), V + 2 * N + 1)


def _edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def _first_shard(folder: Path) -> Path:
    return sorted(folder.glob("model-*.safetensors"))[0]


def _rewrite_header(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a header; what is behind it stays."""
    data = _first_shard(folder).read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    _first_shard(folder).write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def _cut(folder: Path, keep: int) -> None:
    shard = _first_shard(folder)
    shard.write_bytes(shard.read_bytes()[:keep])


def _first_tensor(header: dict[str, Any]) -> dict[str, Any]:
    return next(value for key, value in header.items() if key != "__metadata__")


def _set(folder: Path, name: str, **values: Any) -> None:
    _edit(folder / name, lambda config: config.update(values))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a shard cut": (
        lambda f: _cut(f, -10),
        r"model-00001-of-\d+.safetensors: damaged: \d+ bytes, but its header describes \d+; fetch or save",
    ),
    "a shard empty": (lambda f: _cut(f, 0), "damaged: it does not begin with a safetensors header \\(0 bytes in all\\)"),
    "a shard cut in its header": (lambda f: _cut(f, 40), "damaged: it does not begin with a safetensors header"),
    "a header of noise": (
        lambda f: _first_shard(f).write_bytes(struct.pack("<Q", 9) + b"not JSON!"),
        "its safetensors header is not readable",
    ),
    "a header that is a list": (lambda f: _first_shard(f).write_bytes(struct.pack("<Q", 2) + b"[]"), "header is not readable"),
    "a length of terabytes": (
        lambda f: _first_shard(f).write_bytes(b"\x00" * 5 + b"\xff" + b"\x00" * 20),
        "does not begin with a safetensors",
    ),
    "a shape that is not that of the bytes": (
        lambda f: _rewrite_header(f, lambda h: _first_tensor(h).update(shape=[91, 32])),
        r"damaged: the header's place of .* does not fit its shape \[91, 32\]",
    ),
    "a gap": (lambda f: _rewrite_header(f, lambda h: _first_tensor(h).update(data_offsets=[8, 16])), "damaged: the header's place of"),
    "a shard missing": (
        lambda f: _first_shard(f).unlink(),
        r"model-00001-of-\d+.safetensors: no such file, but the model's index names it",
    ),
    "an index that names a missing tensor": (
        lambda f: _edit(f / "model.safetensors.index.json", lambda i: i["weight_map"].update(extra=_first_shard(f).name)),
        r"index.json: says that model-00001-of-\d+.safetensors holds extra, but it does not; fetch the model again",
    ),
    "an index that leaves the folder": (
        lambda f: _edit(f / "model.safetensors.index.json", lambda i: i["weight_map"].update(extra="../other.safetensors")),
        "names '../other.safetensors', which is no safetensors file of this folder",
    ),
    "an index without a map": (lambda f: _edit(f / "model.safetensors.index.json", lambda i: i.pop("weight_map")), "has no weight_map"),
    "an index that is no JSON": (lambda f: (f / "model.safetensors.index.json").write_text("{"), "index.json: not valid JSON"),
    "no weights": (
        lambda f: (f / "model.safetensors.index.json").unlink(),
        "holds neither model.safetensors nor model.safetensors.index.json",
    ),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json: no such file; a model folder holds config.json"),
    "a config of no model": (lambda f: (f / "config.json").write_text("{}"), "config.json: transformers cannot read it: "),
    "an unknown architecture": (
        lambda f: _set(f, "config.json", architectures=["MyModel"]),
        "the architecture MyModel, which transformers",
    ),
    "another vocabulary": (
        lambda f: _set(f, "config.json", vocab_size=95),
        "has 90 rows, but config.json's vocab_size is 95; fetch the model again",
    ),
    "a special id behind the vocabulary": (
        lambda f: _set(f, "config.json", eos_token_id=90),
        "config.json: eos_token_id is 90, but the base's tokenizer has 90 tokens",
    ),
    "the same in the generation config": (
        lambda f: _set(f, "generation_config.json", eos_token_id=[3, 91]),
        "generation_config.json: eos_token_id is 91, but the base's",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named_in_one_line_before_anything_is_written(damage: str, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "llama", shard_size=9000)
    change, message = DAMAGE[damage]
    change(base)
    (tmp_path / "out").mkdir()
    with pytest.raises(BiollmError, match=message) as caught:
        expand_shards(base, tmp_path / "out", rows(), V + N)
    assert str(base) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert list((tmp_path / "out").iterdir()) == []


def test_a_special_id_behind_a_table_that_shrinks_is_refused(tmp_path: Path) -> None:
    """90 rows, of which 80 are tokens; 5 new ones make 85: transformers could not open a model whose pad id is 88."""
    base = write_base(tmp_path / "base", "llama")
    _set(base, "config.json", pad_token_id=88)
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match=r"config.json: pad_token_id is 88, but the base's tokenizer has 80 tokens, so that no token"):
        expand_shards(base, tmp_path / "out", rows(count=5), 85)
    assert list((tmp_path / "out").iterdir()) == []


def test_weights_without_the_tables_of_the_architecture_are_refused(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "bert")
    save_file({"something": torch.zeros(3, 2)}, base / "model.safetensors")
    with pytest.raises(ConfigError, match="its weights hold none of the embedding tables of BertForMaskedLM"):
        read_checkpoint(base)


def test_a_table_that_the_architecture_does_not_know_is_refused(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "bert")
    save_file(load_file(base / "model.safetensors") | {"old.head": torch.zeros(V, 2)}, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=r"old\.head has one row per token \(90\), but BertForMaskedLM has no such parameter"):
        read_checkpoint(base)


def test_an_offset_of_the_logits_that_the_architecture_does_not_know_is_refused(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "t5")
    tensors = load_file(base / "model.safetensors") | {"final_logits_bias": torch.zeros(1, V)}
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=r"final_logits_bias has one row per token \(90\), but T5ForConditionalGeneration has no such"):
        read_checkpoint(base)


def test_quantised_tables_are_refused(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "bert")
    tensors = load_file(base / "model.safetensors")
    tensors["bert.embeddings.word_embeddings.weight"] = torch.zeros(V, D, dtype=torch.int8)
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match="is stored as I8; expected one of F64, F32, F16, BF16: use the unquantised model"):
        read_checkpoint(base)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((N, D + 1), np.float32), r"new rows have the shape \(7, 33\), expected \(7, 32\)"),
        (np.full((N, D), np.nan, np.float32), "new rows are not finite in float32; choose another initialiser"),
    ],
    ids=["wrong width", "not a number"],
)
def test_rows_that_do_not_fit_are_refused_before_anything_is_written(bad: np.ndarray, message: str, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "bert")
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match=message):
        expand_shards(base, tmp_path / "out", bad, V + N)
    assert list((tmp_path / "out").iterdir()) == []


def test_the_base_folder_is_never_the_place_to_write(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "bert")
    before = digest(base)
    with pytest.raises(ConfigError, match="is the base's own folder, which is never changed; choose another"):
        expand_shards(base, base, rows(), V + N)
    assert digest(base) == before


def test_a_link_to_the_base_in_the_new_folder_is_not_written_through(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "bert")
    before = digest(base)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.safetensors").hardlink_to(base / "model.safetensors")
    with pytest.raises(FileExistsError):
        expand_shards(base, tmp_path / "out", rows(), V + N)
    assert digest(base) == before


def test_a_full_disk_in_the_middle_is_one_clear_error_and_leaves_nothing(
    tmp_path: Path, files_of_at_most: Callable[[int], AbstractContextManager[None]]
) -> None:
    base = write_base(tmp_path / "base", "llama", shard_size=9000)
    before = digest(base)
    target = tmp_path / "results" / "expand"

    def fill(out: Path, work: Path) -> dict[str, Any]:
        return expand_shards(base, out, rows(), V + N)

    refused = pytest.raises(ResourceError, match=r"results/expand: cannot write: the file would exceed the file-size limit")
    with files_of_at_most(10_000), refused:  # the small shards pass, a table does not
        make_artifact(target, stage="expand", key="0" * 64, config={}, seed=0, inputs={}, reproducibility="bitwise", fill=fill)
    assert not target.exists()
    assert not target.with_name(".expand.partial").exists()
    assert digest(base) == before


def test_holes_stay_holes(tmp_path: Path) -> None:
    """A table of 64 MB that was never written takes no space, here and there."""
    base = write_base(tmp_path / "base", "bert")
    header = {"big": {"dtype": "F32", "shape": [1 << 24], "data_offsets": [0, 1 << 26]}}
    tensors = read_header(base / "model.safetensors")
    at = 1 << 26
    body = (base / "model.safetensors").read_bytes()
    for tensor in tensors.tensors:
        header[tensor.key] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [at, at + tensor.end - tensor.begin]}
        at += tensor.end - tensor.begin
    text = json.dumps(header).encode()
    with (base / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.seek(1 << 26, os.SEEK_CUR)
        file.write(body[tensors.tensors[0].begin :])
    if (base / "model.safetensors").stat().st_blocks * 512 > 1 << 25:
        pytest.skip("this file system keeps no holes")
    (tmp_path / "out").mkdir()
    expand_shards(base, tmp_path / "out", rows(), V + N)
    grown = tmp_path / "out" / "model.safetensors"
    assert grown.stat().st_blocks * 512 < 1 << 25
    was, now = load_file(base / "model.safetensors"), load_file(grown)
    tables = {t.key for t, _ in read_checkpoint(base).tables.values()}
    assert all(torch.equal(now[key][:V] if key in tables else now[key], value) for key, value in was.items())


@pytest.mark.parametrize("missing", ["copy_file_range", "SEEK_DATA"])
def test_systems_without_these_calls_copy_all_the_same(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, missing)
    monkeypatch.setattr(shards, "_CHUNK_BYTES", 1000)
    monkeypatch.setattr(file_copies, "CHUNK_BYTES", 1000)
    memory, files = both_ways(tmp_path, "bert-untied", torch.float32, 16, 9000)
    was, now = open_stock(memory, "bert-untied").state_dict(), open_stock(files, "bert-untied").state_dict()
    assert [key for key in was if not torch.equal(was[key], now[key])] == []


def test_file_systems_that_refuse_to_copy_in_the_kernel_are_copied_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> int:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    memory, files = both_ways(tmp_path, "gpt2", torch.float32, 1)
    was, now = open_stock(memory, "gpt2").state_dict(), open_stock(files, "gpt2").state_dict()
    assert [key for key in was if not torch.equal(was[key], now[key])] == []


def test_a_large_table_is_grown_in_little_memory(tmp_path: Path) -> None:
    """1 GB of tables, of which nothing is written; the limit is far below one table. The benchmark `shards` has the real sizes."""
    vocabulary, width = 1 << 17, 2048
    code = (
        "import sys, resource, numpy as np, pathlib\n"
        "from biollm.modeling.shards import expand_shards\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10\n"
        "import transformers.models.llama.modeling_llama\n"
        "before = peak()\n"
        f"expand_shards(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), np.ones((64, {width}), np.float32), {vocabulary + 64})\n"
        "print(peak() - before)\n"
    )
    config = transformers.LlamaConfig(**_SHAPE | {"vocab_size": vocabulary, "hidden_size": width, "num_hidden_layers": 1})
    config.architectures = ["LlamaForCausalLM"]
    base, out = tmp_path / "base", tmp_path / "out"
    out.mkdir()
    config.save_pretrained(str(base))
    table = vocabulary * width * 2
    header = {
        name: {"dtype": "BF16", "shape": [vocabulary, width], "data_offsets": [i * table, (i + 1) * table]}
        for i, name in enumerate(("model.embed_tokens.weight", "lm_head.weight"))
    }
    text = json.dumps(header).encode()
    with (base / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + 2 * table)
    if (base / "model.safetensors").stat().st_blocks * 512 > table:
        pytest.skip("this file system keeps no holes")
    done = subprocess.run([sys.executable, "-c", code, str(base), str(out)], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 200
    assert read_checkpoint(out).rows == vocabulary + 64
