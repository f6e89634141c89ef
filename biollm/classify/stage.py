"""Stage `classify`: heads on embeddings beside baselines, with intervals, paired comparisons and one verdict.

Fitted on train rows, tuned on validation rows, scored once on test rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from biollm.classify.baselines import kmer_frequencies, majority_scores
from biollm.classify.compare import compare_rows
from biollm.classify.config import Config
from biollm.classify.data import Dataset, load_dataset, load_embeddings, load_predictions
from biollm.classify.heads import HEADS, Examples, Head
from biollm.classify.metrics import BoolArray, FloatArray, Resamples, bootstrap, measure_once, resample_groups, roc_points
from biollm.classify.rows import KMERS, RowPlan, ScoredRow, plan_rows
from biollm.classify.verdict import judge
from biollm.core.files import write_json
from biollm.core.job import Job
from biollm.core.progress import progress
from biollm.core.seeding import derive_seed, generator
from biollm.corpus.columns import LABEL, RECORDS, SPLITS
from biollm.corpus.options import AuditOptions
from biollm.corpus.records import audit_records

_ROC_POINTS = 200


def run(job: Job[Config]) -> dict[str, Any]:
    """Write scores.json, roc.json, predictions.parquet and heads/; return score table, comparisons and verdict."""
    config = job.config
    dataset = load_dataset(job.input("ingest") / RECORDS, config.label)
    leakage = _audit(job)
    titles = _set_titles(job)
    embeddings = {name: load_embeddings(job.input("embed") / f"{name}.parquet", dataset.ids, dataset.unlabelled) for name in titles}
    features = embeddings | {KMERS: kmer_frequencies(dataset.sequences, config.kmer)}
    finetuned = _load_finetuned(job, dataset)
    plans = plan_rows(titles, config.heads, config.kmer, config.embeddings_plus_kmers, list(finetuned))

    test = dataset.only("test")
    resamples = resample_groups(test.groups, test.positive, config.bootstrap_samples, generator(job.seed, "classify", "bootstrap"))
    heads: dict[str, Head] = {}
    scores: dict[str, FloatArray] = {}
    for plan in progress(plans, "classify", unit="row"):
        if plan.head == "none":
            scores[plan.name] = finetuned[plan.features[0]] if plan.features else _majority(dataset)
        else:
            heads[plan.name], scores[plan.name] = _fit(plan, dataset, features, derive_seed(job.seed, "classify", plan.name))
    rows = [_measure(plan, heads.get(plan.name), scores[plan.name], dataset, resamples) for plan in plans]

    comparisons = compare_rows(rows)
    verdict = judge(comparisons)
    facts: dict[str, Any] = {
        "label": config.label,
        "verdict": verdict.sentence,
        "verdict_parts": {"adaptation": verdict.adaptation, "against_baselines": verdict.against_baselines},
        "rows": [row.facts() for row in rows],
        "comparisons": [comparison.facts() for comparison in comparisons],
        "leakage": leakage,
        "splits": {split: _split_facts(dataset.only(split)) for split in SPLITS},
        "bootstrap": {
            "resampled": "groups of the test split, with replacement",
            "groups": resamples.groups,
            "samples": config.bootstrap_samples,
            "skipped_one_class": resamples.skipped,
        },
    }
    write_json(job.out / "scores.json", facts)
    is_test = _is_test(dataset)
    write_json(job.out / "roc.json", {plan.name: _roc(test, scores[plan.name][is_test]) for plan in plans})
    _predictions(dataset, scores).write_parquet(job.out / "predictions.parquet")
    (job.out / "heads").mkdir()
    for name, head in heads.items():
        head.save(job.out / "heads" / f"{name}{head.suffix}")
    return facts


def _set_titles(job: Job[Config]) -> dict[str, str]:
    """The embedding sets and their names for people."""
    return {name: facts.get("title", name) for name, facts in job.facts_of("embed")["sets"].items()}


def _audit(job: Job[Config]) -> dict[str, Any]:
    """The leak audit of the records with this label, under the recipe's tolerances. Raises DataError for leaks beyond them."""
    options = AuditOptions.model_validate(job.inputs["ingest"].manifest.config.get("audit", {}))
    options = options.model_copy(update={"modality": job.facts_of("ingest").get("modality", "dna")})
    return audit_records(job.input("ingest") / RECORDS, options, LABEL + job.config.label)


def _load_finetuned(job: Job[Config], dataset: Dataset) -> dict[str, FloatArray]:
    if "finetune" not in job.inputs:
        return {}
    return load_predictions(job.input("finetune") / "predictions.parquet", dataset.only("validation", "test").ids)


def _majority(dataset: Dataset) -> FloatArray:
    return majority_scores(dataset.only("train").positive, len(dataset.only("validation", "test").ids))


def _fit(plan: RowPlan, dataset: Dataset, features: dict[str, FloatArray], seed: int) -> tuple[Head, FloatArray]:
    """The head of a row, and its scores of the validation and test records."""
    assert plan.head != "none", plan.name
    table = np.hstack([features[name] for name in plan.features])
    train, validation = (Examples(table[m], dataset.positive[m]) for m in (dataset.mask("train"), dataset.mask("validation")))
    head = HEADS[plan.head].fit(train, validation, seed)
    return head, head.score(table[dataset.mask("validation", "test")])


def _measure(plan: RowPlan, head: Head | None, scores: FloatArray, dataset: Dataset, resamples: Resamples) -> ScoredRow:
    is_test, validation, test = _is_test(dataset), dataset.only("validation"), dataset.only("test")
    auroc, auprc = measure_once(test.positive, scores[is_test])
    return ScoredRow(
        plan,
        choice=head.choice if head is not None else "",
        validation_auroc=measure_once(validation.positive, scores[~is_test])[0],
        auroc=auroc,
        auprc=auprc,
        resampled=bootstrap(test.positive, scores[is_test], resamples),
    )


def _is_test(dataset: Dataset) -> BoolArray:
    """Which of the scored records (validation and test, in corpus order) are test records."""
    return dataset.mask("test")[dataset.mask("validation", "test")]


def _split_facts(part: Dataset) -> dict[str, int]:
    return {"records": len(part.ids), "positives": int(part.positive.sum()), "groups": len(set(part.groups))}


def _roc(test: Dataset, scores: FloatArray) -> dict[str, list[float]]:
    fpr, tpr = roc_points(test.positive, scores, _ROC_POINTS)
    return {"fpr": fpr, "tpr": tpr}


def _predictions(dataset: Dataset, scores: dict[str, FloatArray]) -> pl.DataFrame:
    """One line per scored record and row: id, split, row, score."""
    scored = dataset.only("validation", "test")
    records = pl.DataFrame({"id": scored.ids, "split": scored.split})
    return pl.concat([records.with_columns(row=pl.lit(name), score=pl.Series(values)) for name, values in scores.items()])
