"""Attention maps: those of the stock model, with the letters behind each token, and nothing changed by looking."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel
from typer.testing import CliRunner

from biollm import Embedder
from biollm.cli import app
from biollm.core.errors import ConfigError, DataError

FolderOf = Callable[[str], Path]


@pytest.mark.parametrize("architecture", ["bert", "llama", "t5"])
def test_the_weights_are_those_of_the_stock_model(folder_of: FolderOf, architecture: str) -> None:
    folder, text = folder_of(architecture), "Abnormal growth of the retina"
    embedder = Embedder(folder)
    before = embedder.embed([text])
    found = embedder.attention(text)
    model = AutoModel.from_pretrained(str(folder), attn_implementation="eager").eval()
    model = model.get_encoder() if model.config.is_encoder_decoder else model
    ids = embedder._engine.encoder.tokenizer.encode(text).ids
    with torch.no_grad():
        wanted = model(input_ids=torch.tensor([ids]), output_attentions=True).attentions
    np.testing.assert_allclose(found.weights, np.stack([layer[0].numpy() for layer in wanted]), atol=1e-5)
    np.testing.assert_allclose(found.weights.sum(-1), 1, atol=1e-5)
    assert (found.layers, found.heads, len(found.labels)) == ([0, 1, 2], [0, 1, 2, 3], len(ids))
    assert np.array_equal(embedder.embed([text]), before), "the model attends as before"


def test_labels_are_the_letters_behind_the_tokens(merged: Path, dna: Callable[[int, int], str]) -> None:
    sequence = dna(50, 1)
    found = Embedder(merged, input="sequence").attention(sequence, layer=-1, head=1)
    assert found.weights.shape[:2] == (1, 1)
    assert (found.layers, found.heads) == ([1], [1])
    assert (found.labels[0], found.labels[-1]) == ("[CLS]", "[SEP]")
    assert "".join(found.labels[1:-1]) == sequence
    assert found.spans[0].tolist() == [-1, -1]


def test_tracks_are_read_here_too(measured: Path, dna: Callable[[int, int], str]) -> None:
    sequence = dna(50, 1)
    embedder = Embedder(measured, input="sequence")
    one, other = (embedder.attention(sequence, tracks={"meth": np.full(50, level)}).weights for level in (0.0, 1.0))
    assert np.abs(one - other).max() > 1e-4


def test_tooltips_name_the_tokens(folder_of: FolderOf) -> None:
    found = Embedder(folder_of("bert")).attention("the retina", layer=0, head=0)
    chart = found.chart().to_dict()
    shown = {field["title"]: field["field"] for field in chart["encoding"]["tooltip"][:2]}
    made = {step["as"]: step["calculate"] for step in chart["transform"] if "calculate" in step}
    assert shown.keys() == {"from", "to"}
    for end, name in shown.items():
        assert made[name] == f"({json.dumps(found.labels)})[datum['{end}']] + ' (' + datum['{end}'] + ')'"


def test_what_has_no_map_is_refused(folder_of: FolderOf) -> None:
    embedder = Embedder(folder_of("bert"))
    with pytest.raises(DataError, match="text number 0: has 100 tokens, but this model attends to 62 at once; give a part of it"):
        embedder.attention("a " * 100)
    with pytest.raises(ConfigError, match="layer 3: this model has 3; expected 0 to 2"):
        embedder.attention("the retina", layer=3)
    with pytest.raises(ConfigError, match="head 4: this model has 4; expected 0 to 3"):
        embedder.attention("the retina", head=4)


def test_the_command_writes_numbers_and_a_page_without_network(merged: Path, tmp_path: Path) -> None:
    out = tmp_path / "map"
    run = CliRunner().invoke(app, ["attention", str(merged), "GATTACAGATTACAGATTACA", "-o", str(out), "--layer", "0"])
    assert run.exit_code == 0, run.output
    written = [line for line in run.stdout.splitlines() if "attention." in line]
    assert written == [str(out / f"attention.{kind}") for kind in ("json", "html")]
    data = json.loads((out / "attention.json").read_text())
    side = len(data["labels"])
    assert np.asarray(data["weights"]).shape == (1, 2, side, side)
    page = (out / "attention.html").read_text()
    assert 'src="http' not in page
    assert '"looked at"' in page


def test_a_map_too_large_for_a_page_is_refused(folder_of: FolderOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("biollm.embed.attention._MOST_CELLS", 100)
    with pytest.raises(DataError, match=r"3 layers and 4 heads are .* cells, and a page holds 100; choose a layer or a head"):
        Embedder(folder_of("bert")).attention("the retina").save(tmp_path / "map")
    assert not (tmp_path / "map").exists()
