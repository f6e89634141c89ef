"""Every task trained for real on tiny models: it learns what can be learnt, and says what it read."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from pydantic import ValidationError

from biollm.core.artifacts import Artifact, make_artifact
from biollm.core.errors import ConfigError, DataError
from biollm.core.files import read_json
from biollm.core.job import Job
from biollm.finetune.config import Config, MethodConfig
from biollm.finetune.conversations import AnswerModel, ChatTemplate, answer_losses, encode_conversations
from biollm.finetune.problem import read_materials
from biollm.finetune.stage import run
from biollm.finetune.task import build, make_model
from biollm.modeling.encoding import Encoder
from biollm.modeling.loading import load_model
from biollm.training.objectives import IGNORED
from biollm.training.run import RunSettings, Trained, train
from biollm.training.supervised import SupervisedModel, collate_labelled, outputs_of
from biollm.training.task import Recipe

KEYS, FILLER = ["cat", "tag", "protein"], ["the", "gene", "cell", "of", "and", "is", "in"]
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
FULL = {"name": "full", "steps": 120, "batch_size": 16, "learning_rate": 5e-3, "precision": "fp32", "trackers": []}


def words(number: int = 160) -> pl.DataFrame:
    """Short texts with one key word each, that decides everything about them."""
    rng = random.Random(4)
    rows = []
    for i in range(number):
        key, text = rng.randrange(3), rng.choices(FILLER, k=rng.randint(2, 6))
        place = rng.randrange(len(text) + 1)
        text.insert(place, KEYS[key])
        rows.append(
            {
                "id": f"r{i}",
                "sequence": " ".join(text),
                "split": ("train", "train", "train", "validation", "test")[i % 5],
                "label_key": KEYS[key],
                "label_cat": int(key == 0),
                "label_tag": int(key == 1) if i % 7 else None,
                "label_amount": 100.0 + 20.0 * key,
                "tags": json.dumps(["B-Key" if word in KEYS else "O" for word in text]),
                "covariate_other": rng.choice(["the protein", "the cell"]),
                "messages": json.dumps([{"role": "user", "content": " ".join(text)}, {"role": "assistant", "content": KEYS[key]}]),
            }
        )
    table = pl.DataFrame(rows)
    return table.with_columns(label_same=pl.col("covariate_other").str.contains("protein").cast(pl.Int64))


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory, base_tokenizer: Callable[[str], Any]) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("instructed") / "llama"
    tokenizer = base_tokenizer("smollm2")
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 128}
    end = tokenizer.token_to_id("<|im_end|>")
    config = LlamaConfig(vocab_size=tokenizer.get_vocab_size(), num_key_value_heads=2, pad_token_id=end, eos_token_id=end, **shape)
    LlamaForCausalLM(config).save_pretrained(str(folder))
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>", "chat_template": CHATML}))
    return folder


@dataclass(frozen=True)
class Ran:
    """A run of the stage."""

    facts: dict[str, Any]
    out: Path
    predictions: pl.DataFrame

    def score(self, name: str, split: str = "test", method: str = "full") -> float:
        return float(self.facts["methods"][method]["scores"][split][name])

    def trivial(self, name: str) -> float:
        return float(self.facts["baseline"]["scores"]["test"][name])


def artifact(folder: Path, stage: str, facts: dict[str, Any], fill: Callable[[Path], None]) -> Artifact:
    def both(out: Path, work: Path) -> dict[str, Any]:
        fill(out)
        return facts

    return make_artifact(folder / stage, stage=stage, key=stage * 8, config={}, seed=0, inputs={}, reproducibility="", fill=both)


@pytest.fixture
def stage(tmp_path: Path) -> Callable[..., Ran]:
    """stage(records, model, modality, task=…, …) -> the stage's run in a fresh folder."""

    def go(records: pl.DataFrame, model: Path, modality: str = "text", **config: Any) -> Ran:
        ingest = artifact(tmp_path, "ingest", {"modality": modality}, lambda out: records.write_parquet(out / "records.parquet"))
        pretrain = artifact(tmp_path, "pretrain", {}, lambda out: shutil.copytree(model, out, dirs_exist_ok=True) and None)
        settings = Config(**{"methods": [FULL]} | config)
        out = tmp_path / "finetune"
        out.mkdir()
        where = {"out": out, "work": tmp_path / "work", "logs": tmp_path / "logs", "recipe_folder": tmp_path, "base_model": ""}
        facts = run(Job(config=settings, seed=3, inputs={"ingest": ingest, "pretrain": pretrain}, **where))
        json.dumps(facts, allow_nan=False)
        return Ran(facts, out, pl.read_parquet(out / "predictions.parquet"))

    return go


