"""Checkpoints that are whole or not there, and hold no pickle.

    checkpoint-50/
        state.safetensors    every tensor of the state, by its place in the tree
        state.json           the tree: everything that is no tensor
        rank-0/ …            the same for what each process has of its own, such as random generators
        zero/ …              ZeRO 1-3: what DeepSpeed writes of its shares of weights and optimiser state
        trainer_state.json   the Hugging Face Trainer's own state
        world.json           the processes and settings that it was written by
        seal.json            sha256 of the files above, written last

A folder without a right seal is never resumed from. DeepSpeed's files are pickled; none is opened but behind a right seal of ours.
"""

from __future__ import annotations

import random
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from biollm.core.artifacts import SEAL
from biollm.core.errors import ConfigError
from biollm.core.files import files_below, read_json, sha256_file, sync, write_json
from biollm.core.progress import say

_TENSOR = "tensor"
TRAINER_STATE = "trainer_state.json"


def seal(folder: Path) -> None:
    """Make a checkpoint valid: everything on disk, then the digests of it all."""
    for file in files_below(folder):
        sync(file)
    write_json(folder / SEAL, {file.relative_to(folder).as_posix(): sha256_file(file) for file in files_below(folder)})


def newest_valid(work: Path) -> Path | None:
    """The newest checkpoint whose seal is right. Others are named to the user and removed."""
    for folder in reversed(_all(work)):
        if is_valid(folder):
            return folder
        say(f"{folder.name} is damaged or was cut while being written; going back to an earlier one")
        _remove(folder)
    return None


def newest_to_go_on_from(work: Path, best: Path) -> Path | None:
    """The newest valid checkpoint. best: the weights of its best validation; where they are damaged, a checkpoint before that step, or
    none, so that they are made again."""
    newest = newest_valid(work)
    best_step = None if newest is None else read_json(newest / TRAINER_STATE)["best_global_step"]
    if best_step is None or is_valid(best):
        return newest
    say(f"{best.name} (the weights of step {best_step}) is damaged or was cut while being written; going back to before that step")
    shutil.rmtree(best, ignore_errors=True)
    for folder in _all(work):
        if _step(folder) >= best_step:
            _remove(folder)
    return newest_valid(work)


def keep_newest(work: Path, number: int) -> None:
    """Remove all but the newest checkpoints."""
    for folder in _all(work)[:-number]:
        _remove(folder)


def save_tree(folder: Path, tree: Any) -> None:
    """Write nested dicts, lists, tuples, numbers, strings, None and tensors as state.safetensors + state.json."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    write_json(folder / "state.json", _pack(tree, "", tensors))
    save_file(tensors, str(folder / "state.safetensors"))


def load_tree(folder: Path) -> Any:
    """What `save_tree` wrote, equal in structure, types and bits."""
    return _unpack(read_json(folder / "state.json"), load_file(str(folder / "state.safetensors")))


def random_state() -> dict[str, Any]:
    """The state of every global random generator that training may draw from (dropout draws from torch's, on a GPU from that of the
    device at hand: other devices belong to other processes)."""
    name, keys, *rest = np.random.get_state()
    state = {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
    }
    return state | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def restore_random_state(state: dict[str, Any]) -> None:
    """Put every global random generator where `random_state` found it."""
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])


def is_valid(folder: Path) -> bool:
    """Whether a sealed folder is as it was sealed, byte by byte."""
    try:
        sealed = read_json(folder / SEAL)
    except (FileNotFoundError, ConfigError):  # never written, or cut
        return False
    found = {file.relative_to(folder).as_posix(): sha256_file(file) for file in files_below(folder) if file.name != SEAL}
    return bool(found == sealed)


def _all(work: Path) -> list[Path]:
    """The checkpoints of a run, whole or not, by step: what is called checkpoint-2.bak, or is a file, is none of ours."""
    return sorted((p for p in work.glob("checkpoint-*") if re.fullmatch("checkpoint-[0-9]+", p.name) and p.is_dir()), key=_step)


def _remove(checkpoint: Path) -> None:
    """Of a link, what a user put on another disk stays."""
    if checkpoint.is_symlink():
        checkpoint.unlink()
    else:
        shutil.rmtree(checkpoint)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])


def _pack(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[place] = value.detach().cpu().contiguous().clone()
        return {_TENSOR: place}
    if isinstance(value, dict):  # as pairs: JSON would turn the optimiser's integer keys into strings
        return {"dict": [[key, _pack(item, f"{place}/{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return {type(value).__name__: [_pack(item, f"{place}/{i}", tensors) for i, item in enumerate(value)]}
    assert value is None or isinstance(value, (bool, int, float, str)), f"{place}: {type(value)} has no place in a checkpoint"
    return value


def _unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == _TENSOR:
        return tensors[content]
    if kind == "dict":
        return {key: _unpack(item, tensors) for key, item in content}
    items = [_unpack(item, tensors) for item in content]
    return tuple(items) if kind == "tuple" else items
