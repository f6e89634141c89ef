"""Splits that stay where they are when records are added, and labels that cannot be stratified by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from biollm.core.alphabets import Modality, reverse_complement
from biollm.core.errors import ConfigError
from biollm.core.job import Job
from biollm.corpus.columns import RECORDS
from biollm.corpus.similarity import content_hashes
from biollm.ingest.config import Config
from biollm.ingest.stage import run


def ingest(folder: Path, rows: list[str], modality: Modality, split: dict[str, Any]) -> pl.DataFrame:
    (folder / "t.csv").write_text("name,seq,y\n" + "\n".join(rows) + "\n")
    read = {"sequence": "seq", "id": "name", "labels": {"y": "y"}}
    settings = Config.model_validate(
        {
            "modality": modality,
            "sources": [{"name": "t", "records": "t.csv", "read": read}],
            "split": split,
            "duplicates": {"exact": "keep"},
        }
    )
    run(Job(config=settings, seed=0, inputs={}, out=folder, work=folder, logs=folder, recipe_folder=folder, base_model="none"))
    return pl.read_parquet(folder / RECORDS)


def sequences(modality: Modality, count: int) -> list[str]:
    rng = np.random.default_rng(4)
    letters = {"dna": "ACGT", "protein": "ACDEFGHIKLMNPQRSTVWY"}.get(modality)
    if letters:
        return ["".join(rng.choice(list(letters), 30)) for _ in range(count)]
    return [" ".join(rng.choice(["gene", "cell", "of", "the", "binds", "site", "protein", "Acts", "in", "liver"], 9)) for _ in range(count)]


@pytest.mark.parametrize("modality", ["dna", "protein", "text"])
@pytest.mark.parametrize("by", ["random", "similarity"])
def test_copies_with_smaller_ids_move_no_row(tmp_path: Path, modality: Modality, by: str) -> None:
    said = sequences(modality, 150)
    rows = [f"m{i},{text},{i % 2}" for i, text in enumerate(said)]
    split = {"by": by, "validation": 0.3, "test": 0.3, "similarity": 0.9}
    before = dict(ingest(tmp_path, rows, modality, split).select("id", "split").iter_rows())
    copies = [reverse_complement(text) if modality == "dna" else text.lower() for text in said[:100]]
    more = [f"a{i},{text},{i % 2}" for i, text in enumerate(copies)]
    after = dict(ingest(tmp_path, more + rows, modality, split).select("id", "split").iter_rows())
    assert {name: after[name] for name in before} == before
    assert all(after[f"a{i}"] == after[f"m{i}"] for i in range(100))


def test_a_hash_of_content_is_the_same_in_every_table_and_on_either_strand() -> None:
    dna = pl.Series(["ACGTTN", "acgttn", "NAACGT", "ACGT", "GGGG"])
    found = content_hashes(dna, "dna")
    assert found[0] == found[1] == found[2]
    assert len(set(found.tolist())) == 3
    assert content_hashes(dna[3:], "dna").tolist() == found[3:].tolist()
    texts = pl.Series(["A gene, of note.", "a gene of  NOTE", "zebra a gene", "!!", "??"])
    found = content_hashes(texts, "text")
    assert found[0] == found[1]
    assert len(set(found.tolist())) == 4
    assert content_hashes(texts[1:2], "text")[0] == found[1]


@pytest.mark.parametrize("values", ["number", "word", "id"])
def test_stratify_by_what_is_no_class_is_refused_as_such(tmp_path: Path, values: str) -> None:
    said = {"number": "{0:.4f}", "word": "w{1}", "id": "x{0}"}[values]
    rows = [f"m{i},{text},{said.format(i / 7, i // 2)}" for i, text in enumerate(sequences("protein", 60))]
    with pytest.raises(ConfigError, match=r"stratify is 'y', a label of \d+ values in 60 records, most of which stand fewer than 3 times"):
        ingest(tmp_path, rows, "protein", {"by": "random", "stratify": "y"})
    classes = [f"m{i},{text},{i % 2}.5" for i, text in enumerate(sequences("protein", 60))]
    assert ingest(tmp_path, classes, "protein", {"by": "random", "stratify": "y"}).height == 60