def arguments(folder: Path, records: pl.DataFrame, model: Path, modality: str, **config: Any) -> dict[str, Any]:
    """What biollm.finetune.task:build is called with, over a corpus written into `folder`."""
    (folder / "corpus").mkdir(exist_ok=True)
    records.write_parquet(folder / "corpus" / "records.parquet")
    settings = Config(**{"methods": [FULL]} | config)
    where = {"corpus": str(folder / "corpus"), "model": str(model), "modality": modality, "seed": 3}
    return where | {"config": settings.model_dump(mode="json"), "method": settings.methods[0].name}


# --- each task ----------------------------------------------------------------------------------------------------------------------


def test_three_classes_are_learnt_and_named(stage: Callable[..., Ran], bert: Path) -> None:
    ran = stage(words(), bert, label="key", validate_steps=60)
    assert ran.score("accuracy") > 0.9 > 0.6 > ran.trivial("accuracy")
    assert ran.facts["classes"] == ["cat", "protein", "tag"]
    assert ran.facts["records"] == {"train": 96, "validation": 32, "test": 32}
    table = ran.predictions.join(words(), on="id", maintain_order="left")
    assert set(ran.predictions.columns) == {"id", "method", "predicted", "scores"}
    assert (table["predicted"] == table["label_key"]).mean() > 0.9
    assert np.allclose(np.array(table["scores"].to_list()).sum(axis=1), 1.0)
    stored = read_json(ran.out / "full" / "config.json")
    assert stored["id2label"] == {"0": "cat", "1": "protein", "2": "tag"}
    assert read_json(ran.out / "full" / "task.json") == {"task": "classification", "classes": ["cat", "protein", "tag"]}
    history = read_json(ran.out / "history.json")["full"]
    assert [point["step"] for point in history if "validation_loss" in point] == [60, 120]
    assert all({"loss_nats", "learning_rate"} <= set(point) for point in history)
    assert history[-1]["loss_nats"] < 0.5 * history[0]["loss_nats"]


def test_a_yes_no_label_of_a_fused_dna_model_gives_what_classify_reads(stage: Callable[..., Ran], tiny_results: Path) -> None:
    from biollm.classify.data import load_predictions

    records = pl.read_parquet(tiny_results / "ingest" / "records.parquet")
    methods = [{**FULL, "name": name, "steps": 4} for name in ("output_layer", "lora")]
    ran = stage(records, tiny_results / "expand", "dna", methods=methods)
    wanted = records.filter(pl.col("split").is_in(["validation", "test"]))["id"].to_list()
    scores = load_predictions(ran.out / "predictions.parquet", wanted)
    assert list(scores) == ["output_layer", "lora"]
    assert all(np.ptp(values) > 0 for values in scores.values())
    assert ran.facts["methods"]["lora"]["trainable_parameters"] < 0.5 * ran.facts["methods"]["lora"]["parameters"]
    assert ran.facts["classes"] == ["0", "1"]
    assert (ran.out / "lora" / "adapter_base.json").is_file()


def test_yes_no_labels_are_learnt_where_they_are_known(stage: Callable[..., Ran], bert: Path) -> None:
    ran = stage(words(), bert, task="multilabel", labels=["cat", "tag"])
    assert ran.score("macro_auroc") > 0.95
    assert ran.score("accuracy") > 0.9 > ran.trivial("accuracy")
    assert np.array(ran.predictions["scores"].to_list()).shape == (64, 2)


def test_values_are_given_back_in_their_units(stage: Callable[..., Ran], bert: Path) -> None:
    ran = stage(words(), bert, task="regression", label="amount")
    assert ran.score("rmse") < 0.5 * ran.trivial("rmse")
    assert ran.score("spearman") > 0.8
    assert 95 < float(ran.predictions["value"].mean()) < 145  # type: ignore[arg-type]
    told = read_json(ran.out / "full" / "task.json")
    train_split = words().filter(pl.col("split") == "train")["label_amount"]
    assert (told["mean"], told["scale"]) == (pytest.approx(train_split.mean()), pytest.approx(train_split.std(ddof=0)))


