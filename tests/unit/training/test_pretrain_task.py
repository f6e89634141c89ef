"""What continued pretraining trains on: ends of texts, and what `objective: auto` means for a model."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from biollm.core.errors import ConfigError, DataError
from biollm.modeling.corpus import evenly
from biollm.modeling.encoding import Encoder
from biollm.pretrain.config import Config
from biollm.pretrain.task import Materials, make_module, make_plan, read_materials
from biollm.training.objectives import IGNORED

CONTEXT = 64  # of the tiny models


@pytest.fixture
def ended(model_folder: Callable[[str], Path], tmp_path: Path) -> Path:
    """The tiny decoder with an end of text."""
    folder = Path(shutil.copytree(model_folder("decoder"), tmp_path / "model"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"}))
    return folder


def read(corpus: Path, model: Path, config: Config) -> Materials:
    with tempfile.TemporaryDirectory() as documents:  # a memory map keeps what it reads
        return read_materials(corpus, model, "text", [], config, Path(documents))


@pytest.mark.parametrize("objective", ["causal", "prefix"])
def test_no_row_holds_more_than_its_tokens_and_texts_end_once(corpus: Path, ended: Path, objective: str) -> None:
    config = Config(steps=40, batch_size=1, row_tokens=CONTEXT, objective=objective)
    materials = read(corpus, ended, config)
    end = Encoder(ended).end_id
    parts: dict[str, list[bool]] = {}
    for example in materials.domain:
        parts.setdefault(example.name, []).append(end in example.ids)
    assert max(map(len, parts.values())) > 1, "a text is longer than a row"
    assert all(ends == [False] * (len(ends) - 1) + [True] for ends in parts.values())
    plan = make_plan(make_module(ended, materials.encoder, config), materials.domain, [], config, config.steps, 5)
    rows = [plan[position] for position in range(len(plan))]
    sizes = [sum(len(question.ids) for question in row) for row in rows]
    assert max(sizes) == CONTEXT
    asked = [question.labels[question.labels != IGNORED] for row in rows for question in row]
    assert sum(int((labels == end).sum()) for labels in asked) == sum(int((q.ids == end).sum()) for row in rows for q in row), (
        "each is asked for"
    )


def test_what_is_held_out_is_scored_by_its_own_tokens_with_and_without_an_end(
    corpus: Path, ended: Path, model_folder: Callable[[str], Path]
) -> None:
    config = Config(row_tokens=CONTEXT)
    one, other = (read(corpus, model, config).held_out["domain"] for model in (ended, model_folder("decoder")))
    assert [example.ids.tolist() for example in one] == [example.ids.tolist() for example in other]


def test_held_out_records_are_chosen_from_the_first_to_the_last() -> None:
    for height, number in ((3999, 2000), (2001, 2000), (6000, 2000), (20, 2000)):
        chosen = evenly(pl.DataFrame({"i": range(height)}), number)["i"].to_numpy()
        assert len(chosen) == min(height, number)
        assert chosen[0] == 0
        assert np.diff(chosen).max() - np.diff(chosen).min() <= 1
        assert height - chosen[-1] <= height / len(chosen) + 1


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_record_that_no_token_stands_for_is_named(model_folder: Callable[[str], Path], tmp_path: Path, split: str) -> None:
    records = {"id": ["r0", "r1", "r2"], "sequence": ["a text", "another", "\u200b "], "split": ["train", "validation", split]}
    pl.DataFrame(records).write_parquet(tmp_path / "records.parquet")
    with pytest.raises(DataError, match="record r2 holds nothing that the tokenizer makes a token of"):
        read(tmp_path, model_folder("encoder"), Config(row_tokens=CONTEXT))


def test_rows_are_as_long_as_the_recipe_says_or_as_documents_fill_them(corpus: Path, model_folder: Callable[[str], Path]) -> None:
    config = Config(row_tokens=CONTEXT)
    materials = read(corpus, model_folder("encoder"), config)
    cut = [replace(e, ids=e.ids[:25], residues=e.residues[:25], special=e.special[:25]) for e in materials.domain if len(e.ids) >= 25]
    module = make_module(model_folder("encoder"), materials.encoder, config)
    equal = cut * (20_000 // len(cut))
    said = make_plan(module, equal, [], config, 1, 5)
    assert said.row_tokens == CONTEXT
    assert said.best_row_tokens(CONTEXT) == 75
    chosen = make_plan(module, equal, [], Config(), 1, 5)
    assert (chosen.row_tokens, chosen.fill) == (1025, pytest.approx(1, abs=0.01))
    assert make_plan(module, equal, [replace(cut[0], ids=np.arange(1100))], Config(), 1, 5).row_tokens == 1025, "nothing of it is mixed in"
    assert sum(len(question.ids) for question in chosen[0]) == 1025


def test_auto_hides_spans_of_three_tokens_from_an_encoder_decoder(model_folder: Callable[[str], Path]) -> None:
    def span(architecture: str, **settings: float) -> float:
        folder = model_folder(architecture)
        return make_module(folder, Encoder(folder), Config(**settings)).objective.span

    assert [span("encoder-decoder"), span("encoder-decoder", span_tokens=2.0), span("encoder")] == [3.0, 2.0, 1.0]


def test_an_encoder_does_not_look_ahead(model_folder: Callable[[str], Path]) -> None:
    folder = model_folder("encoder")
    with pytest.raises(ConfigError, match=r"future_tokens is 2, but what this encoder learns is masked \(pretrain.objective: auto\)"):
        make_module(folder, Encoder(folder), Config(future_tokens=2))
