"""How sure the scores of fine-tuning are: 95 % intervals on the test split, from what each method said of each record."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl

from biollm.core.bootstrap import FloatArray, ratio_interval
from biollm.core.job import Job
from biollm.core.seeding import generator
from biollm.corpus.columns import LABEL, RECORDS
from biollm.report.config import Config

# Tasks whose score is a ratio of sums over records, and its name among the scores that finetune recorded.
_SCORES = {
    "instruction": "perplexity",
    "regression": "rmse",
    "classification": "accuracy",
    "pair_classification": "accuracy",
}


def finetune_intervals(job: Job[Config]) -> dict[str, Any]:
    """{method: {score, value, low, high, records, groups}} on the test split; empty for tasks whose records have no score of their own
    (multilabel, token_classification), without test records, and where these are of one group."""
    facts = job.facts_of("finetune")
    task = facts.get("task", "classification")
    if task not in _SCORES:
        return {}
    records = _test_records(job, facts, task)
    predictions = pl.read_parquet(job.input("finetune") / "predictions.parquet")
    found = {}
    for method in facts["methods"]:
        of_method = predictions.filter(pl.col("method") == method).drop("method")
        table = records.join(of_method, on="id", how="inner", maintain_order="left")  # records without an answer were not scored
        if table.height == 0:
            continue
        parts, whole = _sums(table, task, facts)
        value = _finish(parts.sum() / whole.sum(), task)
        recorded = facts["methods"][method].get("scores", {}).get("test", {}).get(_SCORES[task])
        assert recorded is None or math.isclose(value, recorded, rel_tol=1e-3), (method, value, recorded)
        groups = table["group"].to_list()
        interval = ratio_interval(parts, whole, groups, generator(job.seed, "report", "finetune", method))
        if interval is not None:
            low, high = (_finish(ratio, task) for ratio in interval)
            counts = {"records": table.height, "groups": len(set(groups))}
            found[method] = {"score": _SCORES[task], "value": value, "low": low, "high": high, **counts}
    return found


def _test_records(job: Job[Config], facts: dict[str, Any], task: str) -> pl.DataFrame:
    columns = ["id", "group", "split"]
    names = {} if task == "instruction" else {LABEL + facts["label"]: "label"}
    table = pl.read_parquet(job.input("ingest") / RECORDS, columns=[*columns, *names]).rename(names)
    return table.filter(pl.col("split") == "test").drop_nulls().drop("split")


def _sums(table: pl.DataFrame, task: str, facts: dict[str, Any]) -> tuple[FloatArray, FloatArray]:
    """What is summed above and below the fraction, for each record."""
    ones = np.ones(table.height)
    if task == "instruction":
        return table["nats"].to_numpy().astype(np.float64), table["tokens"].to_numpy().astype(np.float64)
    if task == "regression":
        return (table["value"].to_numpy() - table["label"].cast(pl.Float64).to_numpy()) ** 2, ones
    label = table["label"]
    if label.dtype.is_float() or label.dtype == pl.Boolean:
        label = label.cast(pl.Int64)
    classes = facts.get("classes", ["0", "1"])
    said = (
        table["predicted"].to_list() if "predicted" in table.columns else [classes[int(score >= 0.5)] for score in table["score"].to_list()]
    )
    return np.asarray([a == b for a, b in zip(said, label.cast(pl.String).to_list(), strict=True)], dtype=np.float64), ones


def _finish(ratio: float, task: str) -> float:
    """The score that readers know from the ratio of sums."""
    return float({"instruction": np.exp, "regression": np.sqrt}.get(task, float)(ratio))