def test_words_are_tagged(stage: Callable[..., Ran], bert: Path) -> None:
    records = words().with_columns(pl.col("sequence").str.replace_all("gene", "genecat"))  # of several tokens, one of them a key
    ran = stage(records, bert, task="token_classification", label="tags", class_weights="balanced")
    assert ran.score("accuracy") > 0.95 > ran.trivial("accuracy")
    assert ran.facts["classes_of"] == "words"
    row = ran.predictions.join(records, on="id", maintain_order="left").row(0, named=True)
    assert len(row["predicted"]) == len(row["sequence"].split())


def test_bases_are_labelled_through_the_tokens_that_hold_them(stage: Callable[..., Ran], tiny_results: Path) -> None:
    records = pl.read_parquet(tiny_results / "ingest" / "records.parquet")
    cpg = records["sequence"].str.replace_all("CG", "II").str.replace_all("[^I]", "O")
    records = records.with_columns(label_island=cpg)
    ran = stage(records, tiny_results / "expand", "dna", task="token_classification", label="island", methods=[{**FULL, "steps": 30}])
    assert ran.facts["classes_of"] == "residues"
    lengths = ran.predictions.join(records, on="id", maintain_order="left").select(
        pl.col("predicted").list.len() == pl.col("sequence").str.len_chars()
    )
    assert lengths.to_series().all()
    assert ran.score("auroc") > 0.8


def test_the_second_of_a_pair_is_read(stage: Callable[..., Ran], bert: Path) -> None:
    ran = stage(words(), bert, task="pair_classification", label="same", pair="other")
    assert ran.score("accuracy") > 0.9 > ran.trivial("accuracy")
    assert ran.predictions.columns == ["id", "method", "score"]


def test_pairs_are_joined_as_the_tokenizer_joins_them(bert: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    told = arguments(tmp_path, words(), bert, "text", task="pair_classification", label="same", pair="other")
    materials = read_materials(Path(told["corpus"]), bert, "text", Config(**told["config"]))
    tokenizer = Tokenizer.from_file(str(bert / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    records = words().filter(pl.col("split") == "train")
    for row, example in zip(records.iter_rows(named=True), materials.examples["train"], strict=True):
        stock = tokenizer.encode(row["sequence"], row["covariate_other"])
        assert example.ids.tolist() == stock.ids
        assert example.type_ids.tolist() == stock.type_ids  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "options", "share"), [("full", {}, 0.5), ("lora", {}, 0.95), ("prompt_tuning", {"virtual_tokens": 4}, 1.0)]
)
def test_answers_are_learnt_and_cost_less_than_before(
    stage: Callable[..., Ran], llama: Path, name: str, options: dict[str, Any], share: float
) -> None:
    method = {**FULL, **options, "name": name, "steps": 30, "learning_rate": 2e-2}
    ran = stage(words(), llama, task="instruction", methods=[method])
    assert ran.score("nats_per_token", method=name) < share * ran.trivial("nats_per_token")
    assert ran.score("perplexity", method=name) == pytest.approx(np.exp(ran.score("nats_per_token", method=name)))
    assert set(ran.predictions.columns) == {"id", "method", "nats", "tokens", "bytes"}
    test = ran.predictions.filter(pl.col("id").is_in(words().filter(pl.col("split") == "test")["id"].implode()))
    assert test["nats"].sum() / test["tokens"].sum() == pytest.approx(ran.score("nats_per_token", method=name))
    assert set(ran.predictions["bytes"]) == {len(key) for key in KEYS}, "the signs of the template hold no byte"
    load_model(ran.out / name, **({} if name != "full" else {"kind": "AutoModelForCausalLM"}))


# --- conversations ------------------------------------------------------------------------------------------------------------------


def test_the_loss_is_on_every_answer_and_its_end_and_nothing_else(llama: Path) -> None:
    encoder = Encoder(llama)
    turns = [("system", "Be brief."), ("user", "A naïve question?"), ("assistant", "Yes."), ("user", "Why?"), ("assistant", "µ-opioid.")]
    records = pl.DataFrame({"id": ["c"], "messages": [json.dumps([{"role": r, "content": c} for r, c in turns])]})
    (found,) = encode_conversations(records, encoder, ChatTemplate(llama))
    text = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)
    assert encoder.tokenizer.decode(found.ids.tolist(), skip_special_tokens=False) == text
    asked = np.split(found.ids[found.answers], np.flatnonzero(np.diff(np.flatnonzero(found.answers)) > 1) + 1)
    told = [encoder.tokenizer.decode(part.tolist(), skip_special_tokens=False) for part in asked]
    assert told == ["Yes.<|im_end|>", "µ-opioid.<|im_end|>"]
    assert int(found.residues[found.answers].sum()) == len("Yes.µ-opioid.".encode())


