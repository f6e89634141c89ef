"""Runs whose files were damaged, whose answers are not known, and whose numbers are none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

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
    assert [point["step"] for point in whole.validation] == [2, 4, 6], "the last one too is asked once"
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


def test_a_run_that_was_cut_behind_its_early_end_ends_there_again(bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method = {**FULL, "steps": 8, "log_steps": 1, "checkpoint_steps": 2, "batch_size": 4}
    told = arguments(tmp_path, words(), bert, "text", label="key", methods=[method])
    settings = RunSettings(3, "test", validate_steps=2, patience=1)
    losses = iter([1.0, 2.0, 0.5, 0.4])  # of the first process, by which all decide
    monkeypatch.setattr("biollm.training.trainer._of_first_process", lambda _: next(losses))
    whole = trained(tmp_path, told, settings)
    assert (whole.step, [point["step"] for point in whole.validation]) == (2, [2, 4])
    shutil.rmtree(tmp_path / "work" / "trained")
    assert (tmp_path / "work" / "checkpoint-4").is_dir()
    again = trained(tmp_path, told, settings)
    assert (again.step, again.history, again.validation) == (whole.step, whole.history, whole.validation)
    assert all(torch.equal(again.weights[name], tensor) for name, tensor in whole.weights.items())


def test_memory_that_runs_out_while_the_model_is_loaded_is_told(bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("biollm.finetune.task.build", full)
    told = arguments(tmp_path, words(), bert, "text", label="key", methods=[{**FULL, "steps": 2}])
    with pytest.raises(DataError, match="test, while the model is loaded: out of memory; nothing is lost: take a smaller model"):
        trained(tmp_path, told, RunSettings(3, "test"))


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
