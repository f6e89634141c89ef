"""A base that is fused already: its tracks are trained on, asked for and checked as those of a recipe's own fusion."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from biollm import Embedder
from biollm.core.errors import ConfigError, DataError
from biollm.modeling.corpus import ROW, TrackTable, read_records
from biollm.modeling.encoding import Encoder
from biollm.modeling.fusion import read_spec
from biollm.modeling.tracks import Track
from biollm.pretrain.config import Config
from biollm.pretrain.task import make_module
from biollm.stages import Run


def test_a_recipe_on_a_fused_base_may_set_what_is_done_with_tracks(measured: Run, tmp_path: Path, tiny_recipe: Callable[..., Path]) -> None:
    shutil.copytree(measured.results / "pretrain", tmp_path / "base", ignore=shutil.ignore_patterns("operators"))
    asked = {"expand": {"fusion": None}, "pretrain": {"tracks": {"weight": 0.5, "site_dropout": 0.2}}, "embed": {"without_tracks": True}}
    Run.load(tiny_recipe(tmp_path, **asked))
    (tmp_path / "base" / "fusion.json").unlink()
    with pytest.raises(ConfigError, match=r"pretrain.tracks.weight needs a model with tracks"):
        Run.load(tmp_path / "recipe.yaml")


def test_a_head_for_hidden_values_is_trained_on_or_dropped_never_left_behind(measured: Run) -> None:
    folder = measured.results / "pretrain"
    module = make_module(folder, Encoder(folder), Config(steps=1, tracks={"weight": 1.0}))
    assert module.model.operator is not None
    assert module.model.operator.head is not None
    assert module.model.operator.head.read.weight.detach().abs().sum() > 0, "what it has learnt is kept"
    module = make_module(folder, Encoder(folder), Config(steps=1))
    assert module.model.spec is not None
    assert not module.model.spec.imputes
    assert module.model.operator is not None
    assert module.model.operator.head is None
    assert not [name for name, _ in module.named_parameters() if ".head." in name and "operator" in name]


def test_values_of_cytosines_on_other_letters_are_refused(measured: Run) -> None:
    """A track of another window has the right length too. A control may give one all the same."""
    folder, corpus = measured.results / "pretrain", measured.results / "ingest"
    spec = read_spec(folder)
    assert spec is not None
    assert {channel.name: channel.cytosines for channel in spec.channels} == {"cpg": False, "mC": True}
    record = read_records(corpus, "test").head(1)
    (name,), (sequence,), track = record["id"], record["sequence"], TrackTable(corpus, ["mC"])[record[ROW][0]]["mC"]
    embedder = Embedder(folder, input="sequence")
    embedder.embed([sequence], [{"mC": track}], names=[name])
    shifted = {"mC": Track(np.roll(track.level, 1), None if track.coverage is None else np.roll(track.coverage, 1))}
    with pytest.raises(DataError, match=rf"record {name}: track 'mC' has a value at position \d+, on [AT]; it holds values of cytosines"):
        embedder.embed([sequence], [shifted], names=[name])
    assert np.isfinite(embedder.embed_counted([sequence], [shifted]).vectors).all()
    with torch.no_grad():
        assert embedder.embed([sequence], [None]).shape == (1, embedder.dimension)
