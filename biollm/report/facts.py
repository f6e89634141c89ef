"""All that the page tells, as one JSON value: report.json is this, the page is made from nothing else but the map's points."""

from __future__ import annotations

from typing import Any

from biollm.core.artifacts import Artifact
from biollm.core.files import read_json
from biollm.core.job import Job
from biollm.report.config import Config

DEFAULT_TITLE = "biollm report"
# Every stage that the page can tell of, in the order of the work.
_STAGES = ("ingest", "tokenizer", "merge", "expand", "pretrain", "finetune", "embed", "classify")
# Stages that write a training curve.
_WITH_HISTORY = ("pretrain", "finetune")
# What a reader needs to judge whether two runs can be compared; the manifests hold the rest.
_KEY_PACKAGES = ("biollm", "python", "torch", "transformers", "tokenizers", "scikit-learn", "xgboost")


def gather(job: Job[Config]) -> dict[str, Any]:
    """The facts of every stage at hand, the scores, the curves."""
    classify = job.input("classify")
    return {
        "title": job.config.title or DEFAULT_TITLE,
        "base_model": job.base_model,
        "scores": read_json(classify / "scores.json"),
        "roc": read_json(classify / "roc.json"),
        "histories": {name: read_json(job.input(name) / "history.json") for name in _WITH_HISTORY if name in job.inputs},
        "stages": {name: _describe(job.inputs[name]) for name in _STAGES if name in job.inputs},
    }


def _describe(artifact: Artifact) -> dict[str, Any]:
    manifest = artifact.manifest
    return {
        "digest": manifest.digest,
        "facts": manifest.facts,
        "seed": manifest.seed,
        "wall_seconds": manifest.wall_seconds,
        "peak_memory_mib": manifest.peak_memory_mib,
        "reproducibility": manifest.reproducibility,
        "versions": {name: manifest.versions[name] for name in _KEY_PACKAGES if name in manifest.versions},
    }
