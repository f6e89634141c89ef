"""The profiles by which Snakemake hands the stages to a machine or a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from snakemake.cli import get_argument_parser

PROFILES = Path(__file__).parents[3] / "workflows" / "profiles"


@pytest.mark.parametrize("name", ["local", "slurm", "kubernetes"])
def test_snakemake_knows_every_key_of_a_profile(name: str) -> None:
    profile = yaml.safe_load((PROFILES / name / "config.yaml").read_text())
    known = {option.removeprefix("--") for action in get_argument_parser()._actions for option in action.option_strings}
    own = {key for key in profile if key.startswith(f"{profile.get('executor')}-")}  # of a plugin, which is not installed here
    assert set(profile) - known - own == set()


@pytest.mark.parametrize("name", ["slurm", "kubernetes"])
def test_a_cluster_is_bounded_and_a_gpu_asked_for_as_its_plugin_wants(name: str) -> None:
    profile = yaml.safe_load((PROFILES / name / "config.yaml").read_text())
    assert profile["cores"] >= 1
    for stage in ("pretrain", "finetune", "embed"):
        asked = profile["set-resources"][stage]
        if name == "slurm":
            assert asked["gres"] == "gpu:1"
        else:  # refused by the plugin without a manufacturer, by Kubernetes without limits (scale: 0)
            assert (asked["gpu"], asked["gpu_manufacturer"], asked["scale"]) == (1, "nvidia", 0)
            assert {"default-storage-provider", "default-storage-prefix", "kubernetes-persistent-volumes"} <= set(profile)
