"""What transformers knows beside tokenizer.json is kept, or the merge stops."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from biollm.core.errors import ConfigError, DataError
from biollm.merge.settings import merged_settings, open_stock, prove_transformers_opens
from tokenizers import Tokenizer


@pytest.fixture
def base(tmp_path: Path, base_tokenizer: Callable[[str], Tokenizer]) -> tuple[Path, Tokenizer]:
    """A GPT-2 folder as on the hub: its class alone knows the special tokens."""
    folder = tmp_path / "base"
    folder.mkdir()
    base_tokenizer("gpt2").save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 1024, "padding_side": "left"}))
    return folder, base_tokenizer("gpt2")


def merged_folder(base: tuple[Path, Tokenizer], **changes: Any) -> Path:
    folder = base[0].parent / "merged"
    folder.mkdir()
    base[1].save(str(folder / "tokenizer.json"))
    settings, notes = merged_settings(*base)
    assert notes == []
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | changes))
    return folder


def test_all_that_the_class_supplies_is_written_down(base: tuple[Path, Tokenizer]) -> None:
    folder = merged_folder(base)
    prove_transformers_opens(folder, base[1], *base, ["the gene"])
    stock = open_stock(folder)
    assert (stock.eos_token, stock.padding_side, stock.model_max_length) == ("<|endoftext|>", "left", 1024)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eos_token": None}, "AutoTokenizer's special tokens of the merged tokenizer: "),
        ({"eos_token": "<|new|>"}, "AutoTokenizer's special tokens of the merged tokenizer: "),
        ({"padding_side": "right"}, "AutoTokenizer's padding_side of the merged tokenizer: right, but left with the base"),
        ({"model_input_names": ["input_ids"]}, "AutoTokenizer's model_input_names of the merged tokenizer: "),
    ],
)
def test_what_differs_from_the_base_stops_the_merge(base: tuple[Path, Tokenizer], change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        prove_transformers_opens(merged_folder(base, **change), base[1], *base, ["the gene"])


@pytest.mark.parametrize(
    ("kind", "model_type", "mapped"),
    [
        ("qwen", "qwen2", True),
        ("qwen", "qwen3", False),
        ("bert_cased", "bert", False),
        ("llama2", "llama", False),
        ("llama2", "gemma", False),
        ("mistral", "mistral", False),
        ("t5", "t5", False),
        ("gpt2", "of_a_lab", False),
    ],
)
def test_stock_transformers_opens_it_beside_the_config_of_every_model_type(
    tmp_path: Path,
    base_tokenizer: Callable[[str], Tokenizer],
    domain_tokenizer: Callable[..., Any],
    start_merge: Callable[[Tokenizer], Any],
    kind: str,
    model_type: str,
    mapped: bool,
) -> None:
    """For a Qwen2 model AutoTokenizer takes Qwen2Tokenizer, which has no rules for sequences, whatever class the settings name."""
    from transformers import AutoTokenizer

    base, folder, out = base_tokenizer(kind), tmp_path / "base", tmp_path / "out"
    folder.mkdir()
    out.mkdir()
    base.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "auto_map": {"AutoTokenizer": "a.B"}})
    )
    merged = start_merge(base).add(domain_tokenizer("dna", {"bert_cased": "wordpiece", "t5": "unigram"}.get(kind, "bpe")))
    settings, _ = merged_settings(folder, base)
    assert ("auto_map" in settings) == mapped
    merged.tokenizer.save(str(out / "tokenizer.json"))
    (out / "tokenizer_config.json").write_text(json.dumps(settings))
    texts = ["the gene", "the GATTACAGATTACA and <dna>ACGT</dna>"]
    prove_transformers_opens(out, merged.tokenizer, folder, base, texts)
    if mapped:
        assert merged_settings(out, base)[0]["auto_map"] == settings["auto_map"], "a merged tokenizer is the base of the next merge"
        (out / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
        with pytest.raises(
            DataError, match=r"otherwise than tokenizers does, .*GATTACA.* \(it opens it as Qwen2Tokenizer\); please report"
        ):
            prove_transformers_opens(out, merged.tokenizer, folder, base, texts)
        (out / "tokenizer_config.json").write_text(json.dumps(settings))
    (out / "config.json").write_text(json.dumps({"model_type": model_type}))
    AutoTokenizer.from_pretrained(str(out)).save_pretrained(str(tmp_path / "again"))
    (tmp_path / "again" / "config.json").write_text(json.dumps({"model_type": model_type}))
    for place in (out, tmp_path / "again"):
        assert AutoTokenizer.from_pretrained(str(place))(texts)["input_ids"] == [merged.tokenizer.encode(text).ids for text in texts]


def test_a_tokenizer_that_autotokenizer_cannot_open_stops_the_merge(base: tuple[Path, Tokenizer]) -> None:
    folder = merged_folder(base, auto_map={"AutoTokenizer": [None, None]})
    with pytest.raises(DataError, match=r"merge: AutoTokenizer cannot open the merged tokenizer: .*; please report the base"):
        prove_transformers_opens(folder, base[1], *base, ["the gene"])


def test_a_class_that_reads_text_otherwise_is_said(tmp_path: Path, base_tokenizer: Callable[[str], Tokenizer]) -> None:
    """Our small BERT has no post-processor; BertTokenizer adds one."""
    base_tokenizer("bert_cased").save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    _, notes = merged_settings(tmp_path, base_tokenizer("bert_cased"))
    assert notes == ["its class BertTokenizer reads text otherwise than its tokenizer.json, which is what was merged"]


def test_a_folder_that_transformers_cannot_open(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"transformers cannot open its tokenizer: .*; save it again with AutoTokenizer"):
        open_stock(tmp_path)