def test_the_loss_of_answers_is_that_of_the_stock_model(llama: Path, tmp_path: Path) -> None:
    told = arguments(tmp_path, words(), llama, "text", task="instruction")
    materials = read_materials(Path(told["corpus"]), llama, "text", Config(**told["config"]))
    conversations = materials.examples["validation"]
    found = answer_losses(AnswerModel(load_model(llama, "AutoModelForCausalLM"), materials.encoder), conversations)  # type: ignore[arg-type]
    stock = load_model(llama, "AutoModelForCausalLM").stock
    for conversation, loss in zip(conversations, found, strict=True):
        labels = np.where(conversation.answers, conversation.ids, IGNORED)  # type: ignore[attr-defined]
        with torch.no_grad():
            alone = stock(input_ids=torch.from_numpy(conversation.ids)[None], labels=torch.from_numpy(labels)[None]).loss
        assert loss.nats / loss.tokens == pytest.approx(float(alone), rel=1e-4)


def test_a_base_without_a_template_gets_a_plain_one_that_is_stored(llama: Path, stage: Callable[..., Ran], tmp_path: Path) -> None:
    base = Path(shutil.copytree(llama, tmp_path / "base"))
    (base / "tokenizer_config.json").write_text('{"eos_token": "<|im_end|>"}')
    text, spans = ChatTemplate(base).write([{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}], "r")
    assert text == "### Question\nQ\n### Answer\nA<|im_end|>\n"
    assert [text[a:b] for a, b in spans] == ["A<|im_end|>"]
    ran = stage(words(), base, task="instruction", methods=[{**FULL, "steps": 2}])
    assert "### Answer" in (ran.out / "full" / "chat_template.jinja").read_text()


# --- the training path --------------------------------------------------------------------------------------------------------------

TASKS: dict[str, dict[str, Any]] = {
    "classification": {"label": "key", "class_weights": "balanced"},
    "multilabel": {"labels": ["cat", "tag"]},
    "regression": {"label": "amount"},
    "token_classification": {"label": "tags"},
    "pair_classification": {"label": "same", "pair": "other"},
    "instruction": {},
}


def asked_of(folder: Path, told: dict[str, Any], settings: RunSettings) -> tuple[Recipe, MethodConfig, RunSettings, Path]:
    return Recipe("biollm.finetune.task:build", told), Config(**told["config"]).methods[0], settings, folder / "work"


def trained(folder: Path, told: dict[str, Any], settings: RunSettings | None = None) -> Trained:
    *asked, work = asked_of(folder, told, settings or RunSettings(3, "test"))
    return train(*asked, work=work, logs=folder / "logs")


@pytest.mark.parametrize("task", TASKS)
def test_accumulated_passes_change_nothing(bert: Path, llama: Path, tmp_path: Path, task: str) -> None:
    model = llama if task == "instruction" else bert
    runs = []
    for passes in (1, 4):
        method = {**FULL, "steps": 2, "log_steps": 1, "gradient_accumulation": passes}
        told = arguments(tmp_path, words(), model, "text", task=task, methods=[method], **TASKS[task])
        runs.append(trained(tmp_path / str(passes), told))
    one, four = ([point["loss_nats"] for point in ran.history] for ran in runs)
    assert one == pytest.approx(four, rel=1e-5)
    build_once = build(**arguments(tmp_path, words(), model, "text", task=task, **TASKS[task]))
    gradients = []
    for parts in ([slice(0, 16)], [slice(i, i + 4) for i in range(0, 16, 4)]):
        items = [build_once.plan[i] for i in range(16)]
        batches = [build_once.collate(items[part]) for part in parts]
        build_once.module.zero_grad()
        whole = sum(int(batch["count"]) for batch in batches)
        for batch in batches:
            (build_once.module(**batch) / whole).backward()
        gradients.append({name: p.grad.clone() for name, p in build_once.module.named_parameters() if p.grad is not None})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-6, msg=name)


