"""Runs whose files were damaged, whose answers are not known, and whose numbers are none."""

from __future__ import annotations

import json
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from biollm.core.errors import ConfigError, DataError
from biollm.finetune.task import build, make_model
from biollm.training.run import RunSettings

from . import test_tasks
from .test_tasks import FULL, TAGS, Ran, arguments, trained, words

finetune = test_tasks.stage  # the fixture


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
    monkeypatch.setattr("biollm.training.trainer.of_first_process", lambda _: next(losses))
    whole = trained(tmp_path, told, settings)
    assert (whole.step, whole.steps, [point["step"] for point in whole.validation]) == (2, 4, [2, 4])
    shutil.rmtree(tmp_path / "work" / "trained")
    assert (tmp_path / "work" / "checkpoint-4").is_dir()
    again = trained(tmp_path, told, settings)
    assert (again.steps, again.step, again.history, again.validation) == (whole.steps, whole.step, whole.history, whole.validation)
    assert all(torch.equal(again.weights[name], tensor) for name, tensor in whole.weights.items())


def test_memory_that_runs_out_while_the_model_is_loaded_is_told(bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("biollm.finetune.task.build", full)
    told = arguments(tmp_path, words(), bert, "text", label="key", methods=[{**FULL, "steps": 2}])
    with pytest.raises(DataError, match="test, while the model is loaded: out of memory; nothing is lost: take a smaller model"):
        trained(tmp_path, told, RunSettings(3, "test"))


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError("Unable to allocate 8 GiB")])
def test_memory_that_runs_out_while_records_are_scored_is_told(
    finetune: Callable[..., Ran], bert: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(*_: Any) -> Any:
        raise error

    monkeypatch.setattr("biollm.finetune.stage.measure", full)
    with pytest.raises(DataError, match="finetune, scores of full: out of memory; nothing is lost: take a smaller model"):
        finetune(words(), bert, label="key", methods=[{**FULL, "steps": 1}])


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """No training may begin."""

    def begins(*_: Any, **__: Any) -> None:
        raise AssertionError("a method was trained")

    monkeypatch.setattr("biollm.finetune.stage.train", begins)


@pytest.mark.usefixtures("untrained")
def test_a_method_that_cannot_work_is_refused_before_the_first_is_trained(
    finetune: Callable[..., Ran], bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[Any]] = []

    def make(*given: Any) -> Any:
        assert all(earlier() is None for earlier in made), "the memory of one is free before the next is made"
        model, module = make_model(*given)
        made.append(weakref.ref(next(module.parameters())))
        return model, module

    monkeypatch.setattr("biollm.finetune.stage.make_model", make)
    methods = [{**FULL}, {**FULL, "name": "lora"}, {**FULL, "name": "dora", "target_modules": ["q_proj"]}]
    with pytest.raises(ConfigError, match="target_modules has 'q_proj', but no layer of this BertForSequenceClassification is so called"):
        finetune(words(), bert, label="key", methods=methods)
    assert len(made) == 1


@pytest.mark.usefixtures("untrained")
def test_what_the_machine_cannot_do_of_any_method_is_refused_before_the_first_is_trained(
    finetune: Callable[..., Ran], bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "wandb" else object())
    with pytest.raises(ConfigError, match="trackers has wandb, which is not installed"):
        finetune(words(), bert, label="key", methods=[FULL, {**FULL, "name": "lora", "trackers": ["wandb"]}])


def test_the_facts_of_a_run_that_ended_early_are_of_the_steps_it_made(
    finetune: Callable[..., Ran], bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([1.0, 2.0])
    monkeypatch.setattr("biollm.training.trainer.of_first_process", lambda _: next(losses))
    method = {**FULL, "steps": 50, "log_steps": 1, "checkpoint_steps": 50, "batch_size": 4}
    facts = finetune(words(), bert, label="key", validate_steps=1, patience=1, methods=[method]).facts["methods"]["full"]
    assert (facts["steps"], facts["records_seen"], facts["weights_of_step"]) == (2, 8, 1)


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
