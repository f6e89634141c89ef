"""A training run: the same result however its batches are cut, wherever it was interrupted, and by however many processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from biollm.core.errors import ConfigError, DataError
from biollm.training.checkpoints import is_valid

if TYPE_CHECKING:
    from biollm.training.run import Trained

Pretrain = Callable[..., "Trained"]
ROOT = Path(__file__).parents[3]


def losses(trained: Trained) -> list[float]:
    return [point["loss_nats"] for point in trained.history]


def assert_equal(one: Trained, other: Trained) -> None:
    assert losses(one) == losses(other)
    assert one.weights.keys() == other.weights.keys()
    assert all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)


OBJECTIVES = {
    "masked": ("encoder", {}),
    "diffusion": ("encoder", {}),
    "causal": ("decoder", {"future_tokens": 1}),
    "prefix": ("decoder", {}),
    "span_corruption": ("encoder-decoder", {}),
}
SHARED = {"processes": 2, "log_steps": 1, "checkpoint_steps": 2}


@dataclass(frozen=True)
class Pairs:
    """Runs by two processes: the folder of each."""

    objectives: dict[str, Path]
    zero: dict[int, Path]
    cut: dict[int, Path]  # the same, cut behind the second step and gone on with


@pytest.fixture(scope="module")
def by_two_processes(
    run_of: Callable[..., Any], fit_by_two_processes: Callable[..., None], tmp_path_factory: pytest.TempPathFactory
) -> Pairs:
    """Each objective, and each stage of ZeRO, with batches that two processes share."""
    folder = tmp_path_factory.mktemp("two")
    tasks = {name: run_of(kind, folder / name, objective=name, **SHARED, **more) for name, (kind, more) in OBJECTIVES.items()}
    whole = {zero: run_of("decoder", folder / f"zero_{zero}", zero=zero, **SHARED) for zero in range(4)}
    fit_by_two_processes([*tasks.values(), *whole.values()])
    rest = {zero: (*asked, folder / f"cut_{zero}") for zero, (*asked, _) in whole.items()}
    for zero, (*_, work) in rest.items():
        shutil.copytree(whole[zero][-1], work)
        cut(work, 2)
    fit_by_two_processes(rest.values())
    return Pairs(*({key: work for key, (*_, work) in runs.items()} for runs in (tasks, whole, rest)))


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_loss_is_the_same_however_a_batch_is_shared_out(
    pretrain: Pretrain, by_two_processes: Pairs, tmp_path: Path, objective: str
) -> None:
    architecture, more = OBJECTIVES[objective]
    whole = losses(pretrain(architecture, tmp_path / "1", objective=objective, **more))
    parts = losses(pretrain(architecture, tmp_path / "4", objective=objective, gradient_accumulation=4, **more))
    assert len(whole) == 4
    assert parts == pytest.approx(whole, rel=1e-5)
    shared = json.loads((by_two_processes.objectives[objective] / "trained" / "trained.json").read_text())["history"]
    assert [point["loss_nats"] for point in shared] == pytest.approx(whole, rel=1e-5)


def cut(work: Path, step: int) -> None:
    """Make a finished run one that was killed right behind a checkpoint."""
    shutil.rmtree(work / "trained")
    for folder in work.glob("checkpoint-*"):
        if int(folder.name.split("-")[1]) > step:
            shutil.rmtree(folder)


def test_zero_1_in_one_process_gives_what_zero_0_gives(pretrain: Pretrain, tmp_path: Path) -> None:
    """It passes the gradients on in small parts, since nothing is reduced."""
    plain, sharded = (pretrain("decoder", tmp_path / str(zero), zero=zero, gradient_accumulation=2) for zero in (0, 1))
    assert losses(sharded) == pytest.approx(losses(plain), rel=1e-6)
    for name, weights in plain.weights.items():
        torch.testing.assert_close(sharded.weights[name], weights, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_two_processes_give_what_one_gives_and_go_on_where_they_were_cut(
    pretrain: Pretrain, by_two_processes: Pairs, tmp_path: Path, zero: int
) -> None:
    one = pretrain("decoder", tmp_path)
    whole, rest = by_two_processes.zero[zero], by_two_processes.cut[zero]
    two, gone_on = (pretrain("decoder", work, zero=zero, **SHARED) for work in (whole, rest))
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)
    for name, weights in one.weights.items():
        torch.testing.assert_close(two.weights[name], weights, rtol=1e-3, atol=1e-4, msg=name)
    assert_equal(gone_on, two)
    written, again = ({step: (work / f"checkpoint-{step}" / "seal.json").stat().st_mtime_ns for step in (2, 4)} for work in (whole, rest))
    assert (written[2] == again[2], written[4] == again[4]) == (True, False), "it went on from the second step"


@pytest.mark.parametrize(("architecture", "settings"), [
    ("encoder", {"precision": "bf16"}),
    ("encoder", {"gradient_accumulation": 2, "schedule": "cosine", "layer_decay": 0.8, "weight_decay": 0.1}),
    ("decoder", {"objective": "prefix", "gradient_checkpointing": True}),
    ("decoder", {"future_tokens": 2, "zero": 2}),
    ("decoder", {"zero": 3, "precision": "bf16"}),
    ("encoder-decoder", {"schedule": "warmup_stable_decay"}),
])  # fmt: skip
def test_a_run_that_was_cut_goes_on_to_the_same_bits(
    pretrain: Pretrain, tmp_path: Path, architecture: str, settings: dict[str, Any]
) -> None:
    whole = pretrain(architecture, tmp_path, **settings)
    cut(tmp_path, 2)
    assert_equal(pretrain(architecture, tmp_path, **settings), whole)


def test_zero_3_leaves_this_process_as_it_was(pretrain: Pretrain, tmp_path: Path) -> None:
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

    pretrain("decoder", tmp_path, zero=3)
    assert torch.nn.functional.linear is torch._C._nn.linear
    assert not is_deepspeed_zero3_enabled()


@pytest.mark.parametrize("left", [{"RANK": "0"}, {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}])
def test_half_of_what_a_launcher_sets_is_no_launcher(left: dict[str, str]) -> None:
    code = "import torch, biollm.training.deepspeed as ours; ours.join_process_group(); print(torch.distributed.get_world_size())"
    clean = {name: value for name, value in os.environ.items() if name not in {"RANK", "MASTER_ADDR", "MASTER_PORT"}}
    done = subprocess.run([sys.executable, "-c", code], env=clean | left, capture_output=True, text=True, check=False)
    assert done.stdout.strip().endswith("1"), done.stderr


def test_dropout_goes_on_where_it_was(pretrain: Pretrain, arguments: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(arguments("encoder")["model"], folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.2}))
    whole = pretrain("encoder", tmp_path / "work", model=str(folder))
    without = pretrain("encoder", tmp_path / "other")
    assert losses(whole) != losses(without)
    cut(tmp_path / "work", 2)
    assert_equal(pretrain("encoder", tmp_path / "work", model=str(folder)), whole)


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "unsealed", "empty"])
@pytest.mark.parametrize("zero", [0, 2])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(
    pretrain: Pretrain, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str, zero: int
) -> None:
    whole = pretrain("decoder", tmp_path, zero=zero)
    cut(tmp_path, 4)
    newest = tmp_path / "checkpoint-4"
    victims = [path for path in newest.rglob("*") if path.is_file() and path.suffix in {".safetensors", ".pt"}]
    victim = max(victims, key=lambda path: path.stat().st_size)
    match damage:
        case "truncate":
            victim.write_bytes(victim.read_bytes()[:-100])
        case "flip":
            content = bytearray(victim.read_bytes())
            content[len(content) // 2] ^= 1
            victim.write_bytes(content)
        case "remove":
            (newest / "rank-0" / "state.json").unlink()
        case "unsealed":
            (newest / "seal.json").unlink()
        case "empty":
            shutil.rmtree(newest)
            newest.mkdir()
    capsys.readouterr()
    again = pretrain("decoder", tmp_path, zero=zero)
    told = capsys.readouterr().err
    assert "checkpoint-4 is damaged or was cut while being written" in told
    assert "going on from checkpoint-2" in told
    assert_equal(again, whole)


@pytest.mark.parametrize("zero", [0, 2])
def test_every_damage_to_every_file_of_a_checkpoint_is_seen(pretrain: Pretrain, tmp_path: Path, zero: int) -> None:
    pretrain("decoder", tmp_path, zero=zero, steps=2)
    sealed = tmp_path / "checkpoint-2"
    assert is_valid(sealed)
    damages = 0
    for file in sorted(path for path in sealed.rglob("*") if path.is_file()):
        content = file.read_bytes()
        half = len(content) // 2
        flipped = content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :]
        for damaged in (content[:half], flipped, content[:half] + bytes(len(content) - half), b"", None):
            if damaged is None:
                file.unlink()
            else:
                file.write_bytes(damaged)
            assert not is_valid(sealed), (file.name, damaged and damaged[:20])
            file.write_bytes(content)
            damages += 1
    (sealed / "more").write_text("x")
    assert not is_valid(sealed)
    (sealed / "more").unlink()
    assert is_valid(sealed)
    assert damages >= 25


def test_behind_the_last_step_stand_the_weights_and_no_checkpoint_that_was_not_asked_for(pretrain: Pretrain, tmp_path: Path) -> None:
    whole = pretrain("decoder", tmp_path, steps=3)
    assert [folder.name for folder in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]
    shutil.rmtree(tmp_path / "trained")
    assert_equal(pretrain("decoder", tmp_path, steps=3), whole)


def test_a_run_of_fewer_steps_than_are_logged_at_once_has_a_training_curve(pretrain: Pretrain, tmp_path: Path) -> None:
    assert [point["step"] for point in pretrain("encoder", tmp_path, steps=2, log_steps=10, checkpoint_steps=10).history] == [2]


def test_a_run_that_ended_is_not_run_again(pretrain: Pretrain, tmp_path: Path) -> None:
    whole = pretrain("decoder", tmp_path)
    sealed = (tmp_path / "trained" / "seal.json").stat().st_mtime_ns
    assert_equal(pretrain("decoder", tmp_path), whole)
    assert (tmp_path / "trained" / "seal.json").stat().st_mtime_ns == sealed


def started_elsewhere(values: dict[str, Any], work: Path) -> subprocess.Popen[bytes]:
    """A run in a process of its own that has written its fourth step's checkpoint and goes on."""
    script = f"""
from pathlib import Path
from biollm.pretrain.config import Config
from biollm.training.run import RunSettings, train
from biollm.training.task import Recipe
values = {values!r}
work = Path({str(work)!r})
train(Recipe("biollm.pretrain.task:build", values), Config(**values["config"]), RunSettings(5, "test"), work=work, logs=work / "logs")
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    running = subprocess.Popen([sys.executable, "-c", script], env=environment, start_new_session=True, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while not (work / "checkpoint-4" / "seal.json").exists() and not (work / "checkpoint-6").exists():
        assert running.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return running


@pytest.mark.slow
def test_killed_in_mid_flight_and_started_again_a_run_ends_with_the_bits_of_an_uncut_one(
    pretrain: Pretrain, arguments: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", str(threads))  # the count decides the last bits
    settings = {"steps": 60, "log_steps": 2, "checkpoint_steps": 2, "gradient_accumulation": 2}
    whole = pretrain("decoder", tmp_path / "whole", **settings)
    running = started_elsewhere(arguments("decoder", **settings), tmp_path / "cut")
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    assert not (tmp_path / "cut" / "trained").exists(), "it was over before it was killed"
    again = pretrain("decoder", tmp_path / "cut", **settings)
    assert (again.step, again.threads, whole.threads) == (60, threads, threads)
    assert_equal(again, whole)


def workers(work: Path) -> list[int]:
    """The processes that were started for a work folder."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            command = (place / "cmdline").read_bytes()
        except OSError:
            continue
        if b"biollm.training.worker" in command and str(work).encode() in command:
            found.append(int(place.name))
    return found


