"""Runs of a fused model with measured tracks: by any ZeRO stage, in several processes, cut and gone on with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from biollm.modeling.corpus import read_records
from biollm.modeling.encoding import Encoder
from biollm.modeling.loading import load_model
from biollm.pretrain.config import Config
from biollm.pretrain.task import make_module, read_materials
from biollm.stages import BY_NAME, Run
from biollm.training.examples import divide_long, encode_corpus, open_tracks
from biollm.training.run import RunSettings, Trained, load_trained, train
from biollm.training.task import Recipe

TrainFused = Callable[..., Trained]


@pytest.fixture(scope="module")
def fused_run(measured: Run, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Recipe, Config, RunSettings, Path]]:
    """fused_run(work, zero=3, …) -> what `train` is asked for."""
    model = tmp_path_factory.mktemp("still") / "model"  # without dropout, which processes draw differently
    shutil.copytree(measured.results / "expand", model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}))

    def make(work: Path, **settings: Any) -> tuple[Recipe, Config, RunSettings, Path]:
        base = {"steps": 4, "batch_size": 4, "row_tokens": 64, "precision": "fp32", "trackers": [], "log_steps": 1, "checkpoint_steps": 2}
        tracks = {"weight": 1.0, "channel_dropout": 0.3, "site_dropout": 0.1}
        config = Config(**base | {"tracks": tracks} | settings)
        read_materials(measured.results / "ingest", model, "dna", [], config, work / "documents")
        places = {"corpus": str(measured.results / "ingest"), "model": str(model), "modality": "dna", "documents": str(work / "documents")}
        arguments = places | {"config": config.model_dump(), "seed": 5, "weights": None, "new_rows_from": None}
        return Recipe("biollm.pretrain.task:build", arguments), config, RunSettings(5, "test"), work

    return make


@pytest.fixture(scope="module")
def train_fused(fused_run: Callable[..., tuple[Recipe, Config, RunSettings, Path]]) -> TrainFused:
    def run(work: Path, **settings: Any) -> Trained:
        recipe, config, asked, _ = fused_run(work, **settings)
        return train(recipe, config, asked, work=work, logs=work / "logs")

    return run


@pytest.fixture(scope="module")
def of_two_processes(
    fused_run: Callable[..., Any], fit_by_two_processes: Callable[..., None], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int], Path]:
    """of_two_processes(zero) -> the work folder. test_run has all four stages: 1 and 2 share out what fusion has nothing to do with."""
    folder = tmp_path_factory.mktemp("two")
    fit_by_two_processes(fused_run(folder / f"zero_{zero}", processes=2, zero=zero) for zero in (0, 3))
    return lambda zero: folder / f"zero_{zero}"


def losses(trained: Trained, name: str = "loss_nats") -> list[float]:
    return [point[name] for point in trained.history]


@pytest.fixture(scope="module")
def of_one_process(train_fused: TrainFused, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train_fused(tmp_path_factory.mktemp("one"))


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 3])
def test_fusion_is_trained_alike_in_two_processes_whole_and_in_shares(
    train_fused: TrainFused, of_one_process: Trained, of_two_processes: Callable[[int], Path], zero: int
) -> None:
    two = train_fused(of_two_processes(zero), processes=2, zero=zero)
    assert any(".operator.head" in name for name in two.weights)
    assert losses(two) == pytest.approx(losses(of_one_process), rel=1e-4)
    assert losses(two, "label_loss_nats") == pytest.approx(losses(of_one_process, "label_loss_nats"), rel=1e-4)
    for name, weights in of_one_process.weights.items():
        torch.testing.assert_close(two.weights[name], weights, rtol=1e-3, atol=1e-4, msg=name)


def test_the_curve_tells_language_modelling_from_the_hidden_track_values_beside_it(of_one_process: Trained) -> None:
    both, labels = np.array(losses(of_one_process)), np.array(losses(of_one_process, "label_loss_nats"))
    assert (both > labels + 0.01).all()
    assert (labels > 0.5).all(), "a divided sum, not a share of it"


def test_a_fused_run_that_was_cut_goes_on_to_the_same_bits(train_fused: TrainFused, of_one_process: Trained, tmp_path: Path) -> None:
    train_fused(tmp_path)
    shutil.rmtree(tmp_path / "trained")
    shutil.rmtree(tmp_path / "checkpoint-4")
    again = train_fused(tmp_path)
    assert again.history == of_one_process.history
    assert all(torch.equal(again.weights[name], weights) for name, weights in of_one_process.weights.items())


def test_everything_that_fusion_adds_is_trained_and_saved(of_one_process: Trained, measured: Run) -> None:
    model = measured.results / "expand"
    settings = Config(steps=4, tracks={"weight": 1.0})
    before = make_module(model, Encoder(model), settings).state_dict()
    module = make_module(model, Encoder(model), settings)
    load_trained(module, of_one_process.weights)
    for name, weights in module.state_dict().items():
        if ".operator." in name and not name.endswith("head.weight"):  # the head is drawn from no seed: it begins at zero
            assert not torch.equal(weights, before[name]), name


def test_a_prediction_head_learns_what_the_tracks_are(measured: Run) -> None:
    """The adapted model knows more of hidden values than it did: the auxiliary loss reaches it."""
    model = load_model(measured.results / "pretrain")
    assert model.operator is not None
    assert model.operator.head is not None
    assert float(model.operator.head.read.weight.detach().abs().sum()) > 0
    assert float(model.operator.head.power.detach().std()) > 0, "channels differ in how far their values reach"


def test_parts_of_a_long_record_have_their_own_part_of_the_tracks(measured: Run) -> None:
    folder, corpus = measured.results / "pretrain", measured.results / "ingest"
    spec = load_model(folder).spec
    (whole,) = encode_corpus(read_records(corpus, "test").head(1), Encoder(folder), spec, open_tracks(corpus, spec))
    parts = divide_long([whole], 9)
    assert len(parts) > 1
    levels = [part.tracks["mC"].level for part in parts if part.tracks is not None]
    assert whole.tracks is not None
    np.testing.assert_array_equal(np.concatenate(levels), whole.tracks["mC"].level)
    assert all(part.features is not None and len(part.features) == len(part.ids) for part in parts)


def test_fine_tuning_reads_measured_tracks_and_its_adapter_carries_the_fusion(measured: Run, tmp_path: Path) -> None:
    shutil.copytree(measured.results, tmp_path / "results")
    method = "{name: lora, steps: 2, batch_size: 4, learning_rate: 0.01, precision: fp32, log_steps: 1, checkpoint_steps: 2, trackers: []}"
    run = Run.load(measured.path, [f"finetune={{label: coding, methods: [{method}]}}"], tmp_path / "results")
    artifact, _ = run.run_stage(BY_NAME["finetune"])
    adapted = load_model(artifact.folder / "lora")
    assert adapted.spec is not None
    assert adapted.spec.channel_names == ["cpg", "mC"]
    before = load_model(measured.results / "pretrain").operator
    assert adapted.operator is not None
    assert before is not None
    changed = [n for n, p in adapted.operator.state_dict().items() if not torch.equal(p, before.state_dict()[n])]
    assert any("project" in name for name in changed), "fusion is trained whole beside an adapter"
