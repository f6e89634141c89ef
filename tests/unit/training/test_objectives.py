"""The masked objective: the head only where it counts, and a loss that does not depend on how a batch is cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from biollm.modeling.corpus import read_records
from biollm.modeling.encoding import Encoder
from biollm.modeling.fusion import FusedModel
from biollm.modeling.loading import load_model
from biollm.training.evaluate import score_masked, score_token_frequencies
from biollm.training.examples import IGNORED, Example, collate, encode_corpus, mask_tokens
from biollm.training.objectives import MaskedLanguageModel, cross_entropy


@pytest.fixture(scope="module")
def folder(tiny_results: Path) -> Path:
    return tiny_results / "expand"


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Encoder:
    return Encoder(folder)


@pytest.fixture
def model(folder: Path) -> FusedModel:
    fused = load_model(folder, "AutoModelForMaskedLM").cpu()
    assert fused.operator is not None
    torch.manual_seed(0)
    torch.nn.init.normal_(fused.operator.project.weight, std=0.1)
    return fused


@pytest.fixture
def masked(tiny_results: Path, encoder: Encoder, model: FusedModel) -> list[Example]:
    records = read_records(tiny_results / "ingest", "validation").head(8)
    assert model.spec is not None
    return [mask_tokens(e, encoder, model.spec, 0.05 + 0.05 * i, i) for i, e in enumerate(encode_corpus(records, encoder, model.spec))]


def test_logits_are_those_of_the_full_head_at_the_masked_positions(model: FusedModel, masked: list[Example], encoder: Encoder) -> None:
    batch = collate(masked, encoder)
    batch.pop("labels")
    predicted = batch.pop("predicted")
    with torch.no_grad():
        full = model(**batch).logits[predicted]
        thinned = MaskedLanguageModel(model)(predicted=predicted, **batch)["logits"]
        assert thinned.shape == full.shape == (int(predicted.sum()), encoder.tokenizer.get_vocab_size())
        torch.testing.assert_close(thinned, full, rtol=1e-5, atol=1e-5)
        assert model(**batch).logits.shape[:2] == batch["input_ids"].shape, "outside the objective the model is what it was"


def gradients(module: MaskedLanguageModel, batches: list[list[Example]], encoder: Encoder, count: Tensor) -> dict[str, Tensor]:
    module.zero_grad()
    for examples in batches:
        batch = collate(examples, encoder)
        labels = batch.pop("labels")
        cross_entropy(module(**batch), labels, count).backward()
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def test_eight_records_at_once_and_four_times_two_have_one_gradient(model: FusedModel, masked: list[Example], encoder: Encoder) -> None:
    module = MaskedLanguageModel(model).eval()  # eval: dropout is no part of the question
    count = torch.tensor(sum(int((np.asarray(e.labels) != IGNORED).sum()) for e in masked))
    together = gradients(module, [masked], encoder, count)
    apart = gradients(module, [masked[i : i + 2] for i in range(0, 8, 2)], encoder, count)
    assert together.keys() == apart.keys()
    assert any("project" in name for name in together)
    for name, gradient in together.items():
        torch.testing.assert_close(apart[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_the_loss_is_the_mean_over_counted_labels() -> None:
    logits, labels = torch.randn(3, 5), torch.tensor([[1, IGNORED, 4], [IGNORED, 0, IGNORED]])
    wanted = functional.cross_entropy(logits, torch.tensor([1, 4, 0]))
    assert torch.isclose(cross_entropy({"logits": logits}, labels), wanted)
    assert torch.isclose(cross_entropy({"logits": logits}, labels, 12), wanted * 3 / 12)
    assert cross_entropy({"logits": logits.bfloat16()}, labels).dtype == torch.float32


def test_a_masked_score_is_the_mean_loss_per_token_and_per_base(model: FusedModel, tiny_results: Path, encoder: Encoder) -> None:
    records = read_records(tiny_results / "ingest", "validation").head(40)  # more than one batch of the scorer
    examples = encode_corpus(records, encoder, model.spec)
    score = score_masked(MaskedLanguageModel(model), examples, encoder, 5, "test")
    again = score_masked(MaskedLanguageModel(model), examples, encoder, 5, "test")
    assert score == again
    losses, bases = [], 0
    from biollm.core.seeding import derive_seed

    for i, example in enumerate(examples):  # one by one, by the full head
        one = mask_tokens(example, encoder, model.spec, 0.15, derive_seed(5, "evaluation", i), masked=1.0, randomised=0.0)
        batch = collate([one], encoder)
        labels, predicted = batch.pop("labels"), batch.pop("predicted")
        with torch.no_grad():
            losses.append(functional.cross_entropy(model(**batch).logits[predicted], labels[predicted], reduction="none"))
        bases += int(one.residues[np.asarray(one.labels) != IGNORED].sum())
    nats = torch.cat(losses)
    assert score.nats_per_token == pytest.approx(float(nats.mean()), rel=1e-5)
    assert score.bits_per_base == pytest.approx(float(nats.sum()) / np.log(2) / bases, rel=1e-5)


def test_the_frequency_baseline_predicts_by_counts_of_train_alone(encoder: Encoder) -> None:
    domain = np.flatnonzero(encoder.residues_by_id > 0)
    train = [Example("", domain[[0, 0, 0, 1]], np.ones(4, dtype=np.int64), None)]
    probe = [Example("", domain[[0]], np.ones(1, dtype=np.int64), None), Example("", domain[[2]], np.ones(1, dtype=np.int64), None)]
    score = score_token_frequencies(train, probe, encoder, 0)
    total = 4 + len(domain)
    assert score.nats_per_token == pytest.approx(-(np.log(4 / total) + np.log(1 / total)) / 2)
