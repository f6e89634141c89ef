"""Checkpoints: whole or not there, without pickle, equal to the bit."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from biollm.core.errors import DataError
from biollm.core.files import write_json
from biollm.training.checkpoints import (
    keep_newest,
    load_tree,
    newest_to_go_on_from,
    newest_valid,
    random_state,
    restore_random_state,
    save_tree,
    seal,
)
from biollm.training.config import TrainingConfig
from biollm.training.convert import fit_to_processes

_LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=5),
    st.lists(st.floats(width=32), max_size=3).map(torch.tensor),
)  # fmt: skip
_KEYS = st.one_of(st.integers(), st.text(max_size=5), st.sampled_from(["dict", "tuple", "tensor", "a/b"]))
_TREES = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.lists(inner, max_size=3).map(tuple), st.dictionaries(_KEYS, inner, max_size=3)),
    max_leaves=8,
)


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and [type(k) for k in a] == [type(k) for k in b] and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


@given(_TREES)
def test_a_tree_comes_back_equal_in_structure_types_and_bits(tmp_path_factory: pytest.TempPathFactory, tree: Any) -> None:
    folder = tmp_path_factory.mktemp("tree")
    save_tree(folder, tree)
    assert equal(load_tree(folder), tree)


def test_an_optimiser_state_comes_back(tmp_path: Path) -> None:
    tree = {
        "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.randn(2, 3)}, 1: {}},
        "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.999), "fused": None, "amsgrad": False, "params": [0, 1]}],
        "low": torch.randn(4).bfloat16(), "empty": torch.zeros(0), "scalar": torch.tensor(7), "mask": torch.tensor([True, False]),
    }  # fmt: skip
    save_tree(tmp_path, tree)
    again = load_tree(tmp_path)
    assert again["low"].dtype == torch.bfloat16
    assert torch.equal(again.pop("low"), tree.pop("low"))
    assert equal(again, tree)


def test_parts_of_one_storage_and_transposed_tensors_are_saved_right(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    save_tree(tmp_path, {"a": whole[0], "b": whole[1:], "t": whole.T, "whole": whole})
    again = load_tree(tmp_path)
    assert all(torch.equal(again[key], value) for key, value in {"a": whole[0], "b": whole[1:], "t": whole.T, "whole": whole}.items())


def test_every_random_generator_goes_on_where_it_was(tmp_path: Path) -> None:
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    random.gauss(0, 1), np.random.normal(), torch.randn(1)  # leaves the generators with a spare half
    save_tree(tmp_path, random_state())

    def draw() -> list[float]:
        return [random.random(), random.gauss(0, 1), float(np.random.rand()), float(np.random.normal()), float(torch.randn(1))]

    wanted = draw()
    assert draw() != wanted
    restore_random_state(load_tree(tmp_path))
    assert draw() == wanted


def test_a_process_keeps_the_generator_of_its_own_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint of eight GPUs goes on with one."""
    restored = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda: torch.tensor([7], dtype=torch.uint8))
    monkeypatch.setattr(torch.cuda, "set_rng_state", restored.append)
    restore_random_state(random_state())
    assert [state.tolist() for state in restored] == [[7]]


