"""Estimates grow and shrink with what decides them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from biollm import doctor
from biollm.core.errors import ConfigError
from biollm.doctor import examine
from biollm.modeling.loading import load_config
from biollm.stages import Run
from biollm.training.config import TrainingConfig
from biollm.training.estimate import Shape, memory_bytes, memory_knobs, operations

MEDIUM = Shape(parameters=10**8, table=3 * 10**7, layers=12, width=768, vocabulary=40_000)


def config(**values: Any) -> TrainingConfig:
    return TrainingConfig(**{"steps": 10, "learning_rate": 1e-3, "batch_size": 8} | values)


def test_model_states_take_sixteen_bytes_a_parameter_and_zero_shares_them_out() -> None:
    def states(**values: Any) -> float:
        return memory_bytes(MEDIUM, config(**values), 0, 0, bf16=True) / MEDIUM.parameters

    assert states() == 16
    assert [states(processes=4, zero=zero) for zero in (0, 1, 2, 3)] == [16, 7, 5.5, 4]
    assert memory_bytes(MEDIUM, config(), 0, 0, bf16=False) / MEDIUM.parameters == 16


def test_activations_and_logits_come_on_top() -> None:
    base = memory_bytes(MEDIUM, config(), 0, 0, bf16=True)
    assert memory_bytes(MEDIUM, config(), 1000, 0, bf16=True) - base == 1000 * 768 * 12 * 34
    assert memory_bytes(MEDIUM, config(), 1000, 0.5, bf16=True) - memory_bytes(MEDIUM, config(), 1000, 0, bf16=True) == 500 * 40_000 * 12
    assert memory_bytes(MEDIUM, config(gradient_checkpointing=True), 1000, 0, True) < memory_bytes(MEDIUM, config(), 1000, 0, True)


def test_memory_is_saved_by_what_the_run_can_still_take(monkeypatch: pytest.MonkeyPatch) -> None:
    knobs = memory_knobs(config())
    assert "raise gradient_accumulation (now 1) to divide the batch of 8" in knobs
    assert "zero" not in knobs, "processes of one machine share its memory"
    assert "offload" not in knobs
    assert "pretrain.row_tokens" in knobs
    assert "gradient_accumulation" not in memory_knobs(config(processes=2, gradient_accumulation=4)), "one record at a time already"
    assert "set zero: 2 or 3 with more processes" in memory_knobs(config(nodes=2))
    monkeypatch.setattr("biollm.training.estimate.has_cuda", lambda: True)
    assert "set offload: optimizer with zero: 1" in memory_knobs(config())
    assert "set zero: 3 with more" in memory_knobs(config(zero=2, offload="optimizer"))


def test_doctor_compares_with_the_memory_of_a_gpu_where_there_is_one() -> None:
    def found(gpu_gib: float | None, **values: Any) -> dict[str, Any]:
        return {line.what: line for line in doctor._memory(MEDIUM, [(30.0 * 2**30, config(**values))], gpu_gib)}

    assert [found(gpu_gib)["GPU memory"].ok for gpu_gib in (24.0, 80.0)] == [False, True]
    assert "about 30.0 GiB for each process, 24.0 GiB on the smallest GPU; if it does not fit: raise" in found(24.0)["GPU memory"].says
    assert set(found(None)) == set(found(24.0, zero=1, offload="optimizer")) == {"memory"}
    assert found(None)["memory"].says.startswith("about 32.4 GiB")
    assert found(80.0)["memory"].says.startswith("about 2.8 GiB"), "the weights pass through"


def test_doctor_reads_the_hostfile(tmp_path: Path, tiny_recipe: Callable[..., Path]) -> None:
    run = Run.load(tiny_recipe(tmp_path, pretrain={"nodes": 2, "hostfile": "hosts"}))
    (finding,) = [line for line in doctor._inputs(run) if "hosts" in line.what]
    assert finding.ok is False
    assert "there is no such file" in finding.says
    (tmp_path / "hosts").write_text("a slots=1\nb slots=1\n")
    (finding,) = [line for line in doctor._inputs(run) if "hosts" in line.what]
    assert (finding.ok, finding.says) == (True, "a, b")


def test_doctor_says_what_the_machine_cannot_do_of_a_training(
    tmp_path: Path, tiny_recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("biollm.doctor._costs", lambda run: [])
    methods = [{"name": "full"}, {"name": "lora", "zero": 1, "offload": "optimizer"}]
    run = Run.load(tiny_recipe(tmp_path, pretrain={"nodes": 2}, finetune={"label": "coding", "methods": methods}))
    assert not examine(run)
    told = " ".join(capsys.readouterr().out.split())
    assert "MISSING pretrain trains on this machine nodes is 2, but no hostfile is named" in told
    assert "MISSING finetune trains lora on this machine offload is optimizer, but there is no GPU" in told
    assert "trains full" not in told


def test_doctor_counts_every_step_that_pretrain_makes(tmp_path: Path, tiny_recipe: Callable[..., Path]) -> None:
    more = {"steps": 4, "new_rows_steps": 3, "compare_operators": ["film", "cross_attention"]}
    (alone,) = doctor._trainings(Run.load(tiny_recipe(tmp_path, pretrain={"steps": 4})), "masked")
    (training,) = doctor._trainings(Run.load(tiny_recipe(tmp_path, pretrain=more)), "masked")
    assert (alone.steps, training.steps) == (4, (4 + 3) * 3)


def test_a_masked_token_in_seven_costs_a_seventh_of_the_head() -> None:
    assert operations(MEDIUM, 100, 1.0) == 600 * 10**8
    assert operations(MEDIUM, 100, 0.0) == 600 * 7 * 10**7


@pytest.mark.parametrize("architecture", ["encoder", "decoder", "encoder-decoder"])
def test_the_shape_is_read_from_any_config(model_folder: Callable[[str], Path], architecture: str) -> None:
    shape = Shape.of(load_config(model_folder(architecture)), 1000)
    assert (shape.layers, shape.width) == (2, 32)
    assert shape.table == shape.vocabulary * 32


def write_gguf(path: Path, layers: int = 3) -> Path:
    gguf = pytest.importorskip("gguf", reason="needs the package gguf")
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(layers)
    writer.add_embedding_length(32)
    writer.add_tensor("token_embd.weight", np.zeros((50, 32), dtype=np.float32))
    writer.add_tensor("blk.0.ffn_up.weight", np.zeros((64, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_the_shape_of_a_gguf_base_is_read_from_its_header(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")
    assert Shape.of_gguf(file) == Shape(parameters=50 * 32 + 64 * 32, table=50 * 32, layers=3, width=32, vocabulary=50)
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(ConfigError, match=r"tiny\.gguf: no whole GGUF model"):
        Shape.of_gguf(file)


def test_doctor_tells_what_a_gguf_base_will_cost(
    tmp_path: Path, tiny_recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("biollm.doctor._measured_flops", lambda: 1e9)
    run = Run.load(tiny_recipe(tmp_path, base={"model": "tiny.gguf"}))
    file = write_gguf(tmp_path / "tiny.gguf")

    def told() -> str:
        examine(run)
        return " ".join(capsys.readouterr().out.split())

    assert all(line in told() for line in ("memory about", "disk about", "training time roughly"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "unknown until the package gguf is there" in told()
    monkeypatch.undo()
    file.write_bytes(file.read_bytes()[:200])
    assert "MISSING memory, disk, time unknown" in told()