@pytest.mark.slow
def test_a_checkpoint_of_two_processes_is_converted_for_one(
    pretrain: Pretrain, by_two_processes: Pairs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two = pretrain("decoder", by_two_processes.zero[2], zero=2, **SHARED)
    work = tmp_path / "one"
    shutil.copytree(by_two_processes.zero[2], work)
    cut(work, 2)
    one = pretrain("decoder", work, zero=2)
    assert "written by 2 processes" in capsys.readouterr().err
    assert losses(one) == pytest.approx(losses(two), rel=1e-4)


NO_NUMBER = r"the norm of the gradients is no finite number at step 3, on records r\d+, .*; the last checkpoint is kept"


@pytest.mark.parametrize("settings", [
    {"gradient_accumulation": 2}, {"precision": "bf16"}, {"zero": 2, "precision": "bf16"}, {"zero": 3},
])  # fmt: skip
def test_gradients_that_are_no_numbers_stop_the_run_before_they_are_written(
    pretrain: Pretrain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    import biollm.pretrain.task as task

    build, seen = task.build, [0]

    def spoilt(**arguments: Any) -> Any:
        def spoil(gradient: torch.Tensor) -> torch.Tensor:
            seen[0] += 1
            return gradient * (float("nan") if seen[0] == 2 * settings.get("gradient_accumulation", 1) + 1 else 1.0)

        made = build(**arguments)
        next(p for name, p in made.module.named_parameters() if "down_proj" in name).register_hook(spoil)
        return made

    monkeypatch.setattr(task, "build", spoilt)
    with pytest.raises(DataError, match=NO_NUMBER):
        pretrain("decoder", tmp_path, **settings)
    assert [folder.name for folder in tmp_path.glob("checkpoint-*") if is_valid(folder)] == ["checkpoint-2"]
    monkeypatch.undo()
    assert all(weights.isfinite().all() for weights in pretrain("decoder", tmp_path, **settings).weights.values()), "it goes on"


@pytest.mark.parametrize("steps", [1, 4])
def test_weights_that_are_no_numbers_are_never_written(pretrain: Pretrain, tmp_path: Path, steps: int) -> None:
    """The loss and the gradients of the first step are finite still."""
    out_of_bounds = {"learning_rate": 1e38, "max_grad_norm": 1e30, "schedule": "constant", "warmup_fraction": 0, "checkpoint_steps": 1}
    with pytest.raises(DataError, match=r"weights of \S+ are no finite numbers behind step 1; they are not written"):
        pretrain("decoder", tmp_path, steps=steps, **out_of_bounds)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(("checkpoint", "trained"))]


def test_a_tracker_that_gives_up_is_named() -> None:
    from biollm.training.trainer import _told_tracker

    no_key = type("UsageError", (Exception,), {"__module__": "wandb.errors.errors"})("No API key configured. Use `wandb login`.\nmore")
    wanted = r"pretrain: wandb gave up: No API key configured\. Use `wandb login`; put that right, or leave wandb out of trackers"
    with pytest.raises(ConfigError, match=wanted), _told_tracker("pretrain", ["tensorboard", "wandb"]):
        raise no_key
    with pytest.raises(type(no_key)), _told_tracker("pretrain", ["tensorboard"]):
        raise no_key


def test_a_loss_that_is_no_number_names_step_and_records(pretrain: Pretrain, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the loss is (nan|inf) at step \d+, on records r\d+, .*checkpoint is kept"):
        pretrain("decoder", tmp_path, learning_rate=1e38, max_grad_norm=1e30, schedule="constant", warmup_fraction=0, steps=6)
    assert (tmp_path / "checkpoint-2" / "seal.json").exists() or not list(tmp_path.glob("checkpoint-*"))


def test_what_a_worker_raises_reaches_the_user(pretrain: Pretrain, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the loss is"):
        pretrain("decoder", tmp_path, learning_rate=1e38, max_grad_norm=1e30, schedule="constant", warmup_fraction=0, steps=6, processes=2)
