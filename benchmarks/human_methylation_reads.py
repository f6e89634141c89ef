"""What the rows of pipelines/human_methylation_reads.yaml say beside the methylated fraction of a read, which needs no fitting.

Tumour or normal: out-of-fold scores of five folds by read name. Each row is set against the fraction on the same reads, with intervals of
the difference and two-sided p by resampling read names. Whether more or less methylation means tumour, the one bit that the fraction has
to be told, is taken from all reads. Reads the finished run in results/human_methylation_reads, or in $RESULTS.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from harness import record

from biollm.classify.metrics import bootstrap, interval, measure_once, resample_groups, two_sided_p
from biollm.core.files import read_json

RESULTS = Path(os.environ.get("RESULTS", "results/human_methylation_reads"))
SAMPLES, SEED, MEASURES = 2000, 0, ("auroc", "auprc")

records = pl.read_parquet(RESULTS / "ingest" / "records.parquet").filter(pl.col("label_ctype").is_not_null())
predictions = pl.read_parquet(RESULTS / "classify" / "predictions.parquet")
facts = read_json(RESULTS / "classify" / "manifest.json")["facts"]
positive = (records["label_ctype"] == facts["classes"][1]).to_numpy()
fraction = records["track_5mC"].list.eval(pl.element().fill_nan(None)).list.mean().fill_null(strategy="mean").to_numpy()
fraction = fraction if measure_once(positive, fraction)[0] > 0.5 else -fraction
resamples = resample_groups(records["group"].to_list(), positive, SAMPLES, np.random.default_rng(SEED))


def measured(scores: np.ndarray) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """The measures on all reads, and on every resample."""
    drawn = bootstrap(positive, scores, resamples)
    return dict(zip(MEASURES, measure_once(positive, scores), strict=True)), {name: getattr(drawn, name) for name in MEASURES}


alone, alone_drawn = measured(fraction)
print(
    f"{len(records)} reads, {resamples.groups} names; the methylated fraction alone: " + ", ".join(f"{m} {v:.3f}" for m, v in alone.items())
)
table: list[dict[str, Any]] = []
for name, title in ((row["name"], row["title"]) for row in facts["rows"] if "tracks" in row["name"] or row["name"].startswith("pretrain")):
    of_row = records.select("id").join(predictions.filter(pl.col("row") == name), on="id", how="left", maintain_order="left")
    once, drawn = measured(of_row["score"].to_numpy())
    told: dict[str, Any] = {"row": name, "title": title, **once}
    for measure in MEASURES:
        apart = drawn[measure] - alone_drawn[measure]
        low, high = interval(apart)
        told[f"{measure}_difference"] = {"value": once[measure] - alone[measure], "low": low, "high": high, "p": two_sided_p(apart)}
        print(f"  {title:36} {measure} {once[measure]:.3f}  {once[measure] - alone[measure]:+.3f} ({low:+.3f} to {high:+.3f})")
    table.append(told)
shown = ("name", "title", "is_baseline", *(f"{measure}{end}" for measure in MEASURES for end in ("", "_low", "_high")))
compared = ("question", "row_title", "reference_title", *(f"{measure}_difference" for measure in MEASURES))
best = max(told["auroc"] for told in table if told["row"].startswith("pretrain"))
record(
    "human_methylation_reads", best, {"methylated fraction of a read": alone["auroc"]}, {},
    "AUROC, out of fold; ours: the best row of the adapted model",
    fraction=alone, against_fraction=table, scheme=facts["scheme"],
    rows=[{key: row[key] for key in shown} for row in facts["rows"]],
    comparisons=[{key: found[key] for key in compared} for found in facts["comparisons"]],
)  # fmt: skip
