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
