from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from biollm import Embedder, Run
from biollm.core.errors import ConfigError
from biollm.core.job import Job
from biollm.embed.config import Config
from biollm.embed.shuffling import choose_donors
from biollm.embed.stage import run
from biollm.modeling.corpus import read_records
from biollm.modeling.tracks import Track
from biollm.stages import BY_NAME


def test_row_i_is_the_vector_of_record_i_for_every_model(tiny_results: Path, tmp_path: Path, tiny_recipe: Callable[..., Path]) -> None:
    folder = Path(shutil.copytree(tiny_results.parent, tmp_path / "copy"))
    whole = Run.load(tiny_recipe(folder, pretrain=None, embed={"models": ["base", "expand"]}), out=folder / "results")
    artifact, made = whole.run_stage(BY_NAME["embed"])
    assert made
    records = read_records(whole.results / "ingest")
    for name, model, source in (("base", folder / "base", "text"), ("expand", whole.results / "expand", "sequence")):
        table = pl.read_parquet(artifact.folder / f"{name}.parquet")
        assert table["id"].to_list() == records["id"].to_list()
        assert table.schema["embedding"].inner == pl.Float32  # type: ignore[attr-defined]
        vectors = np.asarray(table["embedding"].to_list())
        assert vectors.shape == (records.height, 32)
        some = [0, 7, records.height - 1]
        wanted = Embedder(model, input=source).embed([records["sequence"][i] for i in some])  # type: ignore[arg-type]
        assert np.abs(vectors[some] - wanted).max() < 1e-5
        assert artifact.facts["sets"][name]["records"] == records.height
    assert artifact.facts["sets"]["expand"]["tokens"] < artifact.facts["sets"]["base"]["tokens"], "the new vocabulary is denser"


def test_a_model_whose_section_is_missing_is_refused_before_anything_runs(tmp_path: Path, tiny_recipe: Callable[..., Path]) -> None:
    path = tiny_recipe(tmp_path, pretrain=None)
    with pytest.raises(ConfigError, match="embed needs embeddings of 'pretrain', but the recipe has no section 'pretrain'"):
        Run.load(path)


@pytest.fixture
def job(measured: Path, tmp_path: Path, dna: Callable[[int, int], str], levels: Callable[[int, int], Any]) -> Callable[..., Job[Config]]:
    """job(**config) -> a job over a corpus of 30 records with a measured track."""
    lengths = [40 + 8 * (i % 3) for i in range(30)]
    (tmp_path / "ingest").mkdir()
    pl.DataFrame(
        {
            "id": [f"r{i}" for i in range(30)],
            "sequence": [dna(length, i) for i, length in enumerate(lengths)],
            "split": ["train" if i % 5 else "test" for i in range(30)],
            "track_meth": [levels(length, i) for i, length in enumerate(lengths)],
            "coverage_meth": [np.full(length, 5, dtype=np.float32) for length in lengths],
        }
    ).write_parquet(tmp_path / "ingest" / "records.parquet")

    def make(**config: Any) -> Job[Config]:
        (tmp_path / "out").mkdir(exist_ok=True)
        inputs: Any = {
            "ingest": SimpleNamespace(folder=tmp_path / "ingest", facts={"modality": "dna"}),
            "pretrain": SimpleNamespace(folder=measured, digest="of the model"),
        }
        chosen = Config(models=["pretrain"], **config)
        return Job(chosen, 3, inputs, tmp_path / "out", tmp_path / "work", tmp_path / "logs", tmp_path, "")

    return make


def vectors_of(job: Job[Config], name: str) -> Any:
    return np.asarray(pl.read_parquet(job.out / f"{name}.parquet")["embedding"].to_list(), dtype=np.float32)


def test_the_corpus_tracks_are_read_withheld_and_shuffled(job: Callable[..., Job[Config]], measured: Path) -> None:
    whole = job(without_tracks=True, shuffled_tracks=True)
    facts = run(whole)
    assert {name: entry["title"] for name, entry in facts["sets"].items()} == {
        "pretrain": "adapted",
        "pretrain_without_tracks": "adapted, tracks withheld",
        "pretrain_shuffled_tracks": "adapted, tracks of another record",
    }
    table = pl.read_parquet(whole.input("ingest") / "records.parquet")
    sequences = table["sequence"].to_list()
    tracks = [
        {"meth": Track(np.asarray(level, dtype=np.float32), np.asarray(coverage, dtype=np.float32))}
        for level, coverage in table.select("track_meth", "coverage_meth").iter_rows()
    ]
    embedder = Embedder(measured, input="sequence")
    assert facts["sets"]["pretrain"]["tokens"] == embedder.count_tokens(sequences)
    np.testing.assert_allclose(vectors_of(whole, "pretrain"), embedder.embed(sequences, tracks), atol=1e-5)
    off = Embedder(measured, input="sequence", tracks="off").embed(sequences)
    np.testing.assert_allclose(vectors_of(whole, "pretrain_without_tracks"), off, atol=1e-5)
    donors = choose_donors(table["split"].to_list(), [len(sequence) for sequence in sequences], 3)
    spec = embedder.fusion
    assert spec is not None
    of_donors = [{**spec.computed(sequences[donor]), **tracks[donor]} for donor in donors]
    shuffled = vectors_of(whole, "pretrain_shuffled_tracks")
    np.testing.assert_allclose(shuffled, embedder.embed(sequences, of_donors), atol=1e-5)
    assert np.abs(shuffled - vectors_of(whole, "pretrain")).max(axis=1).min() > 1e-4


def test_pooling_layers_and_strands_are_the_recipes(job: Callable[..., Job[Config]], measured: Path) -> None:
    chosen = {"pooling": ["mean", "max"], "layer": [1, -1], "layer_pooling": "concat", "strands": "both"}
    made = job(**chosen)
    facts = run(made)
    assert facts["sets"]["pretrain"]["dim"] == 128
    assert (facts["pooling"], facts["strands"], facts["sets"]["pretrain"]["precision"]) == (["mean", "max"], "both", "fp32")
    assert vectors_of(made, "pretrain").shape == (30, 128)


@pytest.mark.parametrize("ablation", ["shuffled_tracks", "without_tracks"])
def test_an_ablation_of_tracks_without_fusion_is_refused_before_anything_runs(
    tmp_path: Path, tiny_recipe: Callable[..., Path], ablation: str
) -> None:
    path = tiny_recipe(tmp_path, expand={"fusion": None}, embed={ablation: True})
    with pytest.raises(ConfigError, match=rf"embed.{ablation} needs a model with tracks; add 'fusion' to expand"):
        Run.load(path)
