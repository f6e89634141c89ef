"""biollm merge-adapter: the same model without an adapter, or nothing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from biollm.core.errors import ArtifactError, ConfigError
from biollm.finetune import merging
from biollm.finetune.merging import MERGE_TOLERANCE, merge_adapter
from biollm.modeling.adapters import kind_of
from biollm.modeling.loading import load_model

from .conftest import CLASSIFY, LABEL_TOKENS, WRITE, Case, batch, logits

RunCase = Callable[..., Case]


@pytest.mark.parametrize(
    ("family", "kind", "name", "options"),
    [
        *(("bert", CLASSIFY, name, {}) for name in ("lora", "dora", "ia3")),
        *(("gpt2", WRITE, name, {}) for name in ("lora", "ia3")),
        *(("llama", WRITE, name, {}) for name in ("lora", "dora", "ia3")),
        ("llama", LABEL_TOKENS, "lora", {}),
        *(("roberta", CLASSIFY, name, {}) for name in ("lora", "ia3")),
        ("bert", CLASSIFY, "lora", {"fused": True}),
        ("bert", CLASSIFY, "lora", {"fused": True, "train_new_rows": True}),
        ("gpt2", WRITE, "lora", {"train_new_rows": True}),
        ("llama", WRITE, "dora", {"train_new_rows": True}),
        ("llama", CLASSIFY, "lora", {"train_new_rows": True}),
    ],
)
def test_a_merged_folder_gives_the_logits_of_the_adapter(
    run_case: RunCase, tmp_path: Path, family: str, kind: str, name: str, options: dict[str, Any]
) -> None:
    case = run_case(family, kind, name, **options)
    difference = merge_adapter(case.folder, tmp_path / "merged")
    assert 0 <= difference < MERGE_TOLERANCE
    merged = load_model(tmp_path / "merged", kind)
    assert kind_of(merged.stock) == kind
    torch.testing.assert_close(logits(merged, case.inputs), case.after, rtol=0, atol=1e-4 * float(case.after.abs().max()))
    assert not torch.equal(logits(merged, case.inputs), case.start)
    names = {path.name for path in (tmp_path / "merged").iterdir()}
    assert {"config.json", "model.safetensors", "biollm_vocabulary.json"} <= names
    assert ("fusion.json" in names) == bool(options.get("fused"))
    assert not names & {"adapter_config.json", "adapter_base.json", "README.md"}
    if kind != WRITE:
        assert list(merged.stock.config.id2label.values()) == ["exon", "intron", "other"]


def test_stock_transformers_opens_a_merged_folder(run_case: RunCase, tmp_path: Path) -> None:
    case = run_case("llama", WRITE, "lora", train_new_rows=True)
    merge_adapter(case.folder, tmp_path / "merged")
    stock = AutoModelForCausalLM.from_pretrained(str(tmp_path / "merged")).eval()
    with torch.no_grad():
        torch.testing.assert_close(stock(**case.inputs).logits, case.after, rtol=0, atol=1e-4 * float(case.after.abs().max()))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("qlora", "trained on a base rounded to 4 bits"),
        ("adapter_series", "a network with a non-linearity of its own"),
        ("adapter_parallel", "a network with a non-linearity of its own"),
        ("prefix_tuning", "adds keys and values to every input"),
        ("prompt_tuning", "adds virtual tokens"),
        ("p_tuning", "adds virtual tokens"),
    ],
)
def test_what_no_weight_can_take_in_is_refused_with_the_reason(run_case: RunCase, tmp_path: Path, name: str, reason: str) -> None:
    case = run_case("llama", WRITE, name)
    with pytest.raises(
        ConfigError, match=rf"a {name} adapter cannot be folded into its base: .*{reason}.*; expected one of lora, dora, ia3"
    ):
        merge_adapter(case.folder, tmp_path / "merged")
    assert not list(tmp_path.iterdir())


def test_a_whole_model_and_a_folder_that_exists_are_refused(run_case: RunCase, tmp_path: Path) -> None:
    case = run_case("bert", CLASSIFY, "lora")
    with pytest.raises(ConfigError, match="no adapter here"):
        merge_adapter(case.source, tmp_path / "merged")
    (tmp_path / "merged").mkdir()
    with pytest.raises(ConfigError, match="exists; give a folder that does not"):
        merge_adapter(case.folder, tmp_path / "merged")
    assert not list((tmp_path / "merged").iterdir())


def test_a_merge_that_changes_logits_writes_nothing(run_case: RunCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = run_case("bert", CLASSIFY, "lora")
    honest = merging.save_model

    def spoil(model: Any, out: Path, source: Path) -> None:
        with torch.no_grad():
            model.stock.classifier.weight *= 1.01
        honest(model, out, source)

    monkeypatch.setattr(merging, "save_model", spoil)
    with pytest.raises(ArtifactError, match=r"not written: the merged model's logits differ by \S+ of the largest"):
        merge_adapter(case.folder, tmp_path / "merged")
    assert not list(tmp_path.iterdir())


def test_a_merge_that_gives_no_numbers_writes_nothing(run_case: RunCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = run_case("bert", CLASSIFY, "lora")
    monkeypatch.setattr(merging, "_logits", lambda model, inputs: torch.full((2, 3), float("nan")))
    with pytest.raises(ArtifactError, match="differ by nan"):
        merge_adapter(case.folder, tmp_path / "merged")
    assert not list(tmp_path.iterdir())


def test_the_probe_reads_new_tokens_padding_and_tracks(run_case: RunCase) -> None:
    model = run_case("bert", CLASSIFY, "lora", fused=True).model
    inputs = merging._probe(model)
    assert int(inputs["input_ids"].max()) == 60
    assert int((inputs["attention_mask"] == 0).sum()) > 0
    assert torch.equal(inputs["input_ids"] == 0, inputs["attention_mask"] == 0)
    assert float(inputs["features"].abs().max()) > 0
    assert not torch.equal(logits(model, inputs), logits(model, {k: v for k, v in inputs.items() if k != "features"}))


def test_the_command_merges_an_adapter_whose_base_was_moved(run_case: RunCase, tmp_path: Path) -> None:
    case = run_case("bert", CLASSIFY, "lora")
    adapter, base = shutil.copytree(case.folder, tmp_path / "alone"), shutil.copytree(case.source, tmp_path / "elsewhere")

    def call(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "biollm", "merge-adapter", *map(str, arguments)], capture_output=True, text=True, check=False
        )

    lost = call(adapter, tmp_path / "merged")
    assert lost.returncode == 1
    assert lost.stderr.startswith("ConfigError: ")
    assert "the adapter's base '../../pretrain' is not there" in lost.stderr
    assert not (tmp_path / "merged").exists()
    done = call(adapter, tmp_path / "merged", "--base", base)
    assert done.returncode == 0, done.stderr
    assert "logits differ by" in done.stderr
    assert "Failed to load" not in done.stderr, "what libraries print at their start is kept away"
    torch.testing.assert_close(logits(load_model(tmp_path / "merged", CLASSIFY), batch(case.model)), case.after, rtol=0, atol=1e-5)
