"""XGBoost in five folds as `biollm classify` fits it, against the same by scikit-learn and XGBoost alone, on two real tables.

The windows of the quickstart (fly chromosome 4 and yeast chromosome I, from installed packages), coding or not, folds by group: their
embeddings by the adapted model, and their 4-mers. Reads the finished run in results/quickstart, or in $RESULTS; makes it if there is
none.

- *Folds alone*: `cross_validate_trees` against `cross_val_score(XGBClassifier())`, both with XGBoost's 100 rounds of depth 6.
- *A row of the stage*: `head_outcome`, which the stage calls. In each fold rounds stop early on groups held out of its train rows, and
  the head is fitted again on all of these with as many rounds; the head that is kept is one more such fit, on all rows; SHAP values are
  computed beside, which no peer does. The peers have the same settings, folds and inner folds: one lets XGBoost use all cores for one
  fit after the other; the other fits folds in processes of one thread.

Ours makes cut points once, over all rows, scored ones too (they see features, no labels), and 64 of them where XGBoost's default, which the
first peer takes, is 256; folds are fitted side by side with one thread each. The peers bin each fit anew.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from harness import record
from joblib import Parallel, delayed
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import PredefinedSplit, cross_val_score
from xgboost import XGBClassifier

from biollm.classify import cross_validate_trees
from biollm.classify.baselines import kmer_frequencies
from biollm.classify.boosting import DEFAULT_TREES, MAX_ROUNDS, PATIENCE_ROUNDS
from biollm.classify.config import Config, SplitOptions
from biollm.classify.data import load_dataset, load_embeddings
from biollm.classify.features import EmbeddingBlock
from biollm.classify.fitting import Method
from biollm.classify.folds import Fold, inner_folds, outer_folds
from biollm.classify.rows import RowPlan
from biollm.classify.scoring import head_outcome
from biollm.classify.tables import Tables
from biollm.core.machine import granted_cores, thread_limits
from biollm.stages import BY_NAME, Run
from biollm.workflow import run_workflow

K, REPEATS, ROUNDS, LARGEST_DIFFERENCE, LARGEST_SHORTFALL, SEED = 4, 5, 100, 0.01, 0.002, 0
ROOT = Path(__file__).parent.parent
RESULTS = Path(os.environ.get("RESULTS", ROOT / "results" / "quickstart"))
CORES = granted_cores()
os.environ |= thread_limits(CORES)  # as `biollm classify` does
FOLDS_ALONE, NOTEBOOK = "cross_validate_trees", "cross_val_score(XGBClassifier())"
STAGE = "head_outcome"
THREADS, PROCESSES = f"XGBClassifier(n_jobs={CORES}), fold after fold", f"XGBClassifier(n_jobs=1) in {CORES} processes"
AGAINST = {FOLDS_ALONE: (NOTEBOOK,), STAGE: (THREADS, PROCESSES, NOTEBOOK)}

run = Run.load(ROOT / "pipelines" / "quickstart.yaml", [], RESULTS)
if not run_workflow(run, [], None, BY_NAME["embed"]):
    sys.exit(1)
options = Config(label="coding", split=SplitOptions(scheme="group_kfold", folds=5))
dataset = load_dataset(run.folder(BY_NAME["ingest"]) / "records.parquet", options)
positive = dataset.targets.positive
folds = outer_folds(options.split, dataset.targets, dataset.ids, dataset.groups, SEED)
rows, codes = np.arange(len(dataset)), np.unique(np.array(dataset.groups), return_inverse=True)[1].astype(np.int64)
keep = Fold("all labelled records", rows, rows[:0], inner_folds(dataset.targets, codes, options.split.inner_folds, SEED)[:1], refit=True)
TABLES = {
    "embeddings": load_embeddings(run.folder(BY_NAME["embed"]) / "pretrain.parquet", dataset.ids, dataset.unlabelled),
    f"{K}-mers": kmer_frequencies(dataset.sequences, K),
}


def of_stage(table: np.ndarray) -> float:
    plan = RowPlan("table_xgboost", "XGBoost", ("table",), "xgboost", True)
    block = EmbeddingBlock(set="table", title="table", columns=table.shape[1], model_digest="", settings={})
    tables = Tables({"table": block}, {}, {"table": table}, dataset.table)
    return auroc(head_outcome(plan, tables, dataset, folds, keep, Method("xgboost"), SEED).output)


def folds_alone(table: np.ndarray) -> float:
    return auroc(cross_validate_trees(table, dataset.targets, [(fold.train, fold.test) for fold in folds], {}, ROUNDS))


def fit_like_us(table: np.ndarray, fold: Fold, jobs: int) -> np.ndarray:
    """What a careful user of XGBoost does for one fold: the probabilities of its scored rows."""
    settings = {"learning_rate" if name == "eta" else name: value for name, value in DEFAULT_TREES.items()}
    settings |= {"n_jobs": jobs, "random_state": SEED, "eval_metric": "logloss"}
    fitted, tuned = fold.inner[0]
    search = XGBClassifier(n_estimators=MAX_ROUNDS, early_stopping_rounds=PATIENCE_ROUNDS, **settings)
    search.fit(table[fitted], positive[fitted], eval_set=[(table[tuned], positive[tuned])], verbose=False)
    head = XGBClassifier(n_estimators=search.best_iteration + 1, **settings).fit(table[fold.train], positive[fold.train])
    return np.asarray(head.predict_proba(table[fold.test])[:, 1] if len(fold.test) else np.zeros(0))


def peer(table: np.ndarray, jobs: int, processes: int) -> float:
    found = Parallel(processes)(delayed(fit_like_us)(table, fold, jobs) for fold in [*folds, keep])
    output = np.full(len(dataset), np.nan)
    for fold, probabilities in zip(folds, found, strict=False):
        output[fold.test] = probabilities
    return auroc(output)


def notebook(table: np.ndarray) -> float:
    number_of_fold = np.zeros(len(table), dtype=np.int64)
    for number, fold in enumerate(folds):
        number_of_fold[fold.test] = number
    return float(np.mean(cross_val_score(XGBClassifier(), table, positive, cv=PredefinedSplit(number_of_fold), scoring="roc_auc")))


def auroc(output: np.ndarray) -> float:
    return float(np.mean([roc_auc_score(positive[fold.test], output[fold.test]) for fold in folds]))


WAYS: dict[str, Callable[[np.ndarray], float]] = {
    FOLDS_ALONE: folds_alone, NOTEBOOK: notebook, STAGE: of_stage,
    THREADS: lambda table: peer(table, CORES, 1), PROCESSES: lambda table: peer(table, 1, CORES),
}  # fmt: skip


def measured(title: str, table: np.ndarray) -> dict[str, Any]:
    """Seconds (medians), AUROC, and how often as fast ours are as each peer; all ways in turn."""
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    aurocs: dict[str, float] = {}
    for repeat in range(REPEATS + 1):
        for way, run_way in WAYS.items():
            started = time.perf_counter()
            aurocs[way] = run_way(table)
            if repeat:  # the first round warms caches and starts processes
                seconds[way].append(time.perf_counter() - started)
    medians = {way: statistics.median(times) for way, times in seconds.items()}
    print(f"{title}: {len(table)} windows, {table.shape[1]} columns, {len(folds)} folds; median of {REPEATS}")
    for way, median in medians.items():
        print(f"  {way:<48}{median:8.3f} s   AUROC {aurocs[way]:.5f}", flush=True)
    ratios = {f"{own} / {other}": medians[other] / medians[own] for own, others in AGAINST.items() for other in others}
    for name, ratio in ratios.items():
        print(f"  {name}: {ratio:.2f}x as fast")
    difference = max(abs(aurocs[way] - aurocs[STAGE]) for way in (THREADS, PROCESSES))
    assert difference <= LARGEST_DIFFERENCE, f"AUROC differs by {difference:.4f} at equal settings; promised at most {LARGEST_DIFFERENCE}"
    return {"columns": table.shape[1], "seconds": medians, "auroc": aurocs, "ratios": ratios}


found = {title: measured(title, table) for title, table in TABLES.items()}
first = found["embeddings"]
seconds, ratio = first["seconds"], first["ratios"][f"{FOLDS_ALONE} / {NOTEBOOK}"]
record(
    "heads", seconds[FOLDS_ALONE], {NOTEBOOK: seconds[NOTEBOOK]}, {NOTEBOOK: ratio},
    f"seconds for five folds of {ROUNDS} rounds of XGBoost on embeddings; all else in tables", rows=len(dataset), tables=found,
    quantised="cut points over all rows, scored ones too; they see features, no labels",
)  # fmt: skip
for title, facts in found.items():
    shortfall = facts["auroc"][NOTEBOOK] - min(facts["auroc"][own] for own in AGAINST)
    assert shortfall <= LARGEST_SHORTFALL, f"{title}: AUROC is {shortfall:.4f} below {NOTEBOOK}; promised at most {LARGEST_SHORTFALL}"
