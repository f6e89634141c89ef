"""What the processes of a run do together."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from biollm.training.processes import shared_out

TWO = """
import json, os, sys
import torch
from biollm.training.processes import shared_out

own = 0 if os.fork() else 1
os.environ["RANK"] = str(own)
store = torch.distributed.FileStore(sys.argv[1] + "/store", 2)
torch.distributed.init_process_group("gloo", store=store, rank=own, world_size=2)
asked = []
said = shared_out(list("abcde"), lambda part: asked.append(part) or part.upper())
open(f"{sys.argv[1]}/{own}.json", "w").write(json.dumps([said, asked]))
torch.distributed.barrier()
"""


def test_alone_a_process_does_all_parts() -> None:
    asked: list[int] = []
    assert shared_out([3, 1, 2], lambda part: asked.append(part) or part * 2) == [6, 2, 4]
    assert asked == [3, 1, 2]
    assert shared_out([], str) == []


@pytest.mark.slow
def test_two_processes_share_parts_out_and_both_know_all_that_was_said(tmp_path: Path) -> None:
    """Both work as often, which ZeRO 3 needs."""
    alone = {name: value for name, value in os.environ.items() if name not in {"RANK", "MASTER_ADDR", "MASTER_PORT"}}
    subprocess.run([sys.executable, "-c", TWO, str(tmp_path)], env=alone, check=True, timeout=120)
    said = ["A", "B", "C", "D", "E"]
    assert (tmp_path / "0.json").read_text() == f'[{said}, ["a", "c", "e"]]'.replace("'", '"')
    assert (tmp_path / "1.json").read_text() == f'[{said}, ["b", "d", "e"]]'.replace("'", '"')
