"""The whole pipeline through its doors: CLI, Snakemake, stock Hugging Face, the Python API, the downstream script."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import timeit
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from biollm.core.artifacts import open_artifact
from biollm.stages import STAGES

from .conftest import RECIPE, ROOT, SMALL, arguments, biollm, environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
NAMES = [stage.name for stage in STAGES]
# When a stage has this much on disk it is in the middle of its work; others are once their partial folder is there.
MIDDLE = {"pretrain": ".pretrain.work/*/all/checkpoint-2/seal.json", "finetune": ".finetune.work/*/lora/checkpoint-2/seal.json"}


def digest(results: Path, stage: str) -> str:
    return open_artifact(results / stage).digest


def comparable(name: str) -> bool:
    return name != "report"  # its page shows wall times, as its manifest says


def test_every_stage_leaves_a_whole_artifact(reference: Path) -> None:
    for name in NAMES:
        manifest = open_artifact(reference / name).manifest
        assert manifest.stage == name
        assert manifest.wall_seconds > 0
        assert manifest.peak_memory_mib < 4096


def test_running_again_does_nothing_and_says_so(reference: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in reference.glob("*/manifest.json")}
    started = time.monotonic()
    done = biollm("run", reference)
    assert done.code == 0
    assert "nothing to do" in done.err
    assert "AUROC" in done.out
    assert time.monotonic() - started < 10
    assert before == {path: path.stat().st_mtime_ns for path in reference.glob("*/manifest.json")}


def test_snakemake_itself_makes_the_same_digests_from_scratch(reference: Path, tmp_path: Path) -> None:
    """As far as one stage that waits for another; that the rest have them too, the killed ones show, which run from scratch again."""
    again = tmp_path / "results"
    names = NAMES[: NAMES.index("tokenizer") + 1]
    command = [sys.executable, "-m", "snakemake", "-s", "workflows/Snakefile", "--cores", "2", "--quiet", "all", "--nolock"]
    target = f"{again}/{names[-1]}/manifest.json"
    config = [f"recipe={RECIPE}", f"out={again}", f"set={json.dumps(SMALL)}"]
    done = subprocess.run([*command, target, "--config", *config], cwd=ROOT, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 0, done.stderr
    assert {n: digest(again, n) for n in names} == {n: digest(reference, n) for n in names}


@pytest.mark.parametrize("stage", NAMES)
def test_a_stage_killed_in_the_middle_and_run_again_has_the_same_digest(reference: Path, tmp_path: Path, stage: str) -> None:
    results = tmp_path / "results"
    results.mkdir()
    for name in NAMES[: NAMES.index(stage)]:
        shutil.copytree(reference / name, results / name)
    running = subprocess.Popen(
        arguments(stage, results), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment(), start_new_session=True
    )
    while not list(results.glob(MIDDLE.get(stage, f".{stage}.partial"))):
        assert running.poll() is None, "ended before it could be killed"
        time.sleep(0.002)
    os.killpg(running.pid, signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    assert not (results / stage).exists()

    done = biollm(stage, results)
    assert done.code == 0, done.err
    assert ("going on from checkpoint-" in done.err) == (stage in MIDDLE)
    assert not list(results.glob(".*.partial")) + list(results.glob(".*.work"))
    if comparable(stage):
        assert digest(results, stage) == digest(reference, stage)


def test_a_killed_workflow_run_again_finishes(reference: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    running = subprocess.Popen(
        arguments("run", results, "--until", "merge"),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
        start_new_session=True,
    )
    while not (results / ".tokenizer.partial").exists() and not (results / "tokenizer").exists():
        assert running.poll() is None
        time.sleep(0.002)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    done = biollm("run", results, "--until", "merge")
    assert done.code == 0, done.err
    assert digest(results, "merge") == digest(reference, "merge")


def test_stock_transformers_opens_what_we_write_without_biollm(reference: Path) -> None:
    code = """
import sys
sys.modules["biollm"] = None
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer
from tokenizers import Tokenizer
root = sys.argv[1]
base, merged = Tokenizer.from_file(f"{root}/merge/base_tokenizer.json"), AutoTokenizer.from_pretrained(f"{root}/merge")
base.no_truncation(); base.no_padding()
text = "Abnormality of the TATA-binding protein, see HP:0000118."
assert merged(text)["input_ids"] == base.encode(text).ids
dna = "GATTACAGATTACAGATTACA" * 40
assert merged.decode(merged(dna)["input_ids"], skip_special_tokens=True) == dna
for folder in ("expand", "pretrain"):
    model = AutoModelForMaskedLM.from_pretrained(f"{root}/{folder}")
    assert model.get_input_embeddings().weight.shape[0] == len(merged)
    assert len(AutoTokenizer.from_pretrained(f"{root}/{folder}")) == len(merged)
