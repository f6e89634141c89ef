from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from biollm import Embedder, Run
from biollm.core.errors import ConfigError
from biollm.modeling.corpus import read_records
from biollm.stages import BY_NAME


def test_row_i_is_the_vector_of_record_i_for_every_model(tiny_results: Path, tmp_path: Path, tiny_recipe: Callable[..., Path]) -> None:
    folder = Path(shutil.copytree(tiny_results.parent, tmp_path / "copy"))
    run = Run.load(tiny_recipe(folder, pretrain=None, embed={"models": ["base", "expand"]}), out=folder / "results")
    artifact, made = run.run_stage(BY_NAME["embed"])
    assert made
    records = read_records(run.results / "ingest")
    for name, model, source in (("base", folder / "base", "text"), ("expand", run.results / "expand", "sequence")):
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