def test_a_run_that_goes_on_from_a_checkpoint_ends_as_if_it_had_never_stopped(bert: Path, tmp_path: Path) -> None:
    method = {**FULL, "name": "lora", "steps": 6, "log_steps": 1, "checkpoint_steps": 2}
    told = arguments(tmp_path, words(), bert, "text", label="key", methods=[method])
    settings = RunSettings(3, "test", validate_steps=2, patience=3)
    whole = trained(tmp_path / "a", told, settings)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    shutil.rmtree(tmp_path / "b" / "work" / "trained")
    shutil.rmtree(tmp_path / "b" / "work" / "checkpoint-6")
    again = trained(tmp_path / "b", told, settings)
    assert (again.history, again.validation, again.step) == (whole.history, whole.validation, whole.step)
    assert all(torch.equal(again.weights[name], tensor) for name, tensor in whole.weights.items())


@pytest.mark.slow
def test_two_processes_give_what_one_gives(bert: Path, llama: Path, tmp_path: Path, fit_by_two_processes: Callable[..., None]) -> None:
    told: dict[tuple[str, int], dict[str, Any]] = {}
    for task, name, zero, model in (("token_classification", "lora", 2, bert), ("instruction", "full", 3, llama)):
        for processes in (1, 2):
            several = {"processes": processes, "zero": zero if processes > 1 else 0}
            method = {**FULL, "name": name, "steps": 4, "log_steps": 1, "checkpoint_steps": 2, **several}
            told[task, processes] = arguments(tmp_path, words(), model, "text", task=task, methods=[method], **TASKS[task])
    settings = RunSettings(3, "test", validate_steps=2, patience=2)
    works = {key: tmp_path / "_".join(map(str, key)) for key in told}
    asked = [asked_of(works[key], told[key], settings) for key in told if key[1] == 2]
    fit_by_two_processes(asked)
    for task in ("token_classification", "instruction"):
        one, two = (trained(works[task, processes], told[task, processes], settings) for processes in (1, 2))
        assert [p["loss_nats"] for p in two.history] == pytest.approx([p["loss_nats"] for p in one.history], rel=1e-4), task
        assert [p["loss"] for p in two.validation] == pytest.approx([p["loss"] for p in one.validation], rel=1e-4), task
        assert two.step == one.step, task


def test_training_ends_early_and_the_best_weights_are_kept(stage: Callable[..., Ran], bert: Path) -> None:
    records = words(40).with_columns(
        label_luck=pl.Series([random.Random(i).randint(0, 1) for i in range(40)])
    )  # only to be learnt by heart
    ran = stage(
        records, bert, label="luck", validate_steps=2, patience=2, methods=[{**FULL, "steps": 60, "checkpoint_steps": 50, "log_steps": 2}]
    )
    history = read_json(ran.out / "history.json")["full"]
    losses = {point["step"]: point["validation_loss"] for point in history if "validation_loss" in point}
    best = min(losses, key=losses.__getitem__)
    assert ran.facts["methods"]["full"]["weights_of_step"] == best
    assert max(losses) == best + 4 < 60


def test_weights_and_padding_count_as_told(bert: Path, tmp_path: Path) -> None:
    told = arguments(tmp_path, words(), bert, "text", label="key", classes=KEYS, class_weights="balanced")
    config = Config(**told["config"])
    materials = read_materials(Path(told["corpus"]), bert, "text", config)
    assert materials.problem.names == KEYS
    _, module = make_model(materials, bert, config.methods[0], 3)
    assert isinstance(module, SupervisedModel)
    module.eval()
    examples = materials.examples["train"][:6]
    whole = float(module(**collate_labelled(examples, materials.pad_id)).detach())  # type: ignore[arg-type]
    alone = sum(float(module(**collate_labelled([e], materials.pad_id)).detach()) for e in examples)  # type: ignore[list-item]
    assert whole == pytest.approx(alone, rel=1e-5)
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    assert materials.problem.weights is not None
    by_hand = sum(
        -float(materials.problem.weights[k]) * float(row.log_softmax(0)[k]) for row, k in zip(logits, labels.tolist(), strict=True)
    )
    assert float(module.loss(logits, labels)) == pytest.approx(by_hand, rel=1e-5)


