"""The loss of a batch: the head only where it counts, packed or padded the same; and scores on held-out documents."""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from torch.nn import functional

from biollm.core.errors import ConfigError, DataError
from biollm.core.seeding import derive_seed
from biollm.modeling.corpus import read_records
from biollm.modeling.encoding import Encoder
from biollm.modeling.loading import load_config, load_model
from biollm.training import trainer
from biollm.training.batches import pad_questions
from biollm.training.config import TrainingConfig
from biollm.training.deepspeed import join_process_group
from biollm.training.examples import Example, divide_long, encode_corpus
from biollm.training.language import LanguageModel, score_language, score_token_frequencies, train_briefly
from biollm.training.objectives import AUTO_CLASSES, IGNORED, architecture_of, make_objective
from biollm.training.plans import RowPlan
from biollm.training.run import RunSettings
from biollm.training.task import Task

ARCHITECTURES = ["encoder", "decoder", "encoder-decoder"]
Made = tuple[LanguageModel, list[Example]]


@pytest.fixture
def make(model_folder: Callable[[str], Path], corpus: Path) -> Callable[..., Made]:
    """make("decoder", "auto", future_tokens=0) -> the module over the tiny model, and the corpus as its documents."""

    def for_architecture(architecture: str, name: str = "auto", **options: int) -> Made:
        folder = model_folder(architecture)
        encoder = Encoder(folder)
        objective = make_objective(name, encoder, load_config(folder), span=3.0 if architecture == "encoder-decoder" else 1.0)  # type: ignore[arg-type]
        examples = divide_long(encode_corpus(read_records(corpus).head(12), encoder, None), 64)
        return LanguageModel(load_model(folder, AUTO_CLASSES[architecture]).cpu(), objective, **options), examples

    return for_architecture


def full_head(module: LanguageModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The summed loss by the stock model's own head at every place of a padded batch."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "decoder_input_ids") if name in batch}
    logits = module.release()(**inputs).logits
    return functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), reduction="sum")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_loss_is_that_of_the_stock_model_on_a_padded_batch(make: Callable[..., Made], architecture: str) -> None:
    module, examples = make(architecture)
    module.eval()
    questions = [module.objective.ask(example, i) for i, example in enumerate(examples)]
    assert module.packed == (architecture != "encoder-decoder")
    with torch.no_grad():
        found = module(**module.collate(questions))
        wanted = full_head(module, pad_questions(questions, module.objective.encoder.pad_id or 0))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kind", ["OPT", "Bart"])
def test_a_decoder_past_its_base_model_has_its_own_loss(
    model_folder: Callable[[str], Path], corpus: Path, tmp_path: Path, kind: str
) -> None:
    """OPT's (Galactica's) and BART's models for causal language modelling do not call their `base_model`."""
    encoder = Encoder(model_folder("decoder"))
    size = {"hidden_size": 32, "d_model": 32, "num_hidden_layers": 2, "ffn_dim": 64, "decoder_ffn_dim": 64, "num_attention_heads": 4}
    more = {
        "decoder_layers": 2,
        "decoder_attention_heads": 4,
        "word_embed_proj_dim": 32,
        "pad_token_id": 0,
        "dropout": 0.0,
        "is_decoder": True,
    }
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=encoder.tokenizer.get_vocab_size(), max_position_embeddings=64, **size, **more
    )
    getattr(transformers, f"{kind}ForCausalLM")(config).save_pretrained(tmp_path)
    shutil.copyfile(model_folder("decoder") / "tokenizer.json", tmp_path / "tokenizer.json")
    objective = make_objective("causal", encoder, load_config(tmp_path))
    module = LanguageModel(load_model(tmp_path, "AutoModelForCausalLM").cpu(), objective).eval()
    examples = divide_long(encode_corpus(read_records(corpus).head(12), encoder, None), 48)
    questions = [objective.ask(example, i) for i, example in enumerate(examples)]
    with torch.no_grad():
        found = module(**module.collate(questions))
        wanted = full_head(module, pad_questions(questions, 0))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-4)


