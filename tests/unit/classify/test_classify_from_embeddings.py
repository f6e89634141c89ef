"""The script that users copy runs as its own docstring says."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from biollm.classify.config import Config
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


def test_the_script_is_short_and_uses_the_public_api() -> None:
    source = _SCRIPT.read_text()
    assert len(source.splitlines()) <= 40
    assert [line for line in source.splitlines() if "biollm" in line and "import" in line] == ["from biollm.classify import HeadClassifier"]