def test_labels_that_are_not_known_cost_nothing_and_weights_count(bert: Path) -> None:
    weights = np.array([[0.5, 1.0], [2.0, 1.0]], dtype=np.float32)  # no, yes
    module = SupervisedModel(load_model(bert, "AutoModelForSequenceClassification"), "labels", weights)
    logits = torch.tensor([[0.3, -1.0], [2.0, 0.5]])
    answers = torch.tensor([[1.0, float("nan")], [0.0, 1.0]])
    by_hand = 2.0 * np.log1p(np.exp(-0.3)) + 0.5 * np.log1p(np.exp(2.0)) + 1.0 * np.log1p(np.exp(-0.5))
    assert float(module.loss(logits, answers)) == pytest.approx(by_hand, rel=1e-6)


def test_a_decoder_is_padded_with_a_token_that_ends_no_record(llama: Path, tmp_path: Path) -> None:
    """Padding and end of text are one token of this base, and in the second case its tokenizer ends every text with it."""
    from tokenizers import Tokenizer, processors

    ending = Path(shutil.copytree(llama, tmp_path / "ending"))
    tokenizer = Tokenizer.from_file(str(ending / "tokenizer.json"))
    end = tokenizer.token_to_id("<|im_end|>")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <|im_end|>", special_tokens=[("<|im_end|>", end)])
    tokenizer.save(str(ending / "tokenizer.json"))
    for model, is_kept in ((llama, True), (ending, False)):
        told = arguments(tmp_path, words(), model, "text", label="key")
        config = Config(**told["config"])
        materials = read_materials(Path(told["corpus"]), model, "text", config)
        assert (materials.pad_id == end) == is_kept
        adapted, module = make_model(materials, model, config.methods[0], 3)
        assert adapted.stock.config.pad_token_id == materials.pad_id  # type: ignore[union-attr]
        assert isinstance(module, SupervisedModel)
        some = sorted(materials.examples["train"][:8], key=lambda e: len(e.ids))  # type: ignore[arg-type, return-value]
        together = outputs_of(module, some, materials.pad_id)  # type: ignore[arg-type]
        alone = [outputs_of(module, [example], materials.pad_id)[0] for example in some]  # type: ignore[list-item]
        assert np.allclose(together, alone, atol=1e-5)


# --- bad input ----------------------------------------------------------------------------------------------------------------------


VALUES: dict[str, Any] = {"task": "regression", "label": "amount"}
TAGS: dict[str, Any] = {"task": "token_classification", "label": "tags"}
PAIR: dict[str, Any] = {"task": "pair_classification", "label": "same", "pair": "other"}


def _same(table: pl.DataFrame) -> pl.DataFrame:
    return table


def _with(**columns: Any) -> Callable[[pl.DataFrame], pl.DataFrame]:
    return lambda table: table.with_columns(**columns)


def _without_validation(table: pl.DataFrame) -> pl.DataFrame:
    return table.filter(pl.col("split") != "validation")


def _with_nan(table: pl.DataFrame) -> pl.DataFrame:
    return table.with_columns(label_amount=pl.when(pl.col("id") == "r7").then(float("nan")).otherwise(pl.col("label_amount")))


def _blank_test(table: pl.DataFrame) -> pl.DataFrame:
    blank = pl.col("tags").map_elements(lambda tags: json.dumps([None] * len(json.loads(tags))), return_dtype=pl.String)
    return table.with_columns(tags=pl.when(pl.col("split") == "test").then(blank).otherwise(pl.col("tags")))


def _without_second(table: pl.DataFrame) -> pl.DataFrame:
    return table.with_columns(covariate_other=pl.when(pl.col("id") == "r3").then(None).otherwise(pl.col("covariate_other")))


