"""Embeddings that `biollm embed-file` made, for heads and for the script that users copy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from biollm.classify.data import load_embeddings
from biollm.classify.features import EmbeddingBlock
from biollm.classify.saved import _is_model
from biollm.core.artifacts import make_artifact, open_artifact
from biollm.core.errors import DataError
from biollm.core.files import write_json
from biollm.core.resources import digest_folder


def test_embeddings_of_embed_file_by_a_model_of_another_operator_are_known(tmp_path: Path) -> None:
    def fill(out: Path, work: Path) -> dict[str, Any]:
        (out / "operators/film").mkdir(parents=True)
        (out / "operators/film/model.txt").write_text("film")
        (out / "model.txt").write_text("gate")
        return {}

    make_artifact(tmp_path / "pretrain", stage="pretrain", key="k", config={}, seed=0, inputs={}, reproducibility="-", fill=fill)
    artifact, head = open_artifact(tmp_path / "pretrain"), tmp_path / "classify/heads/fused_film_logistic"
    film, gate = digest_folder(tmp_path / "pretrain/operators/film"), digest_folder(tmp_path / "pretrain")
    block = EmbeddingBlock(set="fused_film", title="film", columns=1, model_digest=artifact.digest, settings={})
    assert _is_model(head, block, film)
    assert not _is_model(head, block, gate)
    assert _is_model(head, block.model_copy(update={"set": "pretrain"}), gate)


def test_embeddings_are_read_from_a_folder_of_embed_file_that_is_whole(tmp_path: Path) -> None:
    schema = {"id": pl.String, "embedding": pl.Array(pl.Float32, 2)}
    table = pl.DataFrame({"id": ["a", "b"], "embedding": [[1.0, 2.0], [3.0, 4.0]]}, schema=schema)
    for i in range(2):
        table[i : i + 1].write_parquet(tmp_path / f"part-{i:05d}.parquet")
    with pytest.raises(DataError, match=r"not a whole folder of embeddings .*; run the same `biollm embed-file` again"):
        load_embeddings(tmp_path, ["a", "b"])
    write_json(tmp_path / "manifest.json", {"complete": False})
    with pytest.raises(DataError, match="not a whole folder of embeddings"):
        load_embeddings(tmp_path, ["a", "b"])
    write_json(tmp_path / "manifest.json", {"complete": True})
    assert load_embeddings(tmp_path, ["b", "a"]).tolist() == [[3, 4], [1, 2]]