def test_a_run_does_not_go_on_in_another_precision(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-2"
    folder.mkdir()
    write_json(folder / "world.json", {"processes": 1, "zero": 0, "bf16": False})
    run = {"steps": 4, "learning_rate": 1e-3}
    assert fit_to_processes(folder, TrainingConfig(**run, precision="fp32")) == folder
    told = r"checkpoint-2 was written in fp32, but with precision: bf16 this machine computes in bf16; go on where it began"
    with pytest.raises(DataError, match=told):
        fit_to_processes(folder, TrainingConfig(**run, precision="bf16"))


@pytest.mark.parametrize(("before", "now", "alone"), [(1, 0, 0), (3, 0, 0), (0, 2, 0), (1, 3, 3), (2, 3, 3), (3, 1, 3), (3, 2, 3)])
def test_a_run_does_not_go_on_at_a_stage_of_zero_that_deepspeed_cannot_convert_to(
    tmp_path: Path, before: int, now: int, alone: int
) -> None:
    folder = tmp_path / "checkpoint-2"
    folder.mkdir()
    write_json(folder / "world.json", {"processes": 1, "zero": before, "bf16": False})
    told = f"this run has 1 at zero {now}, and DeepSpeed does not convert from or to zero {alone}; set zero: {before} to go on"
    with pytest.raises(DataError, match=told):
        fit_to_processes(folder, TrainingConfig(steps=4, learning_rate=1e-3, precision="fp32", zero=now))


@pytest.mark.parametrize("settings", [{"weight_decay": 0.1}, {"layer_decay": 0.9}])
def test_parts_that_learn_differently_do_not_go_on_at_zero_3_by_other_processes(tmp_path: Path, settings: dict[str, float]) -> None:
    folder = tmp_path / "checkpoint-2"
    folder.mkdir()
    write_json(folder / "world.json", {"processes": 2, "zero": 3, "bf16": False})
    told = r"this run has 1 at zero 3, and at zero 3 DeepSpeed would give all weights the learning rate .*; go on with 2 processes"
    with pytest.raises(DataError, match=told):
        fit_to_processes(folder, TrainingConfig(steps=4, learning_rate=1e-3, precision="fp32", zero=3, **settings))


def checkpoint(work: Path, step: int) -> Path:
    folder = work / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    save_tree(folder, {"step": step, "weights": torch.full((20,), float(step))})
    (folder / "trainer_state.json").write_text("{}")
    seal(folder)
    return folder


def test_the_newest_checkpoint_is_found_by_number_not_by_name(tmp_path: Path) -> None:
    assert newest_valid(tmp_path) is None
    for step in (9, 100, 20):
        checkpoint(tmp_path, step)
    assert newest_valid(tmp_path) == tmp_path / "checkpoint-100"


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


_DAMAGE: dict[str, Callable[[Path], object]] = {
    "unsealed": lambda f: (f / "seal.json").unlink(),
    "tensors cut": lambda f: (f / "state.safetensors").write_bytes((f / "state.safetensors").read_bytes()[:-1]),
    "tensors flipped": lambda f: _flip(f / "state.safetensors"),
    "tree flipped": lambda f: _flip(f / "state.json"),
    "file missing": lambda f: (f / "trainer_state.json").unlink(),
    "file added": lambda f: (f / "extra").write_text("x"),
    "seal cut": lambda f: (f / "seal.json").write_text((f / "seal.json").read_text()[:-20]),
    "seal empty": lambda f: (f / "seal.json").write_text(""),
    "only the folder": lambda f: [p.unlink() for p in f.iterdir()],
}


@pytest.mark.parametrize("damage", _DAMAGE)
def test_a_damaged_checkpoint_is_skipped_for_the_newest_whole_one(tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    for step in (1, 2, 3):
        checkpoint(tmp_path, step)
    for step in (2, 3):
        _DAMAGE[damage](tmp_path / f"checkpoint-{step}")
    found = newest_valid(tmp_path)
    assert found == tmp_path / "checkpoint-1"
    assert load_tree(found)["step"] == 1
    said = capsys.readouterr().err
    assert all(f"checkpoint-{step} is damaged or was cut while being written; going back to an earlier one" in said for step in (2, 3))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-1"]


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    for step in (9, 100, 20):
        checkpoint(tmp_path, step)
    keep_newest(tmp_path, 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-100", "checkpoint-20"]


def test_what_only_is_called_like_a_checkpoint_is_left_alone(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        checkpoint(tmp_path, step)
    others = ["checkpoint-2-copy", "checkpoint-2.bak", "checkpoint-2.tar", "checkpoint-9", "checkpoint-old"]
    for name in others[:2]:
        shutil.copytree(tmp_path / "checkpoint-2", tmp_path / name)
    for name in others[2:4]:
        (tmp_path / name).write_text("x")
    (tmp_path / others[4]).mkdir()
    assert newest_valid(tmp_path) == tmp_path / "checkpoint-3"
    keep_newest(tmp_path, 1)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*others, "checkpoint-3"])


def test_a_checkpoint_that_lies_elsewhere_is_one_and_only_its_link_is_removed(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        far = checkpoint(tmp_path / "far", step)
        (tmp_path / far.name).symlink_to(far)
    (tmp_path / "far" / "checkpoint-3" / "extra").write_text("x")
    assert newest_valid(tmp_path) == tmp_path / "checkpoint-2"
    checkpoint(tmp_path, 4)
    keep_newest(tmp_path, 1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-4", "far"]
    assert len(list((tmp_path / "far").iterdir())) == 3


def test_no_file_of_a_checkpoint_is_a_pickle(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 1)
    for path in folder.iterdir():
        head = path.read_bytes()[:4]
        assert not head.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")), path
    assert sorted(p.suffix for p in folder.iterdir()) == [".json", ".json", ".json", ".safetensors"]


def test_what_has_no_place_in_a_checkpoint_is_not_dropped_in_silence(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"/a: .*object.* has no place in a checkpoint"):
        save_tree(tmp_path, {"a": object()})


@pytest.mark.parametrize(
    ("best_steps", "wanted"), [({2: None, 4: 4}, "checkpoint-2"), ({4: 2, 6: 2}, None), ({2: None, 4: None}, "checkpoint-4")]
)
@pytest.mark.parametrize("damage", ["flip", "remove"])
def test_without_the_weights_of_the_best_step_a_run_goes_back_to_before_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], best_steps: dict[int, int | None], wanted: str | None, damage: str
) -> None:
    best = tmp_path / "best"
    save_tree(best, {"weights": torch.ones(4)})
    seal(best)
    for step, best_step in best_steps.items():
        (tmp_path / f"checkpoint-{step}").mkdir()
        write_json(tmp_path / f"checkpoint-{step}" / "trainer_state.json", {"best_global_step": best_step})
        seal(tmp_path / f"checkpoint-{step}")
    newest = tmp_path / f"checkpoint-{max(best_steps)}"
    assert newest_to_go_on_from(tmp_path, best) == newest
    if damage == "remove":
        (best / "seal.json").unlink()
    else:
        weights = bytearray((best / "state.safetensors").read_bytes())
        weights[-1] ^= 1
        (best / "state.safetensors").write_bytes(weights)
    found = newest_to_go_on_from(tmp_path, best)
    assert found == (tmp_path / wanted if wanted else None)
    assert ("best (the weights of step" in capsys.readouterr().err) == (found != newest)
