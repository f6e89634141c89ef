"""A recipe may end at any stage: the page tells what was measured, and claims no more."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from biollm.core.artifacts import make_artifact
from biollm.core.errors import ConfigError
from biollm.core.job import Job
from biollm.report.config import Config
from biollm.report.facts import STAGES, gather
from biollm.report.outcome import best_method, measurements, verdict
from biollm.report.stage import run
from biollm.stages import BY_NAME, Run

ReportJob = Callable[..., Job[Config]]
_ORDER = ("ingest", "tokenizer", "merge", "expand", "pretrain", "finetune", "embed", "classify")


def _after(stage: str) -> tuple[str, ...]:
    return _ORDER[_ORDER.index(stage) + 1 :]


@pytest.mark.parametrize(
    ("last", "said"),
    [
        ("ingest", "A corpus of 600 records was made; no model has been adapted to it yet."),
        ("tokenizer", "A tokenizer of 1,024 tokens was trained; no model has used it yet."),
        ("merge", "3,059 tokens were added and no token of the base moved; no model has been trained with them"),
        ("expand", "Nothing has been trained yet: right after expansion the loss on held-out records of the domain, in bits per base, is"),
        ("pretrain", "continued pretraining, in bits per base, is 1.930 (−1.120, 95 % interval −1.170 to −1.070), against 3.050"),
        ("finetune", "No clear effect: the accuracy of fine-tuning (lora) on the test split is 0.640 (95 % interval"),
    ],
)  # fmt: skip
def test_a_recipe_that_ends_at_a_stage_gets_a_page_with_an_honest_sentence(report_job: ReportJob, last: str, said: str) -> None:
    job = report_job(without=_after(last))
    facts = run(job)
    markdown = (job.out / "report.md").read_text().replace("\\", "")
    assert said in markdown
    assert facts["sections"][0] == "adapted"
    assert facts["sections"][-1] == "provenance"
    assert "baselines" not in facts["sections"]
    assert ("help" in facts["sections"]) == (last in {"expand", "pretrain", "finetune"})
    assert said in (job.out / "report.html").read_text()


@pytest.mark.parametrize("only", [stage for stage in STAGES if stage not in {"embed", "classify"}])
def test_any_stage_alone_makes_a_page(report_job: ReportJob, only: str) -> None:
    job = report_job(without=tuple(stage for stage in STAGES if stage not in {only, "ingest"}))
    assert "provenance" in run(job)["sections"]


def test_the_audit_of_the_corpus_is_shown_where_no_head_was_scored(report_job: ReportJob, tmp_path: Path) -> None:
    audit = {
        "verdict": "leaks",
        "findings": [{"severity": "leak", "kind": "exact_duplicates", "sentence": "3 of 150 test rows are copies"}],
    }
    facts = _facts(report_job(without=_after("pretrain")))
    ingest = facts["stages"]["ingest"]
    ingest["facts"] = ingest["facts"] | {"audit": audit | {"rows_audited": 5, "rows_of_corpus": 600}}
    from biollm.report.data import leakage

    section = leakage(facts)
    assert section is not None
    assert section.prose[0] == "The splits leak: read the scores as too good."
    assert section.prose[1] == "A sample of 5 of 600 records was looked at."
    assert [source.stage for source in section.tables[0].sources] == ["ingest"]


def _facts(job: Job[Config]) -> dict[str, Any]:
    return gather(job)


def _changed(facts: dict[str, Any], stage: str, **changes: Any) -> dict[str, Any]:
    entry = facts["stages"][stage]
    return facts | {"stages": facts["stages"] | {stage: entry | {"facts": entry["facts"] | changes}}}


def test_a_higher_loss_is_not_called_help(report_job: ReportJob) -> None:
    facts = _facts(report_job(without=_after("pretrain")))
    for low, said in ((0.1, "It did not help: "), (-0.1, "No clear effect: ")):
        bits = {"before": 1.9, "after": 2.1, "change": {"value": 0.2, "low": low, "high": 0.3, "groups": 5, "documents": 9}}
        assert verdict(_changed(facts, "pretrain", bits_per_base=bits)).startswith(said)
    unsure = _changed(facts, "pretrain", bits_per_base=bits | {"change": None})
    assert verdict(unsure).startswith("By one measurement, which has no interval, it did not help: ")


@pytest.mark.parametrize(
    ("side", "offset", "said"), [("low", 1e-6, "No clear effect"), ("low", -1e-6, "It helped"), ("high", 1e-6, "It did not help")]
)
def test_an_interval_that_holds_the_baseline_claims_nothing(report_job: ReportJob, side: str, offset: float, said: str) -> None:
    facts = _facts(report_job(without=_after("finetune")))
    interval = facts["finetune_intervals"]["lora"]
    baseline = {"what": "the frequencies of the train split", "scores": {"test": {"accuracy": interval[side] + offset}}}
    assert verdict(_changed(facts, "finetune", baseline=baseline)).startswith(f"{said}: the accuracy")


def test_the_method_is_chosen_on_validation_not_on_test() -> None:
    def scored(validation: float, test: float) -> dict[str, Any]:
        return {"scores": {"validation": {"perplexity": validation}, "test": {"perplexity": test}}}

    assert best_method({"methods": {"a": scored(20.0, 5.0), "b": scored(15.0, 30.0)}}) == "b"


def test_the_unit_of_a_loss_is_that_of_the_corpus(report_job: ReportJob) -> None:
    facts = _changed(_facts(report_job(without=_after("pretrain"))), "ingest", modality="text")
    assert "in bits per byte" in verdict(facts)
    assert all("bits per byte" in entry.what for entry in measurements(facts))


def test_general_text_that_was_not_measured_is_said_with_the_remedy(report_job: ReportJob) -> None:
    from biollm.report.overview import cost

    facts = _changed(_facts(report_job(without=_after("pretrain"))), "pretrain", bits_per_byte_general=None)
    section = cost(facts)
    assert section is not None
    assert "was not measured" in section.notes[0].text
    assert "pretrain: {general: {text:" in section.notes[0].text
    assert not any("bits per byte" in row.cells[0] for row in section.tables[0].rows)


@pytest.mark.parametrize("task", ["instruction", "regression"])
def test_the_interval_of_a_score_is_of_the_score_that_finetune_reports(report_job: ReportJob, tmp_path: Path, task: str) -> None:
    """nats and tokens of answers make a perplexity; values and labels an error."""
    job = report_job(without=_after("finetune"))
    records = pl.read_parquet(job.input("ingest") / "records.parquet").filter(pl.col("split") == "test")
    rng = np.random.default_rng(0)
    nats, tokens, value = rng.uniform(1, 50, records.height), rng.integers(1, 30, records.height), rng.normal(size=records.height)
    columns = {"nats": nats, "tokens": tokens} if task == "instruction" else {"value": value}
    expected = (
        math.exp(nats.sum() / tokens.sum())
        if task == "instruction"
        else float(np.sqrt(((value - records["label_coding"].to_numpy()) ** 2).mean()))
    )

    def fill(out: Path, work: Path) -> dict[str, Any]:
        table = pl.DataFrame({"id": records["id"], "method": ["lora"] * records.height} | columns)
        table.sample(fraction=1.0, shuffle=True, seed=1).write_parquet(out / "predictions.parquet")
        (out / "history.json").write_text("{}")
        name = "perplexity" if task == "instruction" else "rmse"
        scores = {split: {name: expected} for split in ("validation", "test")}
        return {"task": task, "label": "coding", "methods": {"lora": {"scores": scores}}}

    made = make_artifact(tmp_path / "finetune", stage="finetune", key="k" * 16, config={}, seed=1, inputs={}, reproducibility="", fill=fill)
    job.inputs["finetune"] = made
    interval = gather(job)["finetune_intervals"]["lora"]
    assert interval["value"] == pytest.approx(expected, rel=1e-12)
    assert interval["low"] < expected < interval["high"]
    assert (interval["records"], interval["groups"]) == (records.height, records["group"].n_unique())


def test_a_report_of_nothing_is_refused(report_job: ReportJob) -> None:
    with pytest.raises(ConfigError, match="no stage to tell of"):
        run(report_job(without=STAGES))


def test_a_recipe_of_a_report_alone_is_refused_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("name: r\nreport: {}\n")
    with pytest.raises(ConfigError, match="'report' has no stage to tell of"):
        Run.load(tmp_path / "r.yaml")


@pytest.mark.slow
def test_the_page_of_a_real_fine_tuning_run(tiny_recipe: Callable[..., Path], tmp_path: Path) -> None:
    """Real stages on a tiny model, no embeddings, no heads: the interval is of the very accuracy that finetune recorded."""
    finetune = {"label": "coding", "methods": [{"name": "output_layer", "steps": 2, "batch_size": 4, "precision": "fp32"}]}
    run_of = Run.load(tiny_recipe(tmp_path, finetune=finetune, embed=None, report={}), out=tmp_path / "results")
    for stage in run_of.stages:
        artifact, _ = run_of.run_stage(stage)
    facts = artifact.facts
    assert facts["sections"] == [
        "adapted", "help", "cost", "vocabulary", "new-rows", "training", "finetuning", "fusion", "data", "leakage", "provenance",
    ]  # fmt: skip
    written = json.loads((run_of.folder(BY_NAME["report"]) / "report.json").read_text())
    interval = written["finetune_intervals"]["output_layer"]
    recorded = written["stages"]["finetune"]["facts"]["methods"]["output_layer"]["scores"]["test"]["accuracy"]
    assert interval["value"] == pytest.approx(recorded, abs=1e-9)
    assert interval["low"] <= recorded <= interval["high"]
