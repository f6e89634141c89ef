"""Stage `classify`: heads on embeddings beside baselines, with intervals, paired comparisons and one verdict.

The given splits: fitted on train rows, tuned on validation rows, scored once on test rows. Folds: every labelled record is scored once,
by a head that was fitted and tuned on other groups; the corpus's own splits are not used then.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from biollm.classify.compare import compare_rows
from biollm.classify.config import Config
from biollm.classify.data import Dataset, check_given_splits, load_dataset, load_predictions
from biollm.classify.fitting import Method
from biollm.classify.folds import Fold, given_fold, inner_folds, outer_folds
from biollm.classify.heads import check_pca, heads_for
from biollm.classify.measures import MEASURES, primary, primary_score, unlearned, without_fold_levels
from biollm.classify.metrics import FloatArray, IntArray, resample_groups
from biollm.classify.rows import FINETUNE, MAJORITY, AtHand, RowPlan, ScoredRow, no_nan, plan_rows
from biollm.classify.saved import canonical_smiles, save_head
from biollm.classify.scoring import Outcome, curves, finetuned_outcome, head_outcome, majority_outcome, score_row, scored_rows
from biollm.classify.tables import Tables, build_tables, set_titles
from biollm.classify.verdict import judge
from biollm.core.errors import DataError, listed
from biollm.core.files import write_json
from biollm.core.job import Job
from biollm.core.progress import progress, say
from biollm.core.seeding import derive_seed, generator
from biollm.corpus.columns import COVERAGE, LABEL, RECORDS, SPLITS, TRACK
from biollm.corpus.options import AuditOptions
from biollm.corpus.records import audit_records

_SHOWN_IDS = 5
_FOLDS_FINETUNE = "fine-tuned models were fitted on the corpus's own train split, so folds cannot score them"


def run(job: Job[Config]) -> dict[str, Any]:
    """Write scores.json, roc.json, pr.json, calibration.json, predictions.parquet and heads/<row>/; return score table, comparisons and
    verdict."""
    config = job.config
    dataset = load_dataset(job.input("ingest") / RECORDS, config)
    unlabelled = sorted(dataset.unlabelled)
    if unlabelled:
        say(f"classify: {len(unlabelled):,} records have no label and are left out: {listed(unlabelled, _SHOWN_IDS)}")
    heads = heads_for(dataset.targets.task, list(config.heads))
    folds, keep = _folds(job, dataset)
    leakage = _audit(job, dataset, folds)
    tables = build_tables(job, dataset, job.facts_of("ingest").get("modality", "dna"))
    finetuned = _load_finetuned(job, dataset)
    at_hand = AtHand(dataset.targets.task, set_titles(job), tables.titles, list(finetuned))
    plans = plan_rows(at_hand, heads, config.embeddings_plus_kmers)
    if config.pca is not None:
        fitted = (plan for plan in plans if plan.head != "none")
        check_pca(config.pca, {plan.title: len(tables.names(plan, tables.encoder(plan, keep.train))) for plan in fitted})

    scored = scored_rows(folds)
    truth = dataset.targets.take(scored)
    member = None if truth.task in ("regression", "ranking") else truth.of_class()
    groups = dataset.table["group"][scored].to_list()
    resamples = resample_groups(groups, member, config.bootstrap_samples, generator(job.seed, "classify", "bootstrap"))
    outcomes: dict[str, Outcome] = {}
    rows: list[ScoredRow] = []
    for plan in progress(plans, "classify", unit="row"):
        outcomes[plan.name] = _outcome(plan, job, dataset, tables, folds, keep, finetuned)
        rows.append(score_row(plan, outcomes[plan.name], dataset, folds, resamples))

    comparisons = compare_rows(rows)
    verdict = judge(comparisons)
    first = primary(dataset.targets.task)
    left_out = tables.left_out | ({FINETUNE: _FOLDS_FINETUNE} if "finetune" in job.inputs and keep.refit else {})
    facts: dict[str, Any] = {
        "label": ", ".join(config.labels) or config.label,
        "task": dataset.targets.task,
        "classes": list(dataset.targets.classes),
        "measure": {"name": first.name, "title": first.title},
        "measures": [{"name": m.name, "title": m.title, "higher_is_better": m.higher_is_better} for m in MEASURES[dataset.targets.task]],
        "verdict": verdict.sentence,
        "verdict_parts": verdict.parts(),
        "rows": [row.facts() for row in rows],
        "left_out": left_out,
        "comparisons": [comparison.facts() for comparison in comparisons],
        "leakage": leakage,
        "unlabelled": {"records": len(unlabelled), "first_ids": unlabelled[:_SHOWN_IDS]},
        "splits": {split: _split_facts(dataset, dataset.mask(split)) for split in SPLITS},
        "scheme": _scheme_facts(config, dataset, folds),
        "calibration": config.calibration,
        "bootstrap": {
            "resampled": f"groups of {'all labelled records' if keep.refit else 'the test split'}, with replacement",
            "groups": resamples.groups,
            "samples": config.bootstrap_samples,
            "skipped_one_class": resamples.skipped,
        },
    }
    write_json(job.out / "scores.json", facts)
    drawn = {name: curves(outcome, dataset.targets, folds) for name, outcome in outcomes.items()}
    for kind in ("roc", "pr", "calibration"):
        write_json(job.out / f"{kind}.json", {name: of_row[kind] for name, of_row in drawn.items() if kind in of_row})
    _predictions(dataset, folds, outcomes).write_parquet(job.out / "predictions.parquet")
    _save_heads(job, dataset, tables, keep, rows, outcomes)
    return facts


def _folds(job: Job[Config], dataset: Dataset) -> tuple[list[Fold], Fold]:
    """The folds that are scored, and the one whose heads are kept: of folds, a fit on all labelled records."""
    options, targets = job.config.split, dataset.targets
    if options.scheme == "given":
        labels = [LABEL + name for name in job.config.labels or [job.config.label]]
        check_given_splits(dataset, ", ".join(labels))
        fold = given_fold(dataset.table["split"].to_list())
        return [fold], fold
    seed = derive_seed(job.seed, "classify", "folds")
    folds = outer_folds(options, targets, dataset.ids, dataset.groups, seed)
    _check_learnable(dataset, folds, options.by)
    everything = np.arange(len(dataset))
    codes = np.unique(np.array(dataset.groups, dtype=np.str_), return_inverse=True)[1].astype(np.int64)
    inner = inner_folds(targets, codes, options.inner_folds, seed)
    keep = Fold("all labelled records", everything, everything[:0], inner if options.scheme == "nested" else inner[:1], refit=True)
    return folds, keep


def _pairs(folds: list[Fold]) -> list[tuple[IntArray, IntArray]]:
    return [(fold.train, fold.test) for fold in folds]


def _check_learnable(dataset: Dataset, folds: list[Fold], by: str) -> None:
    """Raises DataError if no class can be measured, because no fold's train rows hold what the fold is scored on."""
    targets = dataset.targets
    if targets.task in ("regression", "ranking"):
        return
    nothing = np.full((len(targets), len(targets.classes)) if targets.task != "binary" else len(targets), 0.5)
    if np.isnan(primary_score(targets, without_fold_levels(targets, nothing, _pairs(folds)))):
        raise DataError(
            f"{dataset.place}: no class can be measured in these {len(folds)} folds: each lives in one group by '{by}', so that no "
            "head has seen the class that it is scored on; bring more groups of each class, or name another column in classify.split.by"
        )


