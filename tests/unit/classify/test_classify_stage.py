from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import skops.io
import xgboost
from pydantic import ValidationError
from sklearn.metrics import roc_auc_score

from biollm.classify.config import Config
from biollm.classify.stage import run
from biollm.classify.table import render_table
from biollm.core.errors import DataError
from biollm.core.files import files_below
from biollm.core.job import Job

ClassifyJob = Callable[..., Job[Config]]


def _contents(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files_below(folder)}


def test_every_row_is_scored_and_the_verdict_follows_the_signal(classify_job: ClassifyJob) -> None:
    job = classify_job({"heads": ["logistic", "xgboost"]}, predictions=lambda table: table)
    facts = run(job)
    rows = {row["name"]: row for row in facts["rows"]}
    assert set(rows) == {
        "majority", "kmers_logistic", "kmers_xgboost", "positional_logistic", "positional_xgboost", "random_logistic",
        "base_logistic", "base_xgboost", "expand_logistic", "expand_xgboost",
        "pretrain_logistic", "pretrain_xgboost", "pretrain_kmers_logistic", "pretrain_kmers_xgboost", "finetune_lora",
    }  # fmt: skip
    assert {name for name, row in rows.items() if row["is_baseline"]} == {
        "majority", "kmers_logistic", "kmers_xgboost", "positional_logistic", "positional_xgboost", "random_logistic",
        "base_logistic", "base_xgboost",
    }  # fmt: skip
    assert (rows["majority"]["auroc"], rows["majority"]["auroc_low"], rows["majority"]["auroc_high"]) == (0.5, 0.5, 0.5)
    assert rows["finetune_lora"]["auroc"] == 1.0
    assert rows["pretrain_logistic"]["auroc"] > 0.9 > rows["base_logistic"]["auroc"]
    assert facts["verdict"].startswith("Adaptation helped")
    assert facts["verdict_parts"] == {"adaptation": "better", "against_baselines": "better"}
    assert facts["bootstrap"]["groups"] == 16
    assert facts["splits"]["test"]["records"] == 80
    assert json.loads((job.out / "scores.json").read_text()) == json.loads(json.dumps(facts, allow_nan=False))


def test_files_agree_with_each_other_and_heads_reopen(classify_job: ClassifyJob) -> None:
    job = classify_job({"heads": ["logistic", "xgboost"]})
    facts = run(job)
    predictions = pl.read_parquet(job.out / "predictions.parquet")
    corpus = pl.read_parquet(job.input("ingest") / "records.parquet")
    assert predictions.columns == ["id", "split", "row", "score"]
    scored = predictions.join(corpus.select("id", "label_coding"), on="id").filter(pl.col("split") == "test")
    for row in facts["rows"]:
        of_row = scored.filter(pl.col("row") == row["name"])
        assert len(of_row) == 80
        assert roc_auc_score(of_row["label_coding"], of_row["score"]) == pytest.approx(row["auroc"])
    roc = json.loads((job.out / "roc.json").read_text())
    assert roc.keys() == {row["name"] for row in facts["rows"]}
    assert all(len(curve["fpr"]) == len(curve["tpr"]) <= 200 for curve in roc.values())

    ids = predictions.filter(pl.col("row") == "pretrain_logistic")["id"]
    vectors = pl.read_parquet(job.input("embed") / "pretrain.parquet")
    table = np.stack(ids.to_frame().join(vectors, on="id", maintain_order="left")["embedding"].to_list()).astype(np.float64)
    logistic = skops.io.load(job.out / "heads" / "pretrain_logistic" / "pretrain_logistic.skops", trusted=[])
    trees = xgboost.Booster(model_file=job.out / "heads" / "pretrain_xgboost" / "pretrain_xgboost.ubj")
    for name, scores in {
        "pretrain_logistic": logistic.predict_proba(table)[:, 1],
        "pretrain_xgboost": trees.predict(xgboost.DMatrix(table)),
    }.items():
        assert np.allclose(scores, predictions.filter(pl.col("row") == name)["score"].to_numpy(), atol=1e-12)


def test_two_runs_with_one_seed_write_the_same_bytes(classify_job: ClassifyJob) -> None:
    jobs = [classify_job({"heads": ["logistic", "xgboost"]}, predictions=lambda table: table) for _ in range(2)]
    for job in jobs:
        run(job)
    first, second = (_contents(job.out) for job in jobs)
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


def test_the_order_of_embeddings_and_predictions_changes_nothing(classify_job: ClassifyJob) -> None:
    straight = classify_job(predictions=lambda table: table)
    shuffled = classify_job(
        embeddings=lambda table: table.sample(fraction=1, shuffle=True, seed=1),
        predictions=lambda table: table.sample(fraction=1, shuffle=True, seed=2),
    )
    assert run(straight) == run(shuffled)


