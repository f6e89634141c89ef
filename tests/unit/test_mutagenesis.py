"""In-silico mutagenesis: every effect is what the head says of the mutated sequence, minus what it says of the sequence."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.special import logit
from typer.testing import CliRunner

from biollm.classify.baselines import kmer_frequencies
from biollm.classify.config import HeadName
from biollm.classify.features import KmerBlock
from biollm.classify.fitting import Method, fit_head
from biollm.classify.metrics import FloatArray
from biollm.classify.models import Examples
from biollm.classify.saved import HeadCard, save_head
from biollm.classify.targets import Targets
from biollm.cli import app
from biollm.core.errors import ConfigError, DataError
from biollm.mutagenesis import MOST_RECORDS, Scan, ScanJob, _column, _score, save, scan, scan_file
from biollm.predict import PredictJob
from biollm.predictor import Predictor, Records
from biollm.stages import Run


@pytest.fixture(scope="module")
def predictor(classified: Run) -> Predictor:
    return Predictor.open(classified.results / "classify/heads/expand_kmers_logistic")


@pytest.fixture(scope="module")
def sequence(classified: Run) -> str:
    return str(pl.read_parquet(classified.results / "ingest/records.parquet")["sequence"][3])


def test_each_effect_is_the_difference_of_the_log_odds(predictor: Predictor, sequence: str) -> None:
    found = scan(predictor, sequence, start=10, end=20, step=3)
    assert found.positions.tolist() == [10, 13, 16, 19]
    assert found.letters == "ACGT"
    reference = logit(predictor.output(Records.of([sequence]))[0])
    assert found.score == pytest.approx(reference, abs=1e-5)
    for p, position in enumerate(found.positions):
        for a, letter in enumerate("ACGT"):
            mutant = sequence[:position] + letter + sequence[position + 1 :]
            expected = logit(predictor.output(Records.of([mutant]))[0]) - reference
            assert found.effects[p, a] == pytest.approx(expected, abs=1e-4)
            assert (found.effects[p, a] == 0) == (mutant == sequence), "only the own letter changes nothing"


def test_effects_depend_neither_on_the_batch_nor_on_the_region(predictor: Predictor, sequence: str) -> None:
    whole = scan(predictor, sequence.lower(), batch_size=1000)
    assert whole.effects.shape == (len(sequence), 4)
    part = scan(predictor, sequence, start=30, end=36, batch_size=5)
    np.testing.assert_allclose(part.effects, whole.effects[30:36], atol=1e-5)


def test_covariates_of_the_record_stay_as_they_are_and_computed_tracks_follow_the_sequence(classified: Run) -> None:
    row = pl.read_parquet(classified.results / "ingest/records.parquet")[3:4]
    sequence = row["sequence"][0]
    of_tracks = Predictor.open(classified.results / "classify/heads/tracks_logistic")
    start = sequence.index("CG")
    found = scan(of_tracks, sequence, start=start, end=start + 1)
    assert np.count_nonzero(found.effects) == 3, "a CpG less"
    predictor = Predictor.open(classified.results / "classify/heads/expand_covariates_logistic")
    found = scan(predictor, sequence, end=2, table=row)
    elsewhere = scan(predictor, sequence, end=2, table=row.with_columns(pl.col("start_0based") + 5000))
    assert found.score != elsewhere.score
    np.testing.assert_allclose(found.effects, elsewhere.effects, atol=1e-4)


def _card(task: str, classes: list[str]) -> HeadCard:
    return HeadCard.model_construct(row="x", task=task, classes=classes, labels=["yield"])


def test_what_is_looked_at_follows_the_task() -> None:
    def looked(task: str, classes: list[str], output: FloatArray, target: str | None = None) -> FloatArray:
        card = _card(task, classes)
        return _score(card, output, _column(card, output, target))

    two = np.array([0.25, 0.75])
    np.testing.assert_allclose(looked("binary", ["no", "yes"], two), logit(two))
    np.testing.assert_allclose(looked("binary", ["no", "yes"], two, "no"), -logit(two))
    three = np.array([[0.2, 0.5, 0.3], [0.6, 0.3, 0.1]])
    np.testing.assert_allclose(looked("multiclass", ["a", "b", "c"], three), logit(three[:, 1]), err_msg="what is predicted of the first")
    np.testing.assert_allclose(looked("multiclass", ["a", "b", "c"], three, "c"), logit(three[:, 2]))
    np.testing.assert_array_equal(looked("regression", [], np.array([3.0, -2.0])), [3.0, -2.0])
    with pytest.raises(ConfigError, match="target is 'd'; the head 'x' knows a, b, c"):
        looked("multiclass", ["a", "b", "c"], three, "d")


@pytest.mark.parametrize(("kind", "unit"), [("logistic", "log-odds"), ("ridge", "distance from the border")])
def test_a_head_with_isotonic_calibration_is_asked_before_its_steps(kind: HeadName, unit: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    sequences = ["".join(rng.choice(list("ACGT"), 40, p=[0.3, 0.2, 0.2, 0.3] if i % 2 else [0.25] * 4)) for i in range(80)]
    features, rows = kmer_frequencies(sequences, 2, "dna"), np.arange(80)
    targets = Targets("binary", ("no", "yes"), rows % 2.0)
    fitted = fit_head(Method(kind, calibration="isotonic"), Examples(features, targets), [(rows[:60], rows[60:])], False, rows)
    card = {"row": "k", "title": "k", "labels": ["y"], "features": [KmerBlock(k=2, modality="dna")], "covariates": None, "pca": None}
    save_head(tmp_path / "head", fitted, card | {"fitted_on": "few", "measures": {}, "seed": 0})
    found = scan(Predictor.open(tmp_path / "head", modality="dna"), sequences[1])
    assert found.unit == f"{unit} of y = yes, before calibration"
    assert np.count_nonzero(found.effects) > 0.8 * 3 * 40, "letters tell, but for those that change no k-mer of either strand"
    mutant = "ACGT"[found.effects[0].argmax()] + sequences[1][1:]
    before, after = (fitted.model.output(kmer_frequencies([s], 2, "dna"))[0] for s in (sequences[1], mutant))
    wanted = logit(after) - logit(before) if kind == "logistic" else after - before
    assert found.effects[0].max() == pytest.approx(wanted, abs=1e-9)


def test_too_many_letters_are_refused_before_anything_is_scored(classified: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = classified.results / "ingest/records.parquet"
    predictor = Predictor.open(classified.results / "classify/heads/kmers_logistic")
    monkeypatch.setattr("biollm.mutagenesis._MOST_CELLS", 63 * 4)
    monkeypatch.setattr("biollm.mutagenesis.scan", lambda *_, **__: pytest.fail("something was scored"))
    job = ScanJob(PredictJob(records, tmp_path / "out"), ids=[pl.read_parquet(records)["id"][5]])
    with pytest.raises(DataError, match=r"256 substitutions are too many for a page \(252\); narrow them with --start"):
        scan_file(predictor, job)


def test_table_and_page_hold_every_substitution_and_need_no_network(tmp_path: Path) -> None:
    effects = np.array([[0.0, 0.5, -1.0, 0.25], [0.1, 0.0, 0.2, 0.3]])
    one = Scan("<b>one</b>", "GGAC", np.array([2, 3]), "ACGT", 0.7, effects, "log-odds of 1")
    two = Scan("two", "GGAC", np.array([0]), "ACGT", 0.1, np.array([[1.0, 2.0, 0.0, 3.0]]), "log-odds of 1")
    data, page = save([one, two], tmp_path / "out")
    table = pl.read_parquet(data)
    assert table.columns == ["id", "position_0based", "reference", "letter", "effect", "score", "unit"]
    assert table.filter(id="<b>one</b>").select("position_0based", "reference", "letter", "effect").rows() == [
        (2, "A", "C", 0.5), (2, "A", "G", -1.0), (2, "A", "T", 0.25), (3, "C", "A", 0.1), (3, "C", "G", 0.2), (3, "C", "T", 0.3)
    ]  # fmt: skip
    assert table["score"].to_list()[0] == pytest.approx(1.2)
    text = page.read_text()
    assert not re.search(r"<(script|link)[^>]*(src|href)=", text), "all is within the page"
    assert '"position"' in text


def test_records_are_chosen_by_name_and_too_many_are_refused(classified: Run, tmp_path: Path) -> None:
    records = classified.results / "ingest/records.parquet"
    name = pl.read_parquet(records)["id"][5]
    head, out = str(classified.results / "classify/heads/kmers_logistic"), str(tmp_path / "out")
    made = CliRunner().invoke(app, ["mutagenesis", head, str(records), "--out", out, "--id", name, "--start", "5", "--end", "9"])
    assert made.exit_code == 0, made.output
    assert pl.read_parquet(tmp_path / "out/mutagenesis.parquet")["id"].unique().to_list() == [name]
    predictor = Predictor.open(head)
    source = PredictJob(records, tmp_path / "other")
    with pytest.raises(DataError, match=f"holds more than {MOST_RECORDS} records to scan; name those that you want with --id"):
        scan_file(predictor, ScanJob(source, end=2))
    with pytest.raises(DataError, match="holds no record nobody; name others with --id"):
        scan_file(predictor, ScanJob(source, ids=["nobody"]))
    with pytest.raises(DataError, match=r"has 64 residues, but positions 60 to 70 were asked for; expected 0 to 64"):
        scan_file(predictor, ScanJob(source, ids=[name], start=60, end=70))
    assert not (tmp_path / "other").exists()


def test_what_has_no_alphabet_of_residues_is_refused(classified: Run) -> None:
    head = replace(Predictor.open(classified.results / "classify/heads/kmers_logistic"), modality="text")
    with pytest.raises(ConfigError, match="needs an alphabet of residues, but the head reads text"):
        scan(head, "some words")