def _audit(job: Job[Config], dataset: Dataset, folds: list[Fold]) -> dict[str, Any]:
    """The leak audit of the records with this label, between the splits or the folds that are used, under the recipe's tolerances.

    Raises DataError for leaks beyond them.
    """
    options = AuditOptions.model_validate(job.inputs["ingest"].manifest.config.get("audit", {}))
    options = options.model_copy(update={"modality": job.facts_of("ingest").get("modality", "dna")})
    records = job.input("ingest") / RECORDS
    label = LABEL + (job.config.labels or [job.config.label])[0]
    if job.config.split.scheme == "given":
        return audit_records(records, options, label)
    names = np.empty(len(dataset), dtype=object)
    for fold in folds:
        names[fold.test] = fold.name
    of_id = pl.DataFrame({"id": dataset.ids, "split": names.tolist(), "group": dataset.groups})
    with_folds = pl.read_parquet(records).select(pl.exclude("split", "group", f"^{TRACK}.*$", f"^{COVERAGE}.*$")).join(of_id, on="id")
    job.work.mkdir(parents=True, exist_ok=True)
    path: Path = job.work / "folds.parquet"
    with_folds.write_parquet(path)
    return audit_records(path, options.model_copy(update={"splits": tuple(fold.name for fold in folds)}), label)


def _load_finetuned(job: Job[Config], dataset: Dataset) -> dict[str, FloatArray]:
    if "finetune" not in job.inputs or job.config.split.scheme != "given":
        return {}
    scored = dataset.table.filter(dataset.mask("validation", "test"))["id"].to_list()
    return load_predictions(job.input("finetune") / "predictions.parquet", scored, len(dataset.targets.classes))


def _outcome(
    plan: RowPlan, job: Job[Config], dataset: Dataset, tables: Tables, folds: list[Fold], keep: Fold, finetuned: dict[str, FloatArray]
) -> Outcome:
    if plan.name == MAJORITY:
        return majority_outcome(dataset, folds)
    if plan.head == "none":
        return finetuned_outcome(dataset, finetuned[plan.features[0]])
    config = job.config
    method = Method(plan.head, tune=config.tune, calibration=config.calibration, abstain=config.abstain, pca=config.pca)
    return head_outcome(plan, tables, dataset, folds, keep, method, job.seed)