def test_test_labels_reach_neither_the_fit_nor_the_choice(classify_job: ClassifyJob) -> None:
    def flip_test_labels(table: pl.DataFrame) -> pl.DataFrame:
        is_test, label = pl.col("split") == "test", pl.col("label_coding")
        return table.with_columns(pl.when(is_test).then(1 - label).otherwise(label).alias("label_coding").cast(pl.Int8))

    jobs = [classify_job(), classify_job(records=flip_test_labels)]
    facts = [run(job) for job in jobs]
    first, second = (_contents(job.out) for job in jobs)
    fitted = [name for name in first if name.startswith("heads/") or name == "predictions.parquet"]
    cards = [name for name in fitted if name.endswith("head.json")]
    assert cards
    assert all(first[name] == second[name] for name in fitted if name not in cards)
    for name in cards:
        one, other = ({k: v for k, v in json.loads(side[name]).items() if k != "measures"} for side in (first, second))
        assert one == other
    assert [row["choice"] for row in facts[0]["rows"]] == [row["choice"] for row in facts[1]["rows"]]
    assert facts[0]["rows"][-1]["auroc"] == pytest.approx(1 - facts[1]["rows"][-1]["auroc"])


def test_the_base_model_alone_is_no_adaptation(classify_job: ClassifyJob) -> None:
    facts = run(classify_job(signals={"base": 3.0}))
    assert all(row["is_baseline"] for row in facts["rows"])
    assert facts["comparisons"] == []
    assert "nothing to judge" in facts["verdict"]


def test_switching_off_the_combined_rows(classify_job: ClassifyJob) -> None:
    facts = run(classify_job({"embeddings_plus_kmers": False}))
    assert not any("pretrain_kmers" in row["name"] for row in facts["rows"])


def _cut(table: pl.DataFrame) -> pl.DataFrame:
    return table.slice(0, 318)


def _double(table: pl.DataFrame) -> pl.DataFrame:
    return pl.concat([table, table.slice(3, 1)])


def _rename(table: pl.DataFrame) -> pl.DataFrame:
    extra = table.slice(0, 1).with_columns(id=pl.lit("stranger"))
    return pl.concat([table, extra])


def _label(value: pl.Expr, where: pl.Expr) -> Callable[[pl.DataFrame], pl.DataFrame]:
    return lambda table: table.with_columns(
        pl.when(where).then(value).otherwise(pl.col("label_coding")).cast(pl.Int8).alias("label_coding")
    )


def _not_finite(table: pl.DataFrame) -> pl.DataFrame:
    vectors = np.stack(table["embedding"].to_list())
    vectors[4, 2] = np.nan
    return table.with_columns(embedding=pl.Series(vectors, dtype=table["embedding"].dtype))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"config": {"label": "exon"}}, r"records.parquet: classify.label is 'exon'.*'label_exon'.*are: coding; name one"),
        (
            {"config": {"task": "binary"}, "records": _label(pl.lit(3), pl.col("id") == "r7")},
            r"1 records have no 0 or 1 in 'label_coding': r7; found 3; expected 0, 1 or nothing",
        ),
        ({"records": _label(pl.lit(3), pl.col("id") == "r7")}, r"1 classes of 'label_coding' have one record only: 3 \(records r7\)"),
        (
            {"config": {"task": "binary"}, "records": _label(pl.lit(2), pl.col("id").is_in([f"r{i}" for i in range(9)]))},
            r"9 records .*: r0, r1, r2, r3, r4 and 4 more",
        ),
        ({"records": _label(pl.lit(1), pl.col("split") == "validation")}, r"the validation split has 80 records with label_coding"),
        ({"records": lambda t: t.filter(pl.col("split") != "test")}, r"the test split has 0 records .* 0 with 0; .* bring"),
        ({"records": lambda t: t.with_columns(group=pl.col("split"))}, r"all records of the test split are in one group.* resampling"),
        ({"embeddings": _cut}, r"base.parquet: 2 of the 320 expected records are missing: r318, r319; run the stage"),
        ({"embeddings": _double}, r"base.parquet: 1 ids stand more than once: r3; expected each once"),
        ({"embeddings": _rename}, r"base.parquet: holds 1 ids that were not expected: stranger"),
        ({"embeddings": _not_finite}, r"base.parquet: the embeddings of 1 records hold NaN or infinity: r4; expected finite numbers"),
        ({"predictions": lambda t: t.slice(1)}, r"predictions.parquet: 1 of the 160 expected records are missing: r160"),
        ({"predictions": lambda t: t.with_columns(score=pl.col("score") * 2)}, r"method 'lora' has \d+ scores outside 0 to 1: r1"),
    ],
)  # fmt: skip
def test_bad_input_is_named(classify_job: ClassifyJob, options: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        run(classify_job(**options))


def test_a_head_named_twice_is_refused() -> None:
    with pytest.raises(ValidationError, match="twice; name each once"):
        Config(heads=["logistic", "logistic"])


def test_the_terminal_table_marks_baselines_and_ends_with_the_verdict(classify_job: ClassifyJob) -> None:
    text = render_table(run(classify_job()), width=80)
    lines = text.splitlines()
    assert any("majority class" in line and "baseline" in line and "0.500 (0.500–0.500)" in line for line in lines)
    assert any("pretrain + logistic" in line and "ours" in line for line in lines)
    assert "Adaptation helped" in text
    assert "\x1b" not in text


def test_records_without_a_label_are_left_out_of_everything(classify_job: ClassifyJob) -> None:
    """Their embeddings are there all the same; the scores are those of the others."""
    records = _label(pl.lit(None, dtype=pl.Int8), pl.col("id").is_in(["r7", "r200"]))
    facts = run(classify_job(records=records))
    assert sum(entry["records"] for entry in facts["splits"].values()) == 318
    assert facts["leakage"]["rows_audited"] == 320
