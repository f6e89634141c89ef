"""What the tests of the rooms on top share: a small recipe that has run up to its heads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from biollm.stages import Run


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
