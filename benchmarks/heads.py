"""Five folds of XGBoost on real k-mers: one quantised matrix and folds side by side, against scikit-learn's cross_val_score.

The windows of the quickstart (fly chromosome 4 and yeast chromosome I, from installed packages), coding or not, folds by group; the same
hyper-parameters (XGBoost's defaults), rounds and folds on all sides. Cut points are made over all rows, scored ones too: they see features,
no labels. `cross_val_score` lets XGBoost use all cores for one fold; the peer with n_jobs fits folds in processes of one thread, the best
that its users can do.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
from harness import record
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_score
from xgboost import XGBClassifier

from biollm.classify import cross_validate_trees
from biollm.classify.baselines import kmer_frequencies
from biollm.classify.targets import Targets
from biollm.core.machine import usable_cores
from biollm.stages import BY_NAME, Run

FOLDS, ROUNDS, REPEATS, LARGEST_DIFFERENCE = 5, 100, 3, 0.002
RECIPE = Path(__file__).parent.parent / "pipelines" / "quickstart.yaml"

with TemporaryDirectory() as folder:
    Run.load(RECIPE, [], Path(folder)).run_stage(BY_NAME["ingest"])
    records = pl.read_parquet(Path(folder) / "ingest" / "records.parquet", columns=["sequence", "group", "label_coding"])
tables = {f"{k}-mers": kmer_frequencies(records["sequence"].to_list(), k) for k in (4,)}
positive = records["label_coding"].to_numpy()
folds = list(GroupKFold(FOLDS, shuffle=True, random_state=0).split(positive, groups=records["group"].to_numpy()))
targets = Targets("binary", ("0", "1"), positive.astype(np.float64))
cores = usable_cores()
OURS, DEFAULT, PROCESSES = "ours", "cross_val_score(XGBClassifier())", f"cross_val_score(XGBClassifier(n_jobs=1), n_jobs={cores})"


def fold_aurocs(output: np.ndarray) -> float:
    return float(np.mean([roc_auc_score(positive[scored], output[scored]) for _, scored in folds]))


def ways(table: np.ndarray) -> dict[str, Callable[[], float]]:
    return {
        OURS: lambda: fold_aurocs(cross_validate_trees(table, targets, folds, {}, ROUNDS)),
        DEFAULT: lambda: float(cross_val_score(XGBClassifier(n_estimators=ROUNDS), table, positive, cv=folds, scoring="roc_auc").mean()),
        PROCESSES: lambda: float(
            cross_val_score(
                XGBClassifier(n_estimators=ROUNDS, n_jobs=1), table, positive, cv=folds, scoring="roc_auc", n_jobs=cores
            ).mean()
        ),
    }  # fmt: skip


results = {}
for name, table in tables.items():
    seconds: dict[str, list[float]] = {way: [] for way in ways(table)}
    aurocs: dict[str, float] = {}
    for repeat in range(REPEATS + 1):
        for way, run in ways(table).items():
            started = time.perf_counter()
            aurocs[way] = run()
            if repeat:  # the first round warms caches and starts processes
                seconds[way].append(time.perf_counter() - started)
    medians = {way: statistics.median(times) for way, times in seconds.items()}
    ratios = {way: medians[way] / medians[OURS] for way in (DEFAULT, PROCESSES)}
    difference = max(abs(aurocs[way] - aurocs[OURS]) for way in aurocs)
    results[name] = {"rows": len(table), "columns": table.shape[1], "seconds": medians, "auroc": aurocs, "ratios": ratios}
    print(f"{name}: {len(table)} windows, {table.shape[1]} columns, {FOLDS} folds, {ROUNDS} rounds; median of {REPEATS}")
    for way, median in medians.items():
        told = f"   ours is {ratios[way]:.2f}x as fast" if way in ratios else ""
        print(f"  {way:<56}{median:8.3f} s   AUROC {aurocs[way]:.5f}{told}", flush=True)
    assert difference <= LARGEST_DIFFERENCE, f"{name}: AUROC differs by {difference:.4f}; promised at most {LARGEST_DIFFERENCE}"

first = results["4-mers"]
record(
    "heads", first["seconds"][OURS], {way: first["seconds"][way] for way in (DEFAULT, PROCESSES)}, first["ratios"],
    "seconds for five folds of 100 rounds on 4-mers", tables=results,
    quantised="cut points over all rows, scored ones too; they see features, no labels",
)  # fmt: skip