def _split_facts(dataset: Dataset, mask: np.ndarray[Any, np.dtype[np.bool_]]) -> dict[str, Any]:
    targets = dataset.targets.take(np.flatnonzero(mask))
    facts: dict[str, Any] = {
        "records": len(targets),
        **({"positives": int(targets.positive.sum())} if targets.task == "binary" else {}),
        "groups": dataset.table["group"].filter(pl.Series(mask)).n_unique(),
    }
    if targets.task == "multilabel":
        facts["classes"] = dict(zip(targets.classes, targets.values.sum(axis=0).astype(int).tolist(), strict=True))
    elif targets.classes:
        counts = np.bincount(targets.values.astype(np.int64), minlength=len(targets.classes))
        facts["classes"] = dict(zip(targets.classes, counts.tolist(), strict=True))
    return facts


def _scheme_facts(config: Config, dataset: Dataset, folds: list[Fold]) -> dict[str, Any]:
    """How records were shared out, with a sentence for people."""
    if config.split.scheme == "given":
        sentence = "Heads were fitted on the train split, chosen on the validation split and scored once on the test split."
        return {"scheme": "given", "sentence": sentence, "folds": []}
    chosen = "each of the inner folds in turn" if config.split.scheme == "nested" else "an inner fold"
    sentence = (
        f"Out-of-fold scores of all {len(dataset):,} labelled records in {len(folds)} folds by '{config.split.by}' "
        f"({config.split.scheme.replace('_', ' ')}); settings were chosen on {chosen} of groups held out of each fold's train records. "
        "The corpus's own splits were not used. The saved heads are fitted on all labelled records."
    )
    missing = {} if dataset.targets.task in ("regression", "ranking") else unlearned(dataset.targets, _pairs(folds))
    for name, numbers in missing.items():
        sentence += (
            f" The train records of {listed([folds[i].name for i in numbers], 3)} cannot teach '{name}' (none of them is of it, or all "
            "are), so AUROC and AUPRC leave out what was said of it there."
        )
    told = []
    for fold in folds:
        mask = np.zeros(len(dataset), dtype=bool)
        mask[fold.test] = True
        told.append({"name": fold.name, "train_records": len(fold.train), **_split_facts(dataset, mask)})
    return {
        "scheme": config.split.scheme,
        "by": config.split.by,
        "sentence": sentence,
        "folds": told,
        "unlearned": {name: [folds[i].name for i in numbers] for name, numbers in missing.items()},
    }


def _predictions(dataset: Dataset, folds: list[Fold], outcomes: dict[str, Outcome]) -> pl.DataFrame:
    """One line per scored record and row: id, split (or fold), row, score: the probability of the second of two classes, the quantity or
    rank score, or of more classes that of the `predicted` one; several classes or labels have all `probabilities` too."""
    of_split = np.array(dataset.table["split"].to_list(), dtype=object)
    asked = np.flatnonzero(dataset.mask("validation", "test"))
    if folds[0].refit:
        asked = scored_rows(folds)
        for fold in folds:
            of_split[fold.test] = fold.name
    records = pl.DataFrame({"id": dataset.table["id"][asked], "split": of_split[asked].tolist()})
    parts = []
    for name, outcome in outcomes.items():
        output = outcome.output[asked]
        part = records.with_columns(row=pl.lit(name), score=pl.Series(output if output.ndim == 1 else output.max(axis=1)))
        if output.ndim == 2:
            if dataset.targets.task == "multiclass":
                part = part.with_columns(predicted=pl.Series([dataset.targets.classes[i] for i in output.argmax(axis=1)]))
            part = part.with_columns(probabilities=pl.Series(output.tolist(), dtype=pl.List(pl.Float64)))
        parts.append(part)
    return pl.concat(parts)


def _save_heads(
    job: Job[Config], dataset: Dataset, tables: Tables, keep: Fold, rows: list[ScoredRow], outcomes: dict[str, Outcome]
) -> None:
    """heads/<row>/: head.json and the model."""
    for row in rows:
        kept = outcomes[row.plan.name].kept
        if kept is None:
            continue
        card = {
            "row": row.plan.name,
            "title": row.plan.title,
            "labels": list(job.config.labels) or [job.config.label],
            "features": [tables.blocks[name] for name in row.plan.features],
            "covariates": kept.encoder,
            "pca": job.config.pca,
            "fitted_on": f"{len(keep.train):,} records: {keep.name if keep.refit else 'the train split'}",
            "measures": no_nan(row.measures),
            "seed": derive_seed(job.seed, "classify", row.plan.name),
            "canonical_smiles": canonical_smiles(job.inputs["ingest"].manifest.config),
        }
        save_head(job.out / "heads" / row.plan.name, kept.head, card)
