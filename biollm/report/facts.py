"""All that the page tells, as one JSON value: the page is made from nothing else but the map's points."""

from __future__ import annotations

from typing import Any

from biollm.core.artifacts import Artifact
from biollm.core.errors import ConfigError
from biollm.core.files import read_json
from biollm.core.job import Job
from biollm.report.config import Config
from biollm.report.content import Source
from biollm.report.intervals import finetune_intervals

Facts = dict[str, Any]

DEFAULT_TITLE = "biollm report"
# Every stage that the page can tell of, in the order of the work.
STAGES = ("ingest", "tokenizer", "merge", "expand", "pretrain", "finetune", "embed", "classify")
# Stages that write a training curve.
_WITH_HISTORY = ("pretrain", "finetune")
# What classify may write beside its scores, by name without .json.
_CURVES = ("roc", "pr", "calibration")
# What a reader needs to judge whether two runs can be compared; the manifests hold the rest.
_KEY_PACKAGES = ("biollm", "python", "torch", "transformers", "tokenizers", "scikit-learn", "xgboost")


def gather(job: Job[Config]) -> Facts:
    """The facts of every stage at hand, the scores, the curves. Raises ConfigError if there is no stage to tell of."""
    at_hand = [name for name in STAGES if name in job.inputs]
    if not at_hand:
        raise ConfigError(f"the report has no stage to tell of; add one of {', '.join(STAGES)} to the recipe")
    classify = job.input("classify") if "classify" in job.inputs else None
    return {
        "title": job.config.title or DEFAULT_TITLE,
        "base_model": job.base_model,
        "scores": read_json(classify / "scores.json") if classify else None,
        "curves": {name: read_json(path) for name in _CURVES if classify and (path := classify / f"{name}.json").is_file()},
        "histories": {name: read_json(job.input(name) / "history.json") for name in _WITH_HISTORY if name in job.inputs},
        "diagnostics": _diagnostics(job),
        "finetune_intervals": finetune_intervals(job) if "finetune" in job.inputs else {},
        "stages": {name: _describe(job.inputs[name]) for name in at_hand},
    }


def _diagnostics(job: Job[Config]) -> list[Facts]:
    """What embed found of how vectors follow measured tracks; nothing for models without."""
    path = job.input("embed") / "diagnostics.json" if "embed" in job.inputs else None
    found: list[Facts] = read_json(path) if path is not None and path.is_file() else []
    return found


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
        "machine": manifest.machine,
        "versions": {name: manifest.versions[name] for name in _KEY_PACKAGES if name in manifest.versions},
    }


def facts_of(facts: Facts, stage: str) -> Facts | None:
    """What a stage recorded, or None if the recipe has no such stage."""
    entry = facts["stages"].get(stage)
    return entry["facts"] if entry is not None else None


def source_of(facts: Facts, stage: str) -> Source:
    """The artifact of a stage that ran, to name beside its numbers."""
    return Source(stage, facts["stages"][stage]["digest"])


def domain_of(facts: Facts) -> str:
    """What the model was adapted to, in the words of the recipe: its sources, or else the domains of its vocabulary."""
    if (ingest := facts_of(facts, "ingest")) is not None:
        return ", ".join(ingest["sources"])
    if (merge := facts_of(facts, "merge")) is not None:
        return ", ".join(domain["name"] for domain in merge["domains"])
    tokenizer = facts_of(facts, "tokenizer") or {}
    return str(tokenizer.get("modality", "the domain"))


def judged_by(facts: Facts) -> str | None:
    """The label that heads were scored on; None if none was."""
    return None if facts["scores"] is None else str(facts["scores"]["label"])


def is_given(facts: Facts) -> bool:
    """Whether heads were scored on the corpus's own splits; else out of fold, and the splits were not used. Needs scores."""
    return bool(facts["scores"].get("scheme", {"scheme": "given"})["scheme"] == "given")


def two_classes(facts: Facts) -> tuple[str, str] | None:
    """The positive class and the other one of a scored label with two named classes; None for yes or no (1 and 0) and for other tasks."""
    classes = facts["scores"].get("classes", ["0", "1"])
    if facts["scores"].get("task", "binary") != "binary" or classes == ["0", "1"]:
        return None
    return classes[1], classes[0]


def unit_of(facts: Facts) -> str:
    """What 'bits per base' counts in this corpus: base, residue, letter, or byte of text."""
    units = {"dna": "base", "methylated_dna": "base", "rna": "base", "protein": "residue", "smiles": "letter", "text": "byte"}
    return units[(facts_of(facts, "ingest") or {}).get("modality", "dna")]
