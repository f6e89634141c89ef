"""What unit tests of several rooms share: a small recipe that has run up to its heads, runs of two processes, a disk that is full."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from biollm.stages import Run
    from biollm.training.config import TrainingConfig
    from biollm.training.run import RunSettings
    from biollm.training.task import Recipe


@pytest.fixture(scope="session")
def classified(tmp_path_factory: pytest.TempPathFactory, tiny_recipe: Callable[..., Path]) -> Run:
    """The tiny recipe without training, up to classify: heads on the base, the expanded model (fused with a computed track), k-mers,
    tracks and a covariate. Shared: read only."""
    from biollm.stages import Run

    folder = tmp_path_factory.mktemp("classified")
    recipe = tiny_recipe(
        folder,
        pretrain=None,
        expand={"held_out_records": None},
        embed={"models": ["base", "expand"], "pooling": ["mean", "max"], "layer": [0, -1], "strands": "both"},
        classify={"label": "coding", "heads": ["logistic"], "covariates": ["start_0based"], "bootstrap_samples": 100, "abstain": 0.5},
    )
    run = Run.load(recipe, out=folder / "results")
    for stage in run.stages:
        run.run_stage(stage)
    return run


# Tasks one after the other in one process group: a launch for each would take twenty seconds of two cores.
_FIT_ALL = """
import sys
from pathlib import Path
from biollm.core.files import read_json
from biollm.training.trainer import fit

for task in sys.argv[1:]:
    fit(read_json(Path(task)))
"""
Training = tuple["Recipe", "TrainingConfig", "RunSettings", Path]


@pytest.fixture(scope="session")
def fit_by_two_processes(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Iterable[Training]], None]:
    """fit_by_two_processes([(recipe, config, settings, work), …]): what `train` does of each run, but for a launch of its own. Asked
    for one of them, `train` finds it done."""
    from biollm.core.files import write_json
    from biollm.training.run import described

    script = tmp_path_factory.mktemp("fit") / "fit_all.py"
    script.write_text(_FIT_ALL)

    def fit(runs: Iterable[Training]) -> None:
        tasks = []
        for *asked, work in runs:
            tasks.append(work.with_name(f"{work.name}.json"))
            write_json(tasks[-1], described(*asked, work, work / "logs"))
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1", "--nproc-per-node=2"]
        clean = {name: value for name, value in os.environ.items() if name not in {"RANK", "MASTER_ADDR", "MASTER_PORT"}}
        done = subprocess.run([*launcher, str(script), *map(str, tasks)], env=clean, capture_output=True, text=True, check=False)
        assert all((task.with_suffix("") / "trained" / "seal.json").is_file() for task in tasks), done.stderr

    return fit


@pytest.fixture
def files_of_at_most() -> Callable[[int], AbstractContextManager[None]]:
    """with files_of_at_most(10_000): the kernel refuses a write beyond so many bytes, as a full disk does."""

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        limits, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, ignored)

    return limited
