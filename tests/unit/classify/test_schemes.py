"""The stage with other tasks, folds, covariates and tracks, and the heads that it leaves behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from biollm.classify import Inputs, load_head
from biollm.classify.config import Config
from biollm.classify.stage import run
from biollm.core.artifacts import make_artifact
from biollm.core.errors import ArtifactError, ConfigError, DataError
from biollm.core.files import write_json
from biollm.core.job import Job
from biollm.core.resources import digest_folder

ClassifyJob = Callable[..., Job[Config]]
_KFOLD = {"split": {"scheme": "group_kfold", "folds": 4}}


def _with(**columns: Callable[[pl.DataFrame], list[object]]) -> Callable[[pl.DataFrame], pl.DataFrame]:
    return lambda table: table.with_columns(**{name: pl.Series(make(table), strict=False) for name, make in columns.items()})


def _classes(table: pl.DataFrame) -> list[object]:
    return [("TE" if i % 3 else "gene") if positive else "other" for i, positive in enumerate(table["label_coding"])]


def _quantity(table: pl.DataFrame) -> list[object]:
    return (table["label_coding"].to_numpy() + np.random.default_rng(1).normal(size=table.height) / 2).tolist()


def _inputs(job: Job[Config], names: list[str]) -> tuple[pl.DataFrame, Inputs]:
    records = pl.read_parquet(job.input("ingest") / "records.parquet")
    vectors = {
        name: np.stack(pl.read_parquet(job.input("embed") / f"{name}.parquet")["embedding"].to_list()).astype(np.float64) for name in names
    }
    return records, Inputs(records["sequence"].to_list(), vectors, records)


def test_folds_score_every_labelled_record_once_and_keep_groups_whole(classify_job: ClassifyJob) -> None:
    job = classify_job(_KFOLD | {"heads": ["logistic", "xgboost"]}, predictions=lambda table: table)
    facts = run(job)
    predictions = pl.read_parquet(job.out / "predictions.parquet").filter(pl.col("row") == "pretrain_xgboost")
    records = pl.read_parquet(job.input("ingest") / "records.parquet")
    assert sorted(predictions["id"]) == sorted(records["id"])
    assert predictions.join(records.select("id", "group"), on="id").group_by("group").agg(pl.col("split").n_unique())["split"].max() == 1
    rows = {row["name"]: row for row in facts["rows"]}
    assert [len(row["folds"]) for row in facts["rows"]] == [4] * len(rows)
    assert rows["majority"]["auroc"] == 0.5
    assert rows["pretrain_logistic"]["auroc"] > 0.9
    assert facts["scheme"]["scheme"] == "group_kfold"
    assert "own splits were not used" in facts["scheme"]["sentence"]
    assert sum(fold["records"] for fold in facts["scheme"]["folds"]) == 320
    assert "folds cannot score them" in facts["left_out"]["finetune"]
    assert facts["bootstrap"]["groups"] == 64
    assert "fold 1" in facts["leakage"]["rows"]


def test_labels_of_a_fold_do_not_reach_the_head_that_scores_it(classify_job: ClassifyJob) -> None:
    config = _KFOLD | {"tune": {"trials": 2}, "calibration": "sigmoid", "covariates": ["covariate_x"]}
    covariate = {"covariate_x": lambda t: np.random.default_rng(2).normal(size=t.height).tolist()}
    first = classify_job(config, records=_with(**covariate))
    run(first)
    before = pl.read_parquet(first.out / "predictions.parquet")
    in_fold = set(before.filter(pl.col("split") == "fold 2")["id"])

    def flip(table: pl.DataFrame) -> pl.DataFrame:
        table = _with(**covariate)(table)
        label = pl.col("label_coding")
        return table.with_columns(pl.when(pl.col("id").is_in(in_fold)).then(1 - label).otherwise(label).alias("label_coding").cast(pl.Int8))

    second = classify_job(config, records=flip)
    run(second)
    after = pl.read_parquet(second.out / "predictions.parquet")
    both = before.join(after, on=["id", "split", "row"]).filter((pl.col("split") == "fold 2") & (pl.col("row") != "majority"))
    assert both.height
    assert (both["score"] == both["score_right"]).all()


@pytest.mark.parametrize("scheme", ["stratified_group_kfold", "nested", "leave_one_group_out"])
def test_every_scheme_runs_and_its_facts_are_json(classify_job: ClassifyJob, scheme: str) -> None:
    by = {"by": "split"} if scheme == "leave_one_group_out" else {}
    facts = run(classify_job({"split": {"scheme": scheme, "folds": 3, **by}}, signals={"base": 0.2, "pretrain": 3.0}))
    json.dumps(facts, allow_nan=False)
    assert len(facts["scheme"]["folds"]) == 3
    assert facts["verdict_parts"]["adaptation"] == "better"


@pytest.mark.parametrize(
    ("config", "columns", "task", "measures"),
    [
        ({"calibration": "isotonic", "abstain": 0.7}, {"label_coding": _classes}, "multiclass", {"auroc", "mcc", "ece"}),
        ({"heads": []}, {"label_coding": _quantity}, "regression", {"r2", "spearman", "rmse"}),
        ({"labels": ["coding", "first"]}, {"label_first": lambda t: [i % 2 for i in range(t.height)]}, "multilabel", {"auroc", "f1"}),
        (
            {"task": "ranking", "heads": []},
            {"label_coding": lambda t: [int(v) * 2 + i % 2 for i, v in enumerate(t["label_coding"])]},
            "ranking",
            {"ndcg"},
        ),
    ],
)
def test_every_task_is_scored_and_its_heads_say_the_same_after_loading(
    classify_job: ClassifyJob, config: dict[str, object], columns: dict[str, object], task: str, measures: set[str]
) -> None:
    job = classify_job(config, records=_with(**columns), signals={"base": 0.2, "pretrain": 3.0})  # type: ignore[arg-type]
    facts = run(job)
    json.dumps(facts, allow_nan=False)
    assert facts["task"] == task
    assert measures <= {measure["name"] for measure in facts["measures"]}
    assert all({f"{name}_low", f"{name}_high", name} <= set(row) for row in facts["rows"] for name in measures)
    records, inputs = _inputs(job, ["base", "pretrain"])
    predictions = pl.read_parquet(job.out / "predictions.parquet")
    for folder in sorted((job.out / "heads").iterdir()):
        head = load_head(folder)
        output = head.output(head.features(inputs))
        scores = pl.DataFrame({"id": records["id"], "again": output if output.ndim == 1 else output.max(axis=1)})
        both = predictions.filter(pl.col("row") == folder.name).join(scores, on="id")
        assert both.height == 160
        assert np.allclose(both["score"], both["again"], atol=1e-6)


def test_tracks_and_covariates_get_rows_and_their_heads_read_them_again(classify_job: ClassifyJob) -> None:
    rng = np.random.default_rng(3)
    columns = {
        "track_cg": lambda t: [
            np.where(rng.random(60) < 0.3, np.nan, 0.3 * v + rng.random(60)).astype(np.float32) for v in t["label_coding"]
        ],
        "covariate_tissue": lambda t: ["leaf" if i % 2 else "root" for i in range(t.height)],
        "covariate_length": lambda t: [None if i == 7 else float(i % 9) for i in range(t.height)],
    }
    job = classify_job({"covariates": ["covariate_tissue", "covariate_length"]}, records=_with(**columns))
    facts = run(job)
    rows = {row["name"]: row for row in facts["rows"]}
    assert {"tracks_logistic", "kmers_tracks_logistic", "pretrain_tracks_logistic", "covariates_logistic"} <= set(rows)
    assert rows["tracks_logistic"]["top_features"][0]["feature"] == "cg: mean level"
    assert "/" in rows["kmers_logistic"]["top_features"][0]["feature"]
    assert {"against_tracks", "against_kmers"} <= set(facts["verdict_parts"])
    _, inputs = _inputs(job, ["base", "expand", "pretrain"])
    head = load_head(job.out / "heads" / "pretrain_covariates_logistic")
    assert head.card.covariates is not None
    assert head.card.covariates.names() == [
        "covariate_tissue = leaf",
        "covariate_tissue = root",
        "covariate_length",
        "covariate_length: missing",
    ]
    assert head.predict_proba(head.features(inputs)).shape == (320, 2)
    assert set(head.predict(head.features(inputs))) == {"0", "1"}
    with pytest.raises(DataError, match="has no column covariate_tissue, covariate_length, which the head was fitted with"):
        head.features(Inputs(inputs.sequences, inputs.vectors, inputs.table.select("id")))
    with pytest.raises(DataError, match="reads embeddings of the set 'pretrain'"):
        head.features(Inputs(inputs.sequences, {}, inputs.table))


def test_a_head_is_refused_for_embeddings_of_another_model_or_when_damaged(classify_job: ClassifyJob) -> None:
    job = classify_job({"abstain": 0.99, "heads": ["xgboost"], "pca": 3})
    run(job)
    folder = job.out / "heads" / "pretrain_xgboost"
    head = load_head(folder)
    digest = head.card.features[0].model_digest  # type: ignore[union-attr]
    assert load_head(folder, digest).classes == ["0", "1"]
    with pytest.raises(ArtifactError, match=f"fitted on embeddings of the model with digest {digest} .*, but given those .* digest abc"):
        load_head(folder, "abc")
    with pytest.raises(DataError, match=r"features have the shape \(2, 3\); the head 'pretrain_xgboost' was fitted on \(rows, 6\)"):
        head.predict(np.zeros((2, 3)))
    with pytest.raises(DataError, match="features hold NaN or infinity in 1 rows, the first is row 1"):
        head.predict(np.array([[0.0] * 6, [np.nan] * 6]))
    assert head.answers(np.zeros((4, 6))).shape == (4,)
    (folder / "pretrain_xgboost.ubj").write_bytes(b"no")
    with pytest.raises(ArtifactError, match=r"pretrain_xgboost.ubj: not a head that biollm wrote"):
        load_head(folder)
    (folder / "pretrain_xgboost.ubj").unlink()
    with pytest.raises(ArtifactError, match=r"pretrain_xgboost.ubj: missing; the head is not whole"):
        load_head(folder)
    with pytest.raises(ArtifactError, match=r"no head here \(head.json is missing\)"):
        load_head(job.out)


def _half_written(job: Job[Config]) -> Job[Config]:
    file = job.input("embed") / "base.parquet"
    file.write_bytes(file.read_bytes()[:300])
    return job


def test_a_half_written_embedding_file_is_named(classify_job: ClassifyJob) -> None:
    with pytest.raises(DataError, match=r"base.parquet: not a whole Parquet file .*; it is half written or damaged; run the stage embed"):
        run(_half_written(classify_job()))


def test_embeddings_of_another_model_are_named(classify_job: ClassifyJob) -> None:
    narrow = pl.Array(pl.Float32, 3)
    cut = lambda t: t.with_columns(embedding=pl.Series(np.stack(t["embedding"].to_list())[:, :3], dtype=narrow))  # noqa: E731
    with pytest.raises(
        DataError, match=r"base.parquet: the embeddings have 3 numbers each, those .* describes have 6; this file is of another"
    ):
        run(classify_job(embeddings=cut))


@pytest.mark.parametrize(
    ("config", "records", "error", "message"),
    [
        ({"split": {"scheme": "group_kfold", "folds": 5, "by": "split"}}, {}, DataError,
         r"320 labelled records \(r0, .*\) are in 3 groups by 'split': train \(160\), .*; expected at least 5"),
        ({"split": {"scheme": "group_kfold", "by": "donor"}}, {}, DataError,
         r"classify.split.by names the column 'donor', which is not there"),
        (_KFOLD, {"group": lambda t: [None if i in (3, 4) else f"g{i}" for i in range(t.height)]}, DataError,
         r"2 records have no 'group': r3, r4; expected one for each"),
        ({}, {"label_coding": lambda t: [float("nan") if i == 5 else i / 3 for i in range(t.height)]}, DataError,
         r"1 records have NaN or infinity in 'label_coding': r5; expected a number, or nothing"),
        ({"task": "multiclass"}, {"label_coding": lambda t: [0.5 if i == 9 else 1.0 for i in range(t.height)]}, DataError,
         r"1 records have a fraction in 'label_coding': r9; expected classes"),
        ({"task": "regression"}, {"label_coding": lambda t: ["a"] * t.height}, DataError, r"'label_coding' holds text \(record r0: 'a'\)"),
        ({"task": "ranking", "heads": []}, {"label_coding": lambda t: [-1] + [1] * (t.height - 1)}, DataError,
         r"1 records have a relevance that is no whole number of 0 to 31 in 'label_coding': r0; expected grades"),
        ({"task": "ranking", "heads": []}, {"label_coding": lambda t: [0.5, 32] + [1] * (t.height - 2)}, DataError,
         r"2 records have a relevance .*: r0, r1"),
        ({"task": "ranking", "heads": [], "query": "id"}, {}, DataError,
         r"by 'id', none of its 320 lists \(320 records\) holds two records of different relevance"),
        (_KFOLD, {"label_coding": lambda t: [1] * t.height}, DataError,
         r"label_coding: all 320 records have the one value '1', so there is nothing to predict"),
        (_KFOLD | {"task": "multiclass", "classes": ["a", "b", "c"]}, {"label_coding": lambda t: ["b"] * t.height}, DataError,
         r"label_coding: all 320 records have the one value 'b'"),
        (_KFOLD | {"labels": ["coding", "never"]}, {"label_never": lambda t: [0] * t.height}, DataError,
         r"'never' is 0 for all 320 records, so there is nothing to predict; .* leave that label out"),
        ({"labels": ["coding", "late"]}, {"label_coding": lambda t: [int(s != "test") * (i % 2) for i, s in enumerate(t["split"])],
                                          "label_late": lambda t: [int(s != "test") for s in t["split"]]}, DataError,
         r"the test split cannot be told apart by label_coding, label_late: 'coding' is 0 for all 80 records"),
        ({"split": {"scheme": "group_kfold", "folds": 3, "by": "split"}}, {"label_coding": lambda t: t["split"].to_list()},
         DataError, r"no class can be measured in these 3 folds: each lives in one group by 'split'"),
        ({"classes": ["gene", "TE"]}, {"label_coding": _classes}, DataError,
         r"records have no class of this task .*; found other; expected gene, TE"),
        ({}, {"label_coding": lambda t: ["same"] * t.height}, DataError, r"'label_coding' has 1 values \(same\); task binary expected two"),
        ({"task": "multiclass"}, {"label_coding": lambda t: ["a" if s == "test" else "bc"[i % 2] for i, s in enumerate(t["split"])]},
         DataError, r"all 80 records of the test split are of one class, 'a'; expected two or more classes"),
        ({}, {"label_coding": lambda t: pl.Series([None] * t.height, dtype=pl.Int8)}, DataError, r"no record has a label in label_coding"),
        ({"labels": ["coding"]}, {"label_coding": lambda t: [7] + [1] * (t.height - 1)}, DataError,
         r"1 records have no 0 or 1 in 'label_coding': r0"),
        ({"split": {"scheme": "stratified_group_kfold"}, "heads": []}, {"label_coding": _quantity}, ConfigError, r"use group_kfold"),
        ({"heads": ["logistic"]}, {"label_coding": _quantity}, ConfigError, r"names logistic, which cannot do regression"),
        ({"pca": 200}, {"label_coding": _classes}, ConfigError, r"classify.pca is 200, but a head is fitted on 160 train rows only"),
        ({"covariates": ["id"]}, {}, DataError, r"covariate 'id' has 160 categories in the train rows .*|covariate 'id' has 320"),
        ({}, {"group": lambda t: ["shared" if i in (0, 319) else f"g{i // 5}-{s}" for i, s in enumerate(t["split"])]}, DataError,
         r"the splits leak.*\n.*group.*\(for example r319 and r0\)"),
    ],
)  # fmt: skip
def test_bad_input_of_other_tasks_and_schemes_is_named(
    classify_job: ClassifyJob, config: dict[str, object], records: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(classify_job(config, records=_with(**records)))  # type: ignore[arg-type]


def test_pca_is_left_out_of_rows_that_have_no_more_columns(classify_job: ClassifyJob) -> None:
    age = {"covariate_age": lambda t: [float(i % 7) for i in range(t.height)]}
    facts = run(classify_job({"pca": 5, "covariates": ["covariate_age"]}, signals={"pretrain": 3.0}, records=_with(**age)))
    choices = {row["name"]: row["choice"] for row in facts["rows"]}
    assert choices["covariates_logistic"].endswith(", no PCA: 2 columns only")
    assert all("PCA" not in choices[name] for name in ("kmers_logistic", "pretrain_logistic", "pretrain_covariates_logistic"))


def test_a_class_of_one_group_is_left_out_where_no_head_could_learn_it(classify_job: ClassifyJob) -> None:
    """Random vectors scored 0.34 here when the fold that holds the class was counted."""
    rare = lambda t: ["rare" if g == "train-0" else "ab"[v] for g, v in zip(t["group"], t["label_coding"], strict=True)]  # noqa: E731
    facts = run(classify_job(_KFOLD, signals={"base": 0.0}, records=_with(label_coding=rare)))
    rows = {row["name"]: row for row in facts["rows"]}
    assert rows["majority"]["auroc"] == 0.5
    assert abs(rows["random_logistic"]["auroc"] - 0.5) < 0.08
    (fold,) = facts["scheme"]["unlearned"]["rare"]
    assert f"The train records of {fold} cannot teach 'rare'" in facts["scheme"]["sentence"]


def test_numbers_with_a_point_that_are_whole_are_classes_and_records_without_one_are_named(
    classify_job: ClassifyJob, capsys: pytest.CaptureFixture[str]
) -> None:
    as_pandas = lambda t: [None if i in (7, 9) else float(v) for i, v in enumerate(t["label_coding"])]  # noqa: E731
    facts = run(classify_job(signals={"base": 3.0}, records=_with(label_coding=as_pandas)))
    assert (facts["task"], facts["classes"]) == ("binary", ["0", "1"])
    assert facts["unlabelled"] == {"records": 2, "first_ids": ["r7", "r9"]}
    assert "classify: 2 records have no label and are left out: r7, r9" in capsys.readouterr().err


def test_a_head_is_refused_for_embeddings_that_another_model_made(classify_job: ClassifyJob, tmp_path: Path) -> None:
    job = classify_job(signals={"base": 0.2, "pretrain": 3.0})
    run(job)
    embed, head = job.input("embed"), job.out / "heads" / "pretrain_logistic"
    assert load_head(head, embeddings=embed / "pretrain.parquet").classes == ["0", "1"]
    with pytest.raises(ArtifactError, match=r"fitted on embeddings of the model with digest .*, but given those of the model with digest"):
        load_head(head, embeddings=embed / "base.parquet")
    with pytest.raises(ArtifactError, match=r"nothing here says which model made these embeddings; expected results"):
        load_head(head, embeddings=tmp_path / "vectors.npy")
    (tmp_path / "new").mkdir()
    digest = load_head(head).card.features[0].model_digest  # type: ignore[union-attr]
    for model in (digest, "abc"):
        write_json(tmp_path / "new/manifest.json", {"made_from": {"model": model}})
        if model == digest:
            assert load_head(head, embeddings=tmp_path / "new").classes == ["0", "1"]
        else:
            with pytest.raises(ArtifactError, match="but given those of the model with digest abc"):
                load_head(head, embeddings=tmp_path / "new")


def test_embeddings_of_embed_file_are_those_of_the_stage_whose_folder_made_them(classify_job: ClassifyJob, tmp_path: Path) -> None:
    job = classify_job(signals={"base": 0.2, "pretrain": 3.0})
    run(job)

    def fill(out: Path, work: Path) -> dict[str, object]:
        (out / "model.safetensors").write_bytes(b"weights")
        return {}

    stage = job.out.parent / "pretrain"
    made = make_artifact(stage, stage="pretrain", key="k", config={}, seed=0, inputs={}, reproducibility="made for a test", fill=fill)
    head = job.out / "heads" / "pretrain_logistic"
    card = json.loads((head / "head.json").read_text())
    card["features"][0]["model_digest"] = made.digest
    write_json(head / "head.json", card)
    (tmp_path / "new").mkdir()
    write_json(tmp_path / "new/manifest.json", {"made_from": {"model": digest_folder(stage)}})
    assert load_head(head, embeddings=tmp_path / "new").classes == ["0", "1"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"covariates": ["label_coding"]}, "covariates names label_coding, which is what is predicted; leave it out"),
        ({"labels": ["a", "b"], "covariates": ["x", "label_b"]}, "covariates names label_b, which is what is predicted"),
        ({"labels": ["a"], "task": "binary"}, "several labels are for task multilabel"),
        ({"task": "multilabel"}, r"labels is \[\]; task multilabel needs"),
        ({"task": "regression", "classes": ["a", "b"]}, "only tasks binary and multiclass have classes"),
        ({"classes": ["a"]}, "a choice needs two or more"),
        ({"task": "ranking", "abstain": 0.9}, "only tasks binary and multiclass can abstain"),
        ({"task": "regression", "calibration": "isotonic"}, "has no probabilities"),
    ],
)
def test_options_that_do_not_fit_the_task_are_refused_before_anything_runs(config: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Config(**config)  # type: ignore[arg-type]
