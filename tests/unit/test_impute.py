"""Imputation: each value is predicted where the model does not see it, and scored against what needs no model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from biollm.core.errors import ConfigError, DataError, ResourceError
from biollm.impute import Settings, _as_values, _forward, impute, render
from biollm.modeling.corpus import read_records
from biollm.modeling.encoding import Encoder
from biollm.modeling.loading import load_model
from biollm.modeling.tracks import Track
from biollm.stages import BY_NAME, Run
from biollm.training.examples import encode_corpus, open_tracks


def test_every_value_of_the_split_is_predicted_once_and_scored_against_the_baselines(measured: Run) -> None:
    rows, scores = impute(measured, Settings(folds=3))
    assert rows.equals(pl.read_parquet(measured.results / "impute/imputed.parquet"))
    facts = json.loads((measured.results / "impute/impute.json").read_text())
    assert facts["scores"] == scores
    corpus = pl.read_parquet(measured.results / "ingest/records.parquet").filter(pl.col("split") == "test")
    on_c = [
        value
        for sequence, values in corpus.select("sequence", "track_mC").iter_rows()
        for base, value in zip(sequence, values, strict=True)
        if base == "C" and value is not None
    ]
    assert rows.filter(channel="mC")["sites"].sum() == len(on_c), "the channel is of the plus strand"
    assert rows.select("id", "channel", "start_0based").is_unique().all()
    assert rows.filter(channel="mC")["predicted"].is_between(0, 1).all()
    by = {score["by"]: score for score in scores}
    assert set(by) == {"model", "channel mean", "record mean", "neighbours"}, "what follows from the sequence needs no scores"
    assert by["model"]["values"] == len(on_c)
    spec = load_model(measured.results / "pretrain").spec
    assert spec is not None
    assert by["channel mean"]["mae"] == pytest.approx(np.abs(np.float64(on_c) - spec.channels[1].mean).mean(), rel=1e-5)
    assert by["channel mean"]["r"] is None
    assert "record mean" in render(scores)


def test_what_is_missing_is_filled_in_from_all_that_is_known_and_not_scored(measured: Run) -> None:
    rows, scores = impute(measured, Settings(folds=2))
    missing = rows.filter(pl.col("sites") == 0)
    assert missing.height > 50
    assert missing["channel"].unique().to_list() == ["mC"], "what follows from the sequence is never missing"
    assert missing.select(pl.col("measured", "pass").is_null().all()).row(0) == (True, True)
    assert missing["predicted"].is_between(0, 1).all()
    known = rows.filter(pl.col("sites") > 0)
    assert known.select(pl.col("measured", "pass").is_not_null().all()).row(0) == (True, True)
    corpus = read_records(measured.results / "ingest", "test")
    tracks = open_tracks(measured.results / "ingest", load_model(measured.results / "pretrain").spec)
    assert tracks is not None
    values = 0
    for row, name, sequence in corpus.select("row", "id", "sequence").iter_rows():
        at_c = np.asarray([base == "C" for base in sequence])
        has = at_c & ~np.isnan(tracks[row]["mC"].level)
        values += int(has.sum())
        for start, end in missing.filter(id=name).select("start_0based", "end").iter_rows():
            assert at_c[start:end].any(), "the channel is of the plus strand"
            assert not has[start:end].any()
        spans = rows.filter(id=name, channel="mC").select("start_0based", "end").iter_rows()
        assert np.concatenate([at_c[start:end] for start, end in spans]).sum() == at_c.sum(), "no C is left out"
    assert {score["values"] for score in scores} == {values}

    folder = measured.results / "pretrain"
    model, encoder = load_model(folder), Encoder(folder)
    assert model.spec is not None
    first = missing.filter(id=missing["id"][0])
    (example,) = encode_corpus(corpus.filter(id=first["id"][0]), encoder, model.spec, tracks)
    (logits,) = _forward(model, encoder, [example], [np.zeros((len(example.ids), 2), dtype=bool)])
    starts = np.cumsum(example.residues) - example.residues
    at = [int(np.flatnonzero((starts == start) & (example.residues > 0))[0]) for start in first["start_0based"]]
    np.testing.assert_allclose(first["predicted"], _as_values(logits, model.spec)[at, 1], atol=1e-5)


def test_a_prediction_does_not_depend_on_the_value_that_it_predicts(measured: Run) -> None:
    folder = measured.results / "pretrain"
    model, encoder = load_model(folder), Encoder(folder)
    assert model.spec is not None
    corpus = measured.results / "ingest"
    (example,) = encode_corpus(read_records(corpus, "test").head(1), encoder, model.spec, open_tracks(corpus, model.spec))
    hidden = np.zeros((len(example.ids), 2), dtype=bool)
    hidden[2:9] = True
    assert example.tracks is not None
    track = example.tracks["mC"]
    covered = np.repeat(hidden[:, 1], example.residues)
    other = Track(np.where(covered, 1 - track.level, track.level), track.coverage)
    assert not np.array_equal(other.level, track.level, equal_nan=True)
    object.__setattr__(example, "tracks", {"mC": track})
    (before,) = _forward(model, encoder, [example], [hidden])
    object.__setattr__(example, "tracks", {"mC": other})
    (after,) = _forward(model, encoder, [example], [hidden])
    np.testing.assert_array_equal(before, after)
    (seen,) = _forward(model, encoder, [example], [np.zeros_like(hidden)])
    assert not np.array_equal(seen, before), "and it does depend on what it sees"


def test_a_model_that_does_not_impute_and_a_split_without_records_are_refused(measured: Run, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the split 'dev' has no record; name another of train, validation, test"):
        impute(measured, Settings(split="dev"))
    sections = yaml.safe_load(measured.path.read_text())
    short = measured.path.with_name("short.yaml")
    short.write_text(yaml.safe_dump({name: section for name, section in sections.items() if name != "pretrain"}))
    with pytest.raises(ConfigError, match="has no section 'pretrain', so there is no model to impute with; add it"):
        impute(Run.load(short, [], measured.results), Settings())
    shutil.copytree(measured.results, tmp_path / "results")
    shutil.rmtree(tmp_path / "results/impute", ignore_errors=True)
    (tmp_path / "results/impute").write_text("a file")
    with pytest.raises(ResourceError, match=r"impute: cannot write: a file is in the place of the folder"):
        impute(Run.load(measured.path, [], tmp_path / "results"), Settings(folds=2))
    plain = Run.load(measured.path, ["pretrain.tracks.weight=0"], tmp_path / "results")
    with pytest.raises(ConfigError, match=r"the model is missing or not up to date with .* make it first: biollm run"):
        impute(plain, Settings())
    plain.run_stage(BY_NAME["pretrain"])
    with pytest.raises(ConfigError, match=r"was not trained to predict track values; set expand.fusion and pretrain.tracks.weight"):
        impute(plain, Settings())
