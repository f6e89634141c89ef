"""What is said of a training process that died."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from biollm.core.errors import DataError
from biollm.training import launch
from biollm.training.config import TrainingConfig

ROOT = Path(__file__).parents[3]


@pytest.mark.skipif(sys.platform != "linux", reason="only there does the kernel kill so")
def test_a_worker_that_the_kernel_killed_is_told_with_what_needs_less_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun itself ends with 1, as for any other failure."""
    (tmp_path / "worker_that_dies.py").write_text("import os\nos.kill(os.getpid(), 9)\n")
    monkeypatch.setattr(launch, "_WORKER", "worker_that_dies")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    config = TrainingConfig(steps=1, learning_rate=1.0, processes=2)
    told = r"died \(SIGKILL\); Linux ends a process so when memory runs out: raise gradient_accumulation \(now 1\).*workers\.log; run again"
    with pytest.raises(DataError, match=told):
        launch.launch(tmp_path / "task.json", config, "test")
