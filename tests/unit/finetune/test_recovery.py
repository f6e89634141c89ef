"""Runs whose files were damaged, whose answers are not known, and whose numbers are none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl
import pytest
import torch

from biollm.core.errors import DataError
from biollm.finetune.task import build
from biollm.training.run import RunSettings

from .test_tasks import FULL, TAGS, arguments, trained, words


def test_best_weights_that_were_damaged_are_named_and_made_again(
    bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    method = {**FULL, "steps": 6, "log_steps": 1, "checkpoint_steps": 2, "batch_size": 4}
    told = arguments(tmp_path, words(), bert, "text", label="key", methods=[method])
    settings = RunSettings(3, "test", validate_steps=2)
    whole = trained(tmp_path, told, settings)
    file, best = tmp_path / "work" / "best" / "weights.safetensors", tmp_path / "work" / "best"

    def damage() -> None:
        shutil.rmtree(tmp_path / "work" / "trained")
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 0x40
        file.write_bytes(content)

    damage()
    again = trained(tmp_path, told, settings)
    assert f"best (the weights of step {whole.step}) is damaged" in capsys.readouterr().err
    assert again.step == whole.step
    assert all(torch.equal(again.weights[name], tensor) for name, tensor in whole.weights.items())
    damage()
    monkeypatch.setattr("biollm.training.run.newest_to_go_on_from", lambda work, _: work / "checkpoint-6")  # damaged behind that look
    with pytest.raises(DataError, match=rf"{best}, the weights of the best validation \(step {whole.step}\), were changed after"):
        trained(tmp_path, told, settings)


def test_a_pass_in_which_nothing_is_known_changes_nothing(bert: Path, tmp_path: Path) -> None:
    """Divided by no answers, its loss was NaN."""
    known = pl.col("id").is_in(["r0", "r1"]) | (pl.col("split") != "train")
    blank = pl.col("tags").map_elements(lambda tags: json.dumps([None] * len(json.loads(tags))), return_dtype=pl.String)
    records = words().with_columns(tags=pl.when(known).then(pl.col("tags")).otherwise(blank))
    method = {**FULL, "steps": 4, "log_steps": 1, "checkpoint_steps": 4, "batch_size": 1}
    run = trained(tmp_path, arguments(tmp_path, records, bert, "text", **TAGS, classes=["O", "B-Key"], methods=[method]))
    assert 0.0 in [point["loss_nats"] for point in run.history]
    assert all(weights.isfinite().all() for weights in run.weights.values())


def test_scores_that_are_no_numbers_are_refused(bert: Path, tmp_path: Path) -> None:
    told = arguments(tmp_path, words(), bert, "text", label="key")
    made = build(**told)
    with torch.no_grad():
        next(made.module.parameters()).fill_(float("nan"))
    assert made.validate is not None
    with pytest.raises(DataError, match=r"the loss on the validation split is nan; .*lower learning_rate"):
        made.validate()
