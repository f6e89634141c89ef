"""All that the page tells, as one JSON value: report.json is this, the page is made from nothing else but the map's points."""

from __future__ import annotations

from typing import Any

from biollm.core.artifacts import Artifact
from biollm.core.files import read_json
from biollm.core.job import Job
from biollm.report.config import Config
from biollm.report.content import Source

Facts = dict[str, Any]

DEFAULT_TITLE = "biollm report"
# Every stage that the page can tell of, in the order of the work.
_STAGES = ("ingest", "tokenizer", "merge", "expand", "pretrain", "finetune", "embed", "classify")
# Stages that write a training curve.
_WITH_HISTORY = ("pretrain", "finetune")
# What a reader needs to judge whether two runs can be compared; the manifests hold the rest.
_KEY_PACKAGES = ("biollm", "python", "torch", "transformers", "tokenizers", "scikit-learn", "xgboost")


def gather(job: Job[Config]) -> Facts:
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


def _describe(artifact: Artifact) -> Facts:
    manifest = artifact.manifest
    return {
        "digest": manifest.digest,
        "config": manifest.config,
        "facts": manifest.facts,
        "seed": manifest.seed,
        "wall_seconds": manifest.wall_seconds,
        "peak_memory_mib": manifest.peak_memory_mib,
        "reproducibility": manifest.reproducibility,
        "versions": {name: manifest.versions[name] for name in _KEY_PACKAGES if name in manifest.versions},
    }


def facts_of(facts: Facts, stage: str) -> Facts | None:
    """What a stage recorded, or None if the recipe has no such stage."""
    entry = facts["stages"].get(stage)
    return entry["facts"] if entry is not None else None


def source_of(facts: Facts, stage: str) -> Source:
    """The artifact of a stage that ran, to name beside its numbers."""
    return Source(stage, facts["stages"][stage]["digest"])