AutoModelForSequenceClassification.from_pretrained(f"{root}/finetune/output_layer")
from peft import PeftModel
PeftModel.from_pretrained(AutoModelForSequenceClassification.from_pretrained(f"{root}/pretrain", num_labels=2), f"{root}/finetune/lora")
print("opened")
"""
    done = subprocess.run([sys.executable, "-c", code, str(reference)], capture_output=True, text=True, env=environment(), check=False)
    assert done.stdout.strip() == "opened", done.stderr


def test_the_python_api_gives_the_embeddings_of_the_stage(reference: Path) -> None:
    from biollm import Embedder

    records = pl.read_parquet(reference / "ingest" / "records.parquet").head(40)
    stored = pl.read_parquet(reference / "embed" / "pretrain.parquet").head(40)["embedding"].to_numpy()
    embedder = Embedder(reference / "pretrain")
    one = embedder.embed(records["sequence"].to_list(), batch_size=1)
    many = embedder.embed(records["sequence"].to_list(), batch_size=32)
    assert one.dtype == np.float32
    assert one.shape == (40, embedder.dimension)
    assert np.abs(one - many).max() < 1e-5
    assert np.abs(one - stored).max() < 1e-5


@pytest.mark.parametrize("method", ["output_layer", "lora"])
def test_a_fine_tuned_folder_loaded_again_gives_the_stored_scores(reference: Path, method: str) -> None:
    from biollm import load_model
    from biollm.modeling.encoding import Encoder
    from biollm.training.examples import encode_corpus
    from biollm.training.supervised import Labelled, SupervisedModel, outputs_of

    folder = reference / "finetune" / method
    model = load_model(folder, "AutoModelForSequenceClassification")
    stored = pl.read_parquet(reference / "finetune" / "predictions.parquet").filter(pl.col("method") == method)
    records = stored.join(pl.read_parquet(reference / "ingest" / "records.parquet"), on="id", maintain_order="left").head(20)
    encoder = Encoder(folder)
    assert model.spec is not None
    examples = [Labelled(**vars(e) | {"answer": np.int64(0)}) for e in encode_corpus(records, encoder, model.spec)]
    logits = np.stack(outputs_of(SupervisedModel(model, "classes"), examples, encoder.pad_id or 0))
    again = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
    assert np.abs(again - records["score"].to_numpy()).max() < 1e-5


def test_nothing_written_is_a_pickle_or_holds_an_absolute_path(reference: Path) -> None:
    for path in (p for p in reference.rglob("*") if p.is_file()):
        head = path.read_bytes()[:4]
        assert path.suffix not in {".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib"}, path
        assert head[:2] not in {b"\x80\x04", b"\x80\x05", b"\x80\x02"}, path
        if path.suffix in {".json", ".html"} and "logs" not in path.parts:
            text = path.read_text()
            assert str(ROOT) not in text, path
            assert str(reference) not in text, path


def test_the_downstream_script_is_short_and_runs(reference: Path) -> None:
    script = ROOT / "pipelines" / "classify_from_embeddings.py"
    assert len(script.read_text().splitlines()) <= 40
    files = [
        "--embeddings",
        str(reference / "embed/pretrain.parquet"),
        "--records",
        str(reference / "ingest/records.parquet"),
        "--label",
        "label_coding",
    ]
    done = subprocess.run([sys.executable, str(script), *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "AUROC" in done.stdout


def test_changing_a_key_runs_again_only_what_depends_on_it(reference: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    shutil.copytree(reference, results)
    done = biollm("run", results, "--set", "report.title=Another title")
    assert done.code == 0, done.err
    assert "to do: report\n" in done.err
    assert "Another title" in (results / "report" / "report.html").read_text()


def test_help_answers_in_under_a_second() -> None:
    command = [sys.executable, "-m", "biollm", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert all(name in done.stdout for name in [*NAMES, "run", "doctor"])
    # the fastest of some: other tests run beside this one
    assert min(timeit.repeat(lambda: subprocess.run(command, capture_output=True, check=True), number=1, repeat=5)) < 1


def test_doctor_says_what_is_missing(tmp_path: Path) -> None:
    good = biollm("doctor", tmp_path)
    assert good.code == 0, good.out
    bad = biollm("doctor", tmp_path, "--set", "merge.plain_text=[package:no_such_package/x.txt]")
    assert bad.code == 1
    assert "MISSING" in bad.out
    assert "pip install no_such_package" in " ".join(bad.out.split())