def test_a_head_that_cannot_be_thinned_is_refused(make: Callable[..., Made]) -> None:
    module, examples = make("decoder")
    for hook in module._hooks:
        hook.remove()
    with pytest.raises(ConfigError, match="LlamaForCausalLM: its output head does not read what its base model gives"):
        module(**module.collate([module.objective.ask(examples[0], 0)]))


def test_held_out_documents_whose_answers_stand_for_nothing_are_refused(make: Callable[..., Made]) -> None:
    module, examples = make("decoder")
    without = [replace(example, residues=np.zeros_like(example.residues)) for example in examples]
    with pytest.raises(DataError, match="held-out documents have one letter each"):
        score_language(module, without, 0, "test")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradients_are_those_of_the_stock_model(make: Callable[..., Made], architecture: str) -> None:
    module, examples = make(architecture)
    module.eval()  # dropout is no part of the question
    questions = [module.objective.ask(example, i) for i, example in enumerate(examples)]
    module(**module.collate(questions)).backward()
    found = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    module.zero_grad()
    full_head(module, pad_questions(questions, module.objective.encoder.pad_id or 0)).backward()
    for name, parameter in module.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-3, msg=name)


def test_a_released_model_reads_ordinary_batches_again(make: Callable[..., Made]) -> None:
    module, _ = make("encoder")
    logits = module.release()(input_ids=torch.ones(2, 7, dtype=torch.long), attention_mask=torch.ones(2, 7, dtype=torch.long)).logits
    assert logits.shape[:2] == (2, 7)


def test_fused_documents_have_their_features_in_a_packed_batch(tiny_results: Path) -> None:
    folder = tiny_results / "expand"
    encoder = Encoder(folder)
    model = load_model(folder, "AutoModelForMaskedLM").cpu()
    assert model.operator is not None
    torch.manual_seed(1)
    torch.nn.init.normal_(model.operator.operator.project.weight, std=1.0)
    module = LanguageModel(model, make_objective("auto", encoder, load_config(folder))).eval()
    examples = encode_corpus(read_records(tiny_results / "ingest", "validation").head(6), encoder, model.spec)
    questions = [module.objective.ask(example, i) for i, example in enumerate(examples)]
    with torch.no_grad():
        together = module(**module.collate(questions))
        alone = sum(module(**module.collate([question])) for question in questions)
        torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-4)
        without = module(**{name: tensor for name, tensor in module.collate(questions).items() if name != "features"})
    assert abs(float(without - together)) > 1e-3, "the tracks have an effect"


def test_tokens_further_on_are_asked_for_within_their_document(make: Callable[..., Made]) -> None:
    module, examples = make("decoder", future_tokens=2)
    module.eval()
    questions = [module.objective.ask(example, i) for i, example in enumerate(examples[:3])]
    batch = module.collate(questions)
    first, second = module._further_labels(batch["labels"])
    start = 0
    for question in sorted(questions, key=lambda q: len(q.ids)):
        end = start + len(question.ids)
        labels = batch["labels"][0, start:end].tolist()
        assert first[0, start:end].tolist() == [*labels[1:], IGNORED]
        assert second[0, start:end].tolist() == [*labels[2:], IGNORED, IGNORED]
        start = end
    plain = make("decoder")[0].eval()
    with torch.no_grad():
        # heads that are zero say the same as the next token's
        base = plain.nats(batch).sum()
        assert float(module(**batch)) > float(base)
        assert module.label_loss == pytest.approx(float(base), rel=1e-5), "the curve's, of the next token alone"
        assert module.nats(batch).sum() == pytest.approx(float(base), rel=1e-5), "scores count the next token alone"
    assert module.future is not None
    module(**batch).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in module.future.parameters())


