"""The script that users copy runs as its own docstring says."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from biollm.classify.config import Config
from biollm.classify.stage import run as run_stage
from biollm.core.job import Job

_SCRIPT = Path(__file__).parents[3] / "pipelines" / "classify_from_embeddings.py"


def test_the_script_prints_the_scores_of_both_heads(classify_job: Callable[..., Job[Config]]) -> None:
    job = classify_job()
    files = ["--embeddings", str(job.input("embed") / "pretrain.parquet"), "--records", str(job.input("ingest") / "records.parquet")]
    done = subprocess.run(
        [sys.executable, str(_SCRIPT), *files, "--label", "label_coding"], capture_output=True, text=True, timeout=120, check=True
    )
    scores = {name: float(auroc) for name, auroc in re.findall(r"(\w+) +AUROC (\d\.\d+)  AUPRC \d\.\d+", done.stdout)}
    assert scores.keys() == {"logistic", "xgboost"}
    assert min(scores.values()) > 0.85


def test_the_script_is_short_and_uses_the_documented_names() -> None:
    source = _SCRIPT.read_text()
    assert len(source.splitlines()) <= 40
    documented = re.findall(r"^::: (\S+)$", (_SCRIPT.parents[1] / "docs" / "api.md").read_text(), re.MULTILINE)
    for module, names in re.findall(r"^from (biollm\S*) import (.+)$", source, re.MULTILINE):
        for name in names.split(", "):
            assert f"{module}.{name}" in documented or module in documented, name


Run = Callable[..., str]


@pytest.fixture
def refusal(classify_job: Callable[..., Job[Config]], monkeypatch: pytest.MonkeyPatch) -> Run:
    """refusal(records=…, embeddings=…, spoil=…, extra=…) -> what the script ends with."""

    def run(spoil: Callable[[Path, Path], None] = lambda embeddings, records: None, extra: Sequence[str] = (), **changes: Any) -> str:
        job = classify_job(**changes)
        embeddings, records = job.input("embed") / "pretrain.parquet", job.input("ingest") / "records.parquet"
        spoil(embeddings, records)
        files = ["--embeddings", str(embeddings), "--records", str(records), "--label", "label_coding"]
        monkeypatch.setattr(sys, "argv", [str(_SCRIPT), *files, *extra])
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(str(_SCRIPT), run_name="__main__")
        return str(stopped.value.code)

    return run


def _halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:500])


def test_half_written_files_are_refused_by_name(refusal: Run) -> None:
    assert re.match(r".*/pretrain\.parquet: not a whole Parquet file", refusal(lambda embeddings, records: _halve(embeddings)))
    assert re.match(r".*/records\.parquet: ", refusal(lambda embeddings, records: _halve(records)))
    assert re.match(r".*/records\.parquet: .*No such file|.*records\.parquet", refusal(lambda embeddings, records: records.unlink()))


def test_embeddings_of_another_corpus_are_refused_by_id(refusal: Run) -> None:
    other = refusal(embeddings=lambda table: table.with_columns(("x_" + pl.col("id")).alias("id")))
    assert re.search(r"pretrain\.parquet: 320 of the 320 expected records are missing: r0, ", other)


def test_a_split_of_one_class_is_refused_by_id(refusal: Run) -> None:
    one = pl.when(pl.col("split") == "train").then(1).otherwise(pl.col("label_coding")).alias("label_coding")
    found = refusal(records=lambda table: table.with_columns(one))
    assert re.search(r"the train split \(first: r0, r1, r2\) has label_coding \{1\}; expected 0 and 1", found)
    none = pl.when(pl.col("split") == "test").then(None).otherwise(pl.col("label_coding")).alias("label_coding")
    found = refusal(records=lambda table: table.with_columns(none))
    assert "the test split (first: no record) has label_coding None; expected 0 and 1" in found


@pytest.mark.parametrize(("value", "dtype"), [(float("nan"), pl.Float64), (2, pl.Int8), (0.5, pl.Float32)])
def test_a_label_that_is_not_0_or_1_is_refused_by_id(refusal: Run, value: object, dtype: Any) -> None:
    def spoil(table: pl.DataFrame) -> pl.DataFrame:
        labels = table["label_coding"].cast(dtype).to_list()
        labels[7] = labels[300] = value
        return table.with_columns(pl.Series("label_coding", labels, dtype=dtype))

    found = refusal(records=spoil)
    assert re.search(r"records\.parquet: 2 records have neither 0, 1 nor null in 'label_coding': r7, r300$", found)


def test_text_is_no_label_of_the_script(refusal: Run) -> None:
    found = refusal(records=lambda table: table.with_columns(pl.col("label_coding").cast(pl.String)))
    assert "320 records have neither 0, 1 nor null in 'label_coding': r0, r1" in found


def test_embeddings_of_another_model_than_a_saved_heads_are_refused(refusal: Run, classify_job: Callable[..., Job[Config]]) -> None:
    job = classify_job({"label": "coding", "heads": ["logistic"]})
    run_stage(job)
    head = job.out / "heads" / "base_logistic"
    found = refusal(extra=["--same-model-as", str(head)])
    assert re.search(r"base_logistic: fitted on embeddings of the model with digest \w+ .* but given those of the model with digest", found)
