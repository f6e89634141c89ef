"""A benchmark end to end on tables with a known signal: scores, audit, baselines, published figures, what is absent."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from biollm.benchmark.run import Options, run_suite
from biollm.benchmark.scoring import open_models, score_baselines, score_model
from biollm.benchmark.suite import SuiteTable
from biollm.benchmark.tables import prepare
from biollm.cli import app
from biollm.core.artifacts import open_artifact
from biollm.core.errors import ConfigError, DataError, ResourceError
from biollm.embed.embedder import Embedder
from biollm.stages import Run

_FOLD = ["train", "train", "train", "train", "validation", "validation", "test", "test"]


def _rows(number: int, seed: int, signal: float) -> list[tuple[str, int]]:
    """DNA of 40 bases; the positives are richer in GC."""
    rng = random.Random(seed)
    weights = [[1.0, 1.0, 1.0, 1.0], [1 - signal, 1 + signal, 1 + signal, 1 - signal]]
    return [("".join(rng.choices("ACGT", weights[i % 2], k=40)), i % 2) for i in range(number)]


def _csv(path: Path, rows: list[tuple[str, int]], split: list[str] | None = None) -> None:
    table = pl.DataFrame({"seq": [s for s, _ in rows], "y": [y for _, y in rows]})
    (table if split is None else table.with_columns(pl.Series("fold", split))).write_csv(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("suite")
    _csv(place / "drawn.csv", _rows(160, 1, 0.4))
    _csv(place / "given.csv", _rows(160, 2, 0.4), _FOLD * 20)
    leaking = _rows(160, 3, 0.0)
    for i in range(6, 160, 8):  # of every eight rows the seventh, for test, is the first again
        leaking[i] = leaking[i - 6]
    _csv(place / "leaking.csv", leaking, _FOLD * 20)
    return place


def test_a_label_of_zero_and_one_with_gaps_is_two_classes(folder: Path, tmp_path: Path) -> None:
    data = pl.read_csv(folder / "given.csv").with_row_index().with_columns(pl.col("y").cast(pl.Float64))
    data.with_columns(y=pl.when(pl.col("index") == 7).then(None).otherwise("y")).drop("index").write_csv(tmp_path / "given.csv")
    prepared = prepare(SuiteTable.model_validate(_table("given", metric="auroc")), tmp_path, [0], None)
    dataset = prepared.draws[0].dataset
    assert (dataset.targets.task, dataset.targets.classes, sorted(dataset.unlabelled)) == ("binary", ("0", "1"), ["given:9"])


COLUMNS = {"sequence": "seq", "label": "y"}


def _table(name: str, **more: Any) -> dict[str, Any]:
    given = {"split": "given", "columns": {**COLUMNS, "split": "fold"}} if name in ("given", "leaking") else {"columns": COLUMNS}
    return {"name": name, "path": f"{name}.csv", **given, **more}


def _suite(folder: Path, *tables: dict[str, Any]) -> Path:
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump({"name": "suite", "tables": list(tables)}))
    return path


def test_scores_audit_published_figures_and_ranks_stand_side_by_side(folder: Path, bert_base: Path, tmp_path: Path) -> None:
    figure = {"model": "Somebody", "value": 0.99, "source": "Journal 1:2", "note": "other split"}
    absent = [{"name": "nowhere", "path": "none.csv"}, {"name": "uninstalled", "path": "package:no-such-package/x.csv"}]
    suite = _suite(folder, _table("drawn", published=[figure]), _table("given"), _table("leaking"), *absent)
    facts = run_suite(suite, [str(bert_base)], tmp_path / "out", Options(seeds=2))
    drawn, given, leaking, nowhere, uninstalled = facts["tables"]

    model = f"{bert_base.parent.name}/bert"
    assert {row["name"] for row in drawn["rows"]} == {model, "trivial", "k-mers", "letters by position"}
    of = {row["name"]: row for row in drawn["rows"]}
    assert (of["trivial"]["mean"], of["trivial"]["note"]) == (0.5, "majority class")
    assert of["k-mers"]["mean"] > 0.7, "GC content is in the 4-mers"
    assert (of["k-mers"]["note"], of["letters by position"]["note"]) == ("logistic, k = 4", "logistic")
    assert of["k-mers"]["sd"] > 0, "another seed is another split"
    assert of[model]["note"] == "reads dna as text"
    assert {(row["sd"], len(row["values"])) for row in given["rows"]} == {(None, 1)}, "no seed changes anything: one fit, no spread"

    assert drawn["audit"]["verdict"] != "leaks"
    assert leaking["audit"]["verdict"] == "leaks"
    assert leaking["audit"]["leaking_seeds"] == 2
    assert any("are equal to a row of an earlier split" in found for found in leaking["audit"]["findings"])
    assert leaking["rows"], "scored all the same"
    assert (nowhere["status"], uninstalled["status"]) == ("skipped", "skipped")
    assert "none.csv: no such file" in nowhere["reason"]
    assert "pip install no-such-package" in uninstalled["reason"]

    assert {rank["tables"] for rank in facts["ranks"]} == {3}
    text = (tmp_path / "out/benchmark.md").read_text()
    assert "| – | Somebody (published) | 0.99 | | Journal 1:2; other split |" in text
    assert "Leak audit: **LEAKS: these scores are too good**." in text
    written = (tmp_path / "out/benchmark.json").read_text()
    assert json.loads(written) == json.loads(json.dumps(facts))
    assert str(folder) not in written
    assert str(bert_base) not in written, "no absolute path"


def test_a_suite_none_of_whose_tables_is_there_is_an_error(folder: Path, bert_base: Path, tmp_path: Path) -> None:
    suite = _suite(folder, {"name": "nowhere", "path": "none.csv"})
    with pytest.raises(
        ResourceError, match=r"none of its tables is there, so nothing was scored; bring one of them\n  nowhere: .*none.csv"
    ):
        run_suite(suite, [str(bert_base)], tmp_path / "out", Options(seeds=1))
    assert not (tmp_path / "out").exists()


def test_a_score_is_that_of_a_head_fitted_on_train_and_chosen_on_validation(folder: Path, bert_base: Path) -> None:
    table = SuiteTable.model_validate(_table("given"))
    prepared = prepare(table, folder, [0], None)
    entry = score_model(open_models([str(bert_base)])[0], prepared, None)
    data = pl.read_csv(folder / "given.csv")
    vectors = Embedder(bert_base, input="text").embed(data["seq"].to_list()).astype(np.float64)
    part = {name: (data["fold"] == name).to_numpy() for name in ("train", "validation", "test")}
    y = data["y"].to_numpy()
    from biollm.classify import HeadClassifier

    head = HeadClassifier("logistic").fit(
        vectors[part["train"]], y[part["train"]], validation=(vectors[part["validation"]], y[part["validation"]])
    )
    expected = roc_auc_score(y[part["test"]], head.predict_proba(vectors[part["test"]])[:, 1])
    assert entry.measures[0]["auroc"] == pytest.approx(expected, abs=1e-9)


def test_a_baseline_has_one_name_whatever_the_task(folder: Path, tmp_path: Path) -> None:
    data = pl.read_csv(folder / "given.csv")
    data.with_columns(y=pl.col("y") + pl.int_range(pl.len()) / 1000).write_csv(tmp_path / "given.csv")
    kinds = {}
    for place in (folder, tmp_path):
        prepared = prepare(SuiteTable.model_validate(_table("given")), place, [0, 1], None)
        kinds[prepared.draws[0].dataset.targets.task] = {entry.name: entry.note for entry in score_baselines(prepared)}
    assert kinds["binary"] == {"trivial": "majority class", "k-mers": "logistic, k = 4", "letters by position": "logistic"}
    assert kinds["regression"] == {"trivial": "mean of train", "k-mers": "ridge, k = 4", "letters by position": "ridge"}


def test_a_head_that_draws_is_fitted_for_every_seed_also_on_given_splits(folder: Path, bert_base: Path) -> None:
    prepared = prepare(SuiteTable.model_validate(_table("given")), folder, [0, 1], None)
    (model,) = open_models([str(bert_base)])
    assert [len(score_model(model, prepared, head).measures) for head in ("mlp", "ridge")] == [2, 1]


def test_an_adapted_model_reads_sequences_by_its_own_vocabulary_and_other_ones_as_text(folder: Path, classified: Run) -> None:
    place = classified.results / "expand"
    (model,) = open_models([str(place)])
    assert (model.name, model.digest) == ("results/expand", open_artifact(place).digest)
    table = SuiteTable.model_validate(_table("given"))
    assert score_model(model, prepare(table, folder, [0], None), None).note == "", "its computed track comes from the sequence"
    rna = SuiteTable.model_validate(_table("given", modality="rna"))
    assert score_model(model, prepare(rna, folder, [0], None), None).note == "reads rna as text"


def test_test_labels_decide_nothing_but_the_score(folder: Path, tmp_path: Path) -> None:
    data = pl.read_csv(folder / "given.csv")
    flipped = data.with_columns(pl.when(pl.col("fold") == "test").then(1 - pl.col("y")).otherwise("y").alias("y"))
    flipped.write_csv(tmp_path / "given.csv")
    table = SuiteTable.model_validate(_table("given"))
    before, after = (score_baselines(prepare(table, place, [0], None)) for place in (folder, tmp_path))
    for one, other in zip(before, after, strict=True):
        assert one.measures[0]["auroc"] == pytest.approx(1 - other.measures[0]["auroc"], abs=1e-9), one.name


def test_seeds_draw_other_splits_of_the_same_records_and_a_limit_keeps_the_same_ones(folder: Path) -> None:
    table = SuiteTable.model_validate(_table("drawn", stratify=True))
    one, other = prepare(table, folder, [0, 1], 60).draws
    assert len(one.dataset) == len(other.dataset) == 60
    assert set(one.dataset.ids) == set(other.dataset.ids)
    splits = [dict(zip(d.dataset.ids, d.dataset.table["split"], strict=True)) for d in (one, other)]
    assert splits[0] != splits[1]
    again = prepare(table, folder, [0], 60).draws[0]
    assert dict(zip(again.dataset.ids, again.dataset.table["split"], strict=True)) == splits[0]


def test_an_ingest_section_reads_windows_of_a_genome(
    tmp_path: Path, dna: Callable[[int, int], str], fasta_text: Any, gff_text: Any
) -> None:
    (tmp_path / "one.fa").write_text(fasta_text({"chrI": dna(12_000, 1)}))
    (tmp_path / "one.gff").write_text(gff_text([("chrI", "CDS", start, start + 600) for start in range(101, 11_000, 1300)]))
    ingest = {
        "sources": [{"name": "one", "sequences": "one.fa", "annotation": "one.gff"}],
        "window_bases": 64,
        "labels": [{"name": "coding", "feature": "CDS", "min_fraction": 0.5}],
        "split": {"block_bases": 640, "gap_bases": 64},
    }
    table = SuiteTable.model_validate({"name": "windows", "ingest": ingest, "label": "coding", "metric": "mcc"})
    prepared = prepare(table, tmp_path, [0], None)
    assert (prepared.split_by, prepared.measure.name, prepared.modality) == ("block", "mcc", "dna")
    assert len(prepared.draws[0].dataset) > 100


def test_strict_refuses_a_leaking_table_and_what_is_wrong_is_named(folder: Path, bert_base: Path, tmp_path: Path) -> None:
    suite = _suite(folder, _table("leaking"))
    done = CliRunner().invoke(
        app, ["benchmark", str(suite), "--models", str(bert_base), "--strict", "--seeds", "1", "--out", str(tmp_path)]
    )
    assert done.exit_code == 1, done.output
    (table,) = json.loads((tmp_path / "benchmark.json").read_text())["tables"]
    assert table["status"] == "refused"
    assert "are equal to a row of an earlier split" in table["reason"]
    assert "rows" not in table
    with pytest.raises(ConfigError, match="table 'given': metric is r2, which task binary does not have; expected one of auroc"):
        prepare(SuiteTable.model_validate(_table("given", metric="r2")), folder, [0], None)
    (folder / "one.csv").write_text("sequence,label\n" + "".join(f"{'ACGT' * (i + 5)},1\n" for i in range(40)))
    with pytest.raises(DataError) as caught:
        run_suite(_suite(folder, {"name": "one", "path": "one.csv"}), [str(bert_base)], tmp_path, Options(seeds=1))
    assert str(caught.value).startswith("table 'one': its labelled records: label_label: all 40 records have the one value '1'")
    _csv(folder / "late.csv", [(s, y if i % 8 < 6 else 1) for i, (s, y) in enumerate(_rows(160, 2, 0.4))], _FOLD * 20)
    late = {**_table("given"), "name": "late", "path": "late.csv"}
    with pytest.raises(DataError, match=r"^its labelled records: the test split has 40 records .* choose another split for this table"):
        prepare(SuiteTable.model_validate(late), folder, [0], None)
    with pytest.raises(ConfigError, match="--models names no model"):
        run_suite(suite, [], tmp_path, Options())
    with pytest.raises(ConfigError, match=r"names .* twice"):
        run_suite(suite, [str(bert_base), str(bert_base)], tmp_path, Options())
    with pytest.raises(ResourceError, match="no such folder"):
        run_suite(suite, ["./none"], tmp_path, Options())
    with pytest.raises(ConfigError, match="--head tree: expected one of logistic"):
        Options.of(1, None, "tree", False)