@pytest.mark.parametrize("packed", [True, False])
def test_each_document_has_its_own_loss(make: Callable[..., Made], packed: bool) -> None:
    module, examples = make("decoder", packed=packed)
    examples = [replace(e, **{n: getattr(e, n)[: 9 + 7 * (i % 4)] for n in ("ids", "residues", "special")}) for i, e in enumerate(examples)]
    together = score_language(module, examples, 5, "test")
    alone = [score_language(module, [example], 5, "test").bits[0] for example in examples]
    np.testing.assert_allclose(together.bits, alone, rtol=1e-4)
    assert len(set(np.round(together.bits, 3))) > 6, "documents that differ"
    assert together.bits.sum() / together.units.sum() == pytest.approx(together.bits_per_base)


def test_a_bound_for_whole_documents_is_shared_out_over_all_their_residues(make: Callable[..., Made]) -> None:
    module, examples = make("encoder", "diffusion")
    questions = [module.objective.ask(example, i) for i, example in enumerate(examples)]
    assert int(module.collate(questions)["units"]) == sum(int(example.residues.sum()) for example in examples)


def test_a_score_is_the_mean_loss_per_token_and_per_byte(make: Callable[..., Made]) -> None:
    module, examples = make("decoder")
    score = score_language(module, examples, 5, "test")
    assert score == score_language(module, examples, 5, "test")
    stock = module.release()
    nats, units, tokens = 0.0, 0, 0
    for example in examples:  # one by one, by the full head
        ids = torch.from_numpy(example.ids)[None]
        with torch.no_grad():
            nats += float(functional.cross_entropy(stock(input_ids=ids).logits[0, :-1], ids[0, 1:], reduction="sum"))
        units, tokens = units + int(example.residues[1:].sum()), tokens + len(example.ids) - 1
    assert score.nats_per_token == pytest.approx(nats / tokens, rel=1e-5)
    assert score.bits_per_base == pytest.approx(nats / math.log(2) / units, rel=1e-5)


def test_the_frequency_baseline_predicts_by_counts_of_train_alone(tiny_results: Path) -> None:
    folder = tiny_results / "expand"
    encoder = Encoder(folder)
    objective = make_objective("auto", encoder, load_config(folder))
    pool = np.flatnonzero(encoder.residues_by_id > 0)

    def document(*places: int) -> Example:
        return Example(pool[list(places)], np.ones(len(places), dtype=np.int64), np.zeros(len(places), dtype=bool), pool)

    score = score_token_frequencies(objective, [document(0, 0, 0, 1)], [document(0), document(2)], 0)
    total = 4 + len(pool)
    assert score.nats_per_token == pytest.approx(-(np.log(4 / total) + np.log(1 / total)) / 2)


@pytest.mark.parametrize(("architecture", "name"), [("encoder-decoder", "auto"), ("encoder-decoder", "prefix"), ("encoder", "auto")])
def test_the_frequency_baseline_knows_sentinels_ends_and_unknown_tokens(make: Callable[..., Made], architecture: str, name: str) -> None:
    module, examples = make(architecture, name)
    if architecture == "encoder":
        unknown = module.objective.encoder.tokenizer.token_to_id("[UNK]")
        examples = [replace(e, ids=np.where(e.special, e.ids, unknown)) if i % 3 == 0 else e for i, e in enumerate(examples)]
    score = score_token_frequencies(module.objective, examples[:6], examples[6:], 0)
    assert score.nats_per_token < np.log(len(examples[0].pool)) + 1, "no worse than guessing"


