"""The stage pretrain on the tiny recipe: what it writes, measures and refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from biollm.core.artifacts import Artifact
from biollm.core.errors import ArtifactError, ConfigError, DataError
from biollm.modeling.encoding import Encoder
from biollm.modeling.loading import load_model
from biollm.pretrain import task
from biollm.pretrain.config import Config
from biollm.stages import BY_NAME, Run
from biollm.training.general import divide, read_documents
from biollm.training.run import RunSettings, train
from biollm.training.task import Recipe


@pytest.fixture
def pretrain(tiny_results: Path, tmp_path: Path) -> Callable[..., Artifact]:
    """pretrain(steps=…) -> the artifact of the stage behind the shared ones, with these settings changed."""

    def run(**settings: Any) -> Artifact:
        recipe = tiny_results.parent / "recipe.yaml"
        values = yaml.safe_load(recipe.read_text())
        values["pretrain"] |= settings
        changed = tiny_results.parent / f"{tmp_path.name}.yaml"
        changed.write_text(yaml.safe_dump(values, sort_keys=False))
        results = tmp_path / "results"
        for stage in ("ingest", "tokenizer", "merge", "expand"):
            if not (results / stage).exists():
                shutil.copytree(tiny_results / stage, results / stage)
        return Run.load(changed, out=results).run_stage(BY_NAME["pretrain"])[0]

    return run


def test_new_rows_alone_change_when_they_are_trained_alone(tiny_results: Path, tmp_path: Path) -> None:
    known = json.loads((tiny_results / "expand" / "biollm_vocabulary.json").read_text())["base_vocab_size"]
    config = Config(steps=1, new_rows_steps=3, batch_size=2, row_tokens=128, precision="fp32", trackers=[])
    corpus, model, documents = tiny_results / "ingest", tiny_results / "expand", tmp_path / "documents"
    task.read_materials(corpus, model, "dna", [], config, documents)
    arguments = {"corpus": str(corpus), "model": str(model), "modality": "dna", "documents": str(documents)}
    recipe = Recipe(
        "biollm.pretrain.task:build", arguments | {"config": config.model_dump(), "seed": 1, "weights": None, "new_rows_from": known}
    )
    trained = train(recipe, config.model_copy(update={"steps": 3}), RunSettings(1, "test"), work=tmp_path, logs=tmp_path)
    (table,) = (name for name in trained.weights if "word_embeddings" in name)
    assert all(name == table or "operator" in name for name in trained.weights), "and the fusion, which is new too"
    before = load_file(str(tiny_results / "expand" / "model.safetensors"))["bert.embeddings.word_embeddings.weight"]
    assert torch.equal(trained.weights[table][:known], before[:known])
    assert (trained.weights[table][known:] - before[known:]).abs().max() > 1e-6


def test_new_rows_first_then_everything(pretrain: Callable[..., Artifact], capsys: pytest.CaptureFixture[str]) -> None:
    facts = pretrain(new_rows_steps=2).facts
    assert facts["steps"] == 4
    assert "new rows trained for 2 steps" in capsys.readouterr().err


def test_general_text_is_mixed_in_and_what_it_cost_is_measured(pretrain: Callable[..., Artifact], tiny_results: Path) -> None:
    lines = [f"Sentence {i} of a general text, long enough to be a document of its own kind.\n" * 20 for i in range(60)]
    (tiny_results.parent / "general.txt").write_text("".join(lines))
    facts = pretrain(general={"text": ["general.txt"], "replay": 0.25}).facts
    assert facts["general"]["replay"] == 0.25
    assert facts["general"]["documents"] > 0 < facts["general"]["held_out"]
    assert set(facts["bits_per_byte_general"]) == {"before", "after", "change"}
    bits = facts["bits_per_base"]
    assert bits["after"] < bits["before"]
    change = bits["change"]
    assert change["value"] == pytest.approx(bits["after"] - bits["before"])
    assert change["low"] < change["value"] < change["high"]
    assert 1 < change["groups"] <= change["documents"]


def test_the_facts_say_how_rows_were_filled(pretrain: Callable[..., Artifact]) -> None:
    facts = pretrain().facts
    assert facts["objective"] == "masked"
    assert facts["packing"]["why_padded"] is None
    assert 0.8 < facts["packing"]["fill"] <= 1
    assert facts["rows_seen"] == 8
    assert pretrain(packed=False).facts["packing"]["why_padded"] == "packed is false"


def test_packed_and_padded_runs_have_one_training_curve(pretrain: Callable[..., Artifact], tiny_results: Path) -> None:
    curves = []
    for packed in (True, False):
        history = json.loads((pretrain(packed=packed).folder / "history.json").read_text())
        curves.append([point["loss_nats"] for point in history])
    assert curves[0][0] == pytest.approx(curves[1][0], rel=0.02)  # dropout draws differ; without it the losses are equal (test_language)


def test_how_it_is_run_is_no_part_of_the_key(pretrain: Callable[..., Artifact]) -> None:
    one = pretrain()
    same = pretrain(gradient_accumulation=2, checkpoint_steps=4, trackers=[])
    assert same.manifest.wall_seconds == one.manifest.wall_seconds, "up to date, not run again"
    assert pretrain(steps=5).manifest.key != one.manifest.key


def test_a_cut_run_whose_recipe_changed_is_refused_with_the_difference(
    pretrain: Callable[..., Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    import biollm.pretrain.stage as stage

    def cut(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, "load_trained", cut)  # training is over, the stage is not
    with pytest.raises(KeyboardInterrupt):
        pretrain()
    monkeypatch.undo()
    told = r"not go on from it: config\.learning_rate was 0\.0005, is 0\.001\. Put that back to go on, or remove"
    with pytest.raises(ArtifactError, match=told):
        pretrain(learning_rate=1e-3, checkpoint_steps=4)  # how often is no part of the key, and not named
    assert pretrain(checkpoint_steps=4).facts["steps"] == 4, "what is no part of the key may change"


def test_a_run_that_goes_on_neither_tokenises_nor_scores_the_start_again(
    pretrain: Callable[..., Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import biollm.pretrain.stage as stage

    def cut(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    def not_again(*_: Any, **__: Any) -> None:
        raise AssertionError("done before")

    expected = pretrain()
    shutil.rmtree(tmp_path / "results" / "pretrain")
    monkeypatch.setattr(stage, "train", cut)
    with pytest.raises(KeyboardInterrupt):
        pretrain()
    monkeypatch.undo()
    (documents,) = (tmp_path / "results" / ".pretrain.work").glob("*/documents/domain.arrow")
    with monkeypatch.context() as patched:
        patched.setattr(task, "store", not_again)
        patched.setattr(stage, "score_token_frequencies", not_again)
        assert pretrain().digest == expected.digest
    shutil.rmtree(tmp_path / "results" / "pretrain")
    monkeypatch.setattr(stage, "train", cut)
    with pytest.raises(KeyboardInterrupt):
        pretrain()
    monkeypatch.undo()
    with documents.open("r+b") as file:
        file.seek(1000)
        file.write(b"damaged")
    capsys.readouterr()
    assert pretrain().digest == expected.digest
    assert "domain.arrow is damaged, and made again" in capsys.readouterr().err


def test_memory_that_runs_out_while_documents_are_scored_is_told(
    pretrain: Callable[..., Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("biollm.pretrain.stage.score_language", full)
    with pytest.raises(DataError, match="pretrain, scores before: out of memory; nothing is lost: take a smaller model"):
        pretrain()


def test_nodes_that_no_file_names_are_refused_before_anything_is_read(
    pretrain: Callable[..., Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr("biollm.pretrain.stage.read_materials", None)
    with pytest.raises(ConfigError, match="nodes is 2, but no hostfile is named and this is no Slurm job; name a hostfile"):
        pretrain(nodes=2)


def test_an_empty_split_is_named(pretrain: Callable[..., Artifact], monkeypatch: pytest.MonkeyPatch) -> None:
    records = task.read_records
    monkeypatch.setattr(task, "read_records", lambda folder, split: records(folder, split).clear())
    with pytest.raises(DataError, match="no record in its train split"):
        pretrain()


def test_a_tokenizer_larger_than_the_model_is_refused(tiny_results: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_results / "merge", folder)
    base = tiny_results.parent / "base"
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(base / name, folder / name)
    with pytest.raises(ConfigError, match=r"its tokenizer has \d+ tokens, but the model \d+ rows; run expand"):
        task.make_module(folder, Encoder(folder), Config())


def test_general_documents_are_whole_lines_and_held_out_by_their_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n".join(f"line {i} {'x' * 90}" for i in range(100)))
    documents = read_documents([tmp_path / "a.txt", tmp_path / "a.txt"])
    assert "\n".join(documents.values()).split("\n") == [f"line {i} {'x' * 90}" for i in range(100)]
    assert all(len(text) <= 2100 for text in documents.values())
    rest, held_out = divide(documents, 0.3)
    assert rest.keys() | held_out.keys() == documents.keys()
    assert not rest.keys() & held_out.keys()
    assert divide(dict(reversed(documents.items())), 0.3)[1].keys() == held_out.keys()
    with pytest.raises(DataError, match="too few to hold some out"):
        divide({"one": "text"}, 0.5)


def test_other_operators_are_adapted_beside_and_change_nothing_of_the_chosen_one(pretrain: Callable[..., Artifact]) -> None:
    alone = load_file(str(pretrain(steps=2).folder / "model.safetensors"))
    artifact = pretrain(steps=2, compare_operators=["film", "cross_attention"])
    assert all(torch.equal(weights, alone[name]) for name, weights in load_file(str(artifact.folder / "model.safetensors")).items())
    for operator in ("film", "cross_attention"):
        model = load_model(artifact.folder / "operators" / operator)
        assert model.spec is not None
        assert model.spec.operator == operator
        assert artifact.facts["operators"][operator]["bits_per_base"] > 0
        assert model.operator is not None
        assert any(
            float(p.detach().abs().sum()) > 0 for name, p in model.operator.named_parameters() if "project" in name or "shift" in name
        )


def test_comparing_with_the_operator_that_is_chosen_anyway_is_refused(tiny_recipe: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"compare_operators is \['add'\], but the recipe fuses by 'add' anyway; name other operators"):
        Run.load(tiny_recipe(tmp_path, pretrain={"compare_operators": ["add"]}))


@pytest.mark.parametrize("setting", [{"weight": 0.5}, {"site_dropout": 0.2}, {"channel_dropout": 0.0}, {"hidden_fraction": 0.3}])
def test_what_a_model_does_with_tracks_is_refused_without_tracks(
    tiny_recipe: Callable[..., Path], tmp_path: Path, setting: dict[str, float]
) -> None:
    with pytest.raises(ConfigError, match=rf"pretrain.tracks.{next(iter(setting))} needs a model with tracks; add 'fusion' to expand"):
        Run.load(tiny_recipe(tmp_path, expand={"fusion": None}, pretrain={"tracks": setting}))
    Run.load(tiny_recipe(tmp_path, expand={"fusion": None}, pretrain={"tracks": {"weight": 0.0}}))