@pytest.mark.parametrize(
    ("change", "config", "message"),
    [
        (_without_validation, {"label": "key"}, "no record of the validation split has a value in label_key"),
        (_same, {"label": "key", "classes": ["cat", "dog"]}, r"records have '(protein|tag)' in label_key \(.*\); expected one of cat, dog"),
        (_same, {"label": "age"}, "the corpus has no label 'age'; it has key, cat, tag, amount, same, tags"),
        (_with(label_key=pl.lit("cat")), {"label": "key"}, "the train split holds only 'cat' of the classes cat; expected two or more"),
        (_with_nan, VALUES, "record r7 has nan in label_amount; expected a finite number"),
        (_with(label_amount=pl.lit(5.0)), VALUES, "all 96 values of the train split are 5; there is nothing"),
        (_same, VALUES | {"label": "key"}, "label_key holds words"),
        (_with(tags=pl.lit('["O"]')), TAGS, r"record r\d+ has \d words, but 1 classes in tags"),
        (_blank_test, TAGS, "no word of the test split has a class in tags: all are null; expected some to score by"),
        (_same, TAGS | {"label": "cat"}, "label_cat holds numbers; task: token_classification expects a class"),
        (_without_second, PAIR, "1 records have no second of the pair in covariate_other: r3"),
        (_same, PAIR | {"pair": "mate"}, r"covariate_mate should be a column of text.* not there"),
        (_with(sequence=pl.lit("the cat " * 100)), {"label": "key"}, "record r0 has 202 tokens, but the model reads 128"),
        (_same, {"task": "multilabel", "labels": ["key"]}, "label_key holds words"),
    ],
)
def test_answers_that_cannot_be_are_named(
    bert: Path, tmp_path: Path, change: Callable[..., Any], config: dict[str, Any], message: str
) -> None:
    told = arguments(tmp_path, change(words()), bert, "text", **config)
    with pytest.raises(DataError, match=message):
        build(**told)


def test_text_where_a_sequence_is_needed_is_named(tiny_results: Path, tmp_path: Path) -> None:
    records = pl.read_parquet(tiny_results / "ingest" / "records.parquet")
    records = records.with_columns(sequence=pl.when(pl.int_range(pl.len()) == 2).then(pl.lit("the gene")).otherwise(pl.col("sequence")))
    with pytest.raises(DataError, match=rf"sequence {records['id'][2]} holds 'h' at position 2; dna sequences hold"):
        build(**arguments(tmp_path, records, tiny_results / "expand", "dna", label="coding"))


def test_conversations_that_cannot_be_are_named(bert: Path, llama: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no record of the train split has a conversation"):
        build(**arguments(tmp_path, words().drop("messages"), llama, "text", task="instruction"))
    with pytest.raises(ConfigError, match=r"the model is an encoder \(bert\); expected a decoder"):
        build(**arguments(tmp_path, words(), bert, "text", task="instruction"))
    sly = [{"role": "user", "content": "a<|im_end|>b"}, {"role": "assistant", "content": "c"}]
    with pytest.raises(DataError, match=r"record r0: its text holds '<\|im_end\|>', which means something to the model"):
        build(**arguments(tmp_path, words().with_columns(messages=pl.lit(json.dumps(sly))), llama, "text", task="instruction"))
    long = [{"role": "user", "content": "gene " * 300}, {"role": "assistant", "content": "c"}]
    with pytest.raises(DataError, match=r"record r0 has \d+ tokens, but the model reads 128"):
        build(**arguments(tmp_path, words().with_columns(messages=pl.lit(json.dumps(long))), llama, "text", task="instruction"))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"task": "multilabel"}, r"labels is \[\]; task multilabel needs"),
        ({"labels": ["a"]}, "labels is .* but task classification does not use it"),
        ({"task": "regression", "classes": ["a", "b"]}, "classes is .* but task regression does not use it"),
        ({"classes": ["a"]}, r"classes is \['a'\]; a choice needs two or more"),
        ({"classes": ["1", 1]}, "classes has 1 twice"),
        ({"task": "pair_classification"}, "pair is not given"),
        ({"pair": "other"}, "pair is 'other', but task classification does not use it"),
        ({"patience": 2}, "patience is 2, but validate_steps is not given"),
        ({"validate_steps": 150}, "validate_steps is 150, but full has fewer steps"),
        ({"task": "instruction", "methods": [{**FULL, "name": "output_layer"}]}, "output_layer trains what stands on top of a classifier"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Config(**{"methods": [FULL]} | config)


@pytest.mark.parametrize(
    ("finetune", "message"),
    [
        ({"label": "exon"}, "finetune's label is 'exon', but ingest makes .'coding'."),
        ({"task": "pair_classification", "pair": "other"}, r"finetune.pair is 'other', but ingest keeps the covariates \[\]"),
        ({"task": "regression"}, "finetune.task is regression, whose predictions classify cannot set beside its own"),
        ({"label": "exon"}, "finetune.label is 'exon', but classify.label is 'coding'; classify scores both on one label"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(tmp_path: Path, tiny_recipe: Callable[..., Path], finetune: dict, message: str) -> None:
    from biollm.stages import Run

    with pytest.raises(ConfigError, match=message):
        Run.load(tiny_recipe(tmp_path, finetune={"methods": [FULL]} | finetune, classify={}))