def test_dropout_differs_between_processes(make: Callable[..., Made], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, examples = make("decoder")
    task = Task(module, RowPlan(module.objective, examples, 4, 0, 64), lambda rows: module.collate([q for row in rows for q in row]))
    config = TrainingConfig(steps=1, batch_size=4, learning_rate=1.0, precision="fp32", trackers=[])
    join_process_group()
    draws = []
    for rank in ("0", "1", "0"):
        monkeypatch.setenv("RANK", rank)
        try:
            trainer.make_trainer(task, config, RunSettings(0, "test"), tmp_path, tmp_path, None)
        finally:
            trainer.forget_deepspeed()
        draws.append(float(torch.rand(1)))
    assert draws[0] == draws[2] != draws[1]


def test_a_short_training_learns_and_repeats(make: Callable[..., Made]) -> None:
    losses = []
    for _ in range(2):
        module, examples = make("decoder")
        before = score_language(module, examples, 0, "test").nats_per_token
        train_briefly(module, examples, 20, derive_seed(1, "x"), "test")
        losses.append(score_language(module, examples, 0, "test").nats_per_token)
    assert losses[0] < before - 0.05
    assert losses[0] == losses[1]


def test_the_architecture_is_read_from_the_config(model_folder: Callable[[str], Path]) -> None:
    assert [architecture_of(load_config(model_folder(a))) for a in ARCHITECTURES] == ARCHITECTURES


OBJECTIVES = [
    ("encoder", "masked"), ("encoder", "diffusion"), ("decoder", "causal"), ("decoder", "prefix"),
    ("encoder-decoder", "span_corruption"), ("encoder-decoder", "prefix"),
]  # fmt: skip


@pytest.mark.parametrize(("architecture", "name"), OBJECTIVES)
def test_parts_of_a_step_add_up_to_the_whole_for_every_objective(make: Callable[..., Made], architecture: str, name: str) -> None:
    """Accumulated passes or processes: each part's sum over the count of all. Parts here differ in their counts."""
    options = {"future_tokens": 2} if name == "causal" else {}
    module, examples = make(architecture, name, **options)
    questions = [module.objective.ask(example, i) for i, example in enumerate(examples[:8])]
    gradients, losses = [], []
    for cuts in ([0, 8], [0, 1, 3, 6, 8]):
        batches = [module.collate(questions[a:b]) for a, b in itertools.pairwise(cuts)]
        count = sum(int(batch["count"]) for batch in batches)
        module.zero_grad()
        parts = [module(**batch) / count for batch in batches]
        for part in parts:
            part.backward()
        losses.append(float(sum(part.detach() for part in parts)))
        gradients.append({key: p.grad.clone() for key, p in module.named_parameters() if p.grad is not None})
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert gradients[0].keys() == gradients[1].keys() != set()
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], gradient, rtol=1e-3, atol=1e-6, msg=key)


def test_a_step_is_divided_by_what_all_its_parts_ask_and_never_by_zero(
    make: Callable[..., Made], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, examples = make("decoder")
    task = Task(module, RowPlan(module.objective, examples, 4, 0, 64), lambda rows: module.collate([q for row in rows for q in row]))
    config = TrainingConfig(steps=1, batch_size=4, learning_rate=1.0, gradient_accumulation=2, precision="fp32", trackers=[])
    join_process_group()
    try:
        made = trainer.make_trainer(task, config, RunSettings(0, "test"), tmp_path, tmp_path, None)
        parts = [{"count": torch.tensor(n)} for n in (3, 4)]
        divisor = made._get_num_items_in_batch
        assert int(divisor(parts, torch.device("cpu"))) == 7
        monkeypatch.setattr(trainer, "summed_over_processes", lambda own: own + 5)  # of another process
        assert int(divisor(parts, torch.device("cpu"))) == 12
        monkeypatch.undo()
        assert int(divisor([{"count": torch.tensor(0)}], torch.device("cpu"))) == 1
    finally:
        trainer.forget_deepspeed()
    meter = trainer.Meter()
    assert meter.read(with_label_loss=True)["label_loss"] == 0


def test_held_out_documents_without_anything_to_predict_are_named(make: Callable[..., Made]) -> None:
    module, examples = make("decoder")
    short = replace(examples[0], ids=examples[0].ids[:1], residues=examples[0].residues[:1], special=examples[0].special[:1], name="r7")
    with pytest.raises(DataError, match="held-out loss: the 2 held-out documents have one letter each, such as r7"):
        score_language(module, [short, short], 0, "held-out loss")


def test_a_loss_on_held_out_documents_that_is_no_number_is_refused(make: Callable[..., Made]) -> None:
    module, examples = make("decoder")
    with torch.no_grad():
        next(module.parameters()).fill_(float("nan"))
    with pytest.raises(DataError, match=r"held-out loss: the loss of document \S+ is nan; .*lower learning_rate"):
        score_language(module, examples, 0, "held-out loss")
