"""What is asked of a document, by every objective; and that a batch says it right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from biollm.core.errors import ConfigError
from biollm.modeling.channels import FusionSpec
from biollm.modeling.corpus import read_records
from biollm.modeling.encoding import Encoder, by_length
from biollm.modeling.loading import load_config
from biollm.training.batches import pack_questions, pad_questions
from biollm.training.examples import Example, encode_corpus, encode_texts, with_end
from biollm.training.objectives import IGNORED, Objective, Question, make_objective
from biollm.training.tracks import TrackQuestion

SEEDS = st.integers(0, 10**6)
TEXT = "Abnormality of the TATA-binding protein in the cell, seen in two of three families with seizures."


@pytest.fixture(scope="session")
def dna(tiny_results: Path) -> tuple[Encoder, list[Example]]:
    encoder = Encoder(tiny_results / "expand")
    return encoder, encode_corpus(read_records(tiny_results / "ingest", "train").head(40), encoder, None)


@pytest.fixture(scope="session")
def make(model_folder: Callable[[str], Path]) -> Callable[..., tuple[Objective, Example]]:
    """make("decoder", "causal") -> the objective for the tiny model of an architecture, and a document of its tokenizer."""

    def for_architecture(architecture: str, name: str, **settings: float) -> tuple[Objective, Example]:
        folder = model_folder(architecture)
        encoder = Encoder(folder)
        return make_objective(name, encoder, load_config(folder), **settings), encode_texts([TEXT], encoder)[0]  # type: ignore[arg-type]

    return for_architecture


def asked(question: Question) -> np.ndarray:
    return question.labels != IGNORED


@given(SEEDS)
def test_a_mask_keeps_its_promises(dna: tuple[Encoder, list[Example]], seed: int) -> None:
    encoder, examples = dna
    example = examples[seed % len(examples)]
    before = example.ids.copy()
    question = Objective("masked", "encoder", encoder, mask_id=encoder.mask_id).ask(example, seed)
    chosen = asked(question)
    assert question.count == chosen.sum() == max(1, round(0.15 * (~example.special).sum()))
    assert not (chosen & example.special).any(), "special tokens are never predicted"
    assert (question.labels[chosen] == example.ids[chosen]).all(), "labels are the true ids"
    assert (question.ids[~chosen] == example.ids[~chosen]).all(), "what is not predicted is not changed"
    changed = question.ids[chosen & (question.ids != example.ids)]
    assert all(i == encoder.mask_id or i in example.pool for i in changed), "the mask or a token of the domain"
    assert (example.ids == before).all(), "what it was given stays"


def test_masks_are_eighty_ten_ten(dna: tuple[Encoder, list[Example]]) -> None:
    encoder, examples = dna
    first = examples[0].pool[0]
    long = Example(np.full(40_000, first), np.ones(40_000, dtype=np.int64), np.zeros(40_000, dtype=bool), examples[0].pool)
    question = Objective("masked", "encoder", encoder, mask_id=encoder.mask_id, rate=0.5).ask(long, 3)
    ids = question.ids[asked(question)]
    assert len(ids) == 20_000
    assert abs((ids == encoder.mask_id).mean() - 0.8) < 0.01
    assert abs((ids == first).mean() - 0.1 - 0.1 / len(long.pool)) < 0.01


def test_hidden_spans_have_the_mean_length_that_was_asked_for(dna: tuple[Encoder, list[Example]]) -> None:
    encoder, examples = dna
    long = Example(np.full(40_000, 50), np.ones(40_000, dtype=np.int64), np.zeros(40_000, dtype=bool), examples[0].pool)

    def mean_run(span: float) -> float:
        chosen = asked(Objective("masked", "encoder", encoder, mask_id=encoder.mask_id, rate=0.05, span=span).ask(long, 0))
        assert chosen.sum() == 2000
        return 2000 / ((np.diff(chosen.astype(int), prepend=0) == 1).sum())

    assert mean_run(1) < 1.1
    assert 3.5 < mean_run(4) < 4.7


@given(SEEDS)
def test_computed_tracks_never_tell_the_hidden_bases(tiny_results: Path, fusion_spec: Callable[..., FusionSpec], seed: int) -> None:
    encoder = Encoder(tiny_results / "expand")
    example = encode_corpus(read_records(tiny_results / "ingest", "train").head(1), encoder, fusion_spec("cpg"))[0]
    objective = Objective("masked", "encoder", encoder, mask_id=encoder.mask_id, rate=0.3)
    question = objective.ask(example, seed)
    hidden = np.repeat(asked(question), example.residues)
    other = "".join("CG"[i % 2] if h else base for i, (base, h) in enumerate(zip(example.sequence, hidden, strict=True)))
    same = objective.ask(replace(example, sequence=other), seed)
    assert question.tracks is not None
    assert same.tracks is not None
    assert (question.tracks.features == same.tracks.features).all()
    assert (question.tracks.features[asked(question)] == 0).all(), "not even how many bases a hidden token has"
    assert (question.tracks.features != 0).any()


@given(SEEDS)
def test_computed_tracks_never_tell_what_the_decoder_is_to_write(
    tiny_results: Path, fusion_spec: Callable[..., FusionSpec], seed: int
) -> None:
    encoder = Encoder(tiny_results / "expand")
    example = encode_corpus(read_records(tiny_results / "ingest", "train").head(1), encoder, fusion_spec("cpg"))[0]
    objective = Objective("prefix", "encoder-decoder", encoder, start_id=0)
    question = objective.ask(example, seed)
    read = len(question.ids) - 1  # the special token behind the body is read too
    unread = int(example.residues[:read].sum())
    other = (example.sequence[:unread] + "CG" * len(example.sequence))[: len(example.sequence)]
    same = objective.ask(replace(example, sequence=other), seed)
    assert question.tracks is not None
    assert same.tracks is not None
    np.testing.assert_array_equal(question.tracks.features, same.tracks.features)


def test_questions_follow_the_seed(dna: tuple[Encoder, list[Example]]) -> None:
    encoder, examples = dna
    objective = Objective("masked", "encoder", encoder, mask_id=encoder.mask_id)
    one, again, other = (objective.ask(examples[0], seed).labels for seed in (1, 1, 2))
    assert (one == again).all()
    assert not (one == other).all()


def test_causal_asks_for_every_next_token_and_the_end(make: Callable[..., tuple[Objective, Example]]) -> None:
    objective, example = make("decoder", "causal")
    question = objective.ask(example, 0)
    assert question.labels[:-1].tolist() == example.ids[1:].tolist()
    assert question.labels[-1] == IGNORED
    assert question.count == len(example.ids) - 1
    assert question.residues[:-1].tolist() == example.residues[1:].tolist(), "bytes of what is predicted"
    ended = objective.ask(with_end(example, 1), 0)
    assert ended.ids.tolist() == [*example.ids, 1]
    assert ended.labels[len(example.ids) - 1] == 1, "the end keeps its loss"
    assert ended.count == len(example.ids)
    assert [objective.learns_to_stop, make("decoder", "prefix")[0].learns_to_stop, make("encoder", "masked")[0].learns_to_stop] == [1, 1, 0]


@given(SEEDS)
def test_a_prefix_is_not_asked_for(make: Callable[..., tuple[Objective, Example]], seed: int) -> None:
    objective, example = make("decoder", "prefix")
    question = objective.ask(example, seed)
    assert question.prefix is not None
    assert 1 <= question.prefix < len(example.ids)
    assert asked(question).nonzero()[0].tolist() == list(range(question.prefix - 1, len(example.ids) - 1))


@given(SEEDS)
def test_corrupted_spans_and_their_answers_make_the_document_again(make: Callable[..., tuple[Objective, Example]], seed: int) -> None:
    objective, example = make("encoder-decoder", "span_corruption", rate=0.15, span=3.0)
    question = objective.ask(example, seed)
    assert question.decoder_ids is not None
    answers: dict[int, list[int]] = {}
    for i in map(int, question.labels):
        if i in objective.sentinels:
            answers[current := i] = []
        else:
            answers[current].append(i)
    rebuilt = [token for i in map(int, question.ids) for token in answers.get(i, [i])]
    assert rebuilt == example.ids.tolist()
    assert question.decoder_ids.tolist() == [objective.start_id, *question.labels[:-1]]
    assert question.residues.sum() == sum(
        int(r) for r, i in zip(question.residues, question.labels, strict=True) if i not in objective.sentinels
    )


@given(SEEDS)
def test_diffusion_weighs_a_document_by_what_it_hides(make: Callable[..., tuple[Objective, Example]], seed: int) -> None:
    objective, example = make("encoder", "diffusion")
    question = objective.ask(example, seed)
    assert question.weights is not None
    share = 1 / question.weights[0]
    assert 0.02 <= share <= 1
    assert (question.ids[asked(question)] == objective.mask_id).all()
    assert question.count == (~example.special).sum(), "the bound is of the whole document"
    assert abs(asked(question).sum() - share * question.count) <= 4 * np.sqrt(question.count)


@pytest.mark.parametrize(
    ("architecture", "name", "told"),
    [
        ("encoder", "causal", "learns masked or diffusion"),
        ("decoder", "masked", "the model is a decoder and learns causal or prefix or diffusion"),
        ("decoder", "diffusion", "the tokenizer has none"),
    ],
)
def test_what_a_model_cannot_learn_is_refused(make: Callable[..., object], architecture: str, name: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        make(architecture, name)


def test_a_mask_token_can_be_named(model_folder: Callable[[str], Path]) -> None:
    encoder = Encoder(model_folder("decoder"))
    config = load_config(model_folder("decoder"))
    objective = make_objective("diffusion", encoder, config, mask_token="<|im_start|>")
    assert objective.mask_id == encoder.tokenizer.token_to_id("<|im_start|>")
    assert objective.overrides_direction
    with pytest.raises(ConfigError, match="mask_token is '<nothing>', which is no token"):
        make_objective("diffusion", encoder, config, mask_token="<nothing>")


def _question(length: int, **more: object) -> Question:
    labels = np.arange(length)
    labels[-1] = IGNORED
    return Question(np.arange(length) + 100, labels, np.ones(length, dtype=np.int64), length - 1, **more)  # type: ignore[arg-type]


def test_a_packed_batch_holds_its_documents_by_length_and_nothing_else() -> None:
    features = [np.full((n, 3), n, dtype=np.float32) for n in (5, 2, 3)]
    batch = pack_questions([_question(n, tracks=TrackQuestion(f)) for n, f in zip((5, 2, 3), features, strict=True)], first_position=2)
    assert batch["lengths"].tolist() == [2, 3, 5]
    assert batch["position_ids"].tolist() == [[2, 3, 2, 3, 4, 2, 3, 4, 5, 6]]
    assert batch["input_ids"].tolist() == [[100, 101, 100, 101, 102, 100, 101, 102, 103, 104]]
    assert batch["labels"].tolist() == [[0, IGNORED, 0, 1, IGNORED, 0, 1, 2, 3, IGNORED]]
    assert batch["features"][0, :, 0].tolist() == [2, 2, 3, 3, 3, 5, 5, 5, 5, 5]
    assert int(batch["count"]) == 7
    assert "weights" not in batch


def test_weights_of_some_are_weights_of_all() -> None:
    batch = pack_questions([_question(2), _question(3, weights=np.full(3, 2.0, dtype=np.float32))])
    assert batch["weights"].tolist() == [[1, 1, 2, 2, 2]]


def test_labels_of_padding_do_not_count() -> None:
    batch = pad_questions([_question(9), _question(2)], pad_id=7)
    assert batch["input_ids"].shape == (2, 16)
    assert batch["attention_mask"].sum(1).tolist() == [9, 2]
    assert (batch["labels"][1, 1:] == IGNORED).all()
    assert (batch["input_ids"][1, 2:] == 7).all()


def test_a_padding_id_that_is_the_end_of_text_keeps_the_loss_of_real_ends() -> None:
    ended = Question(np.asarray([5, 6, 7]), np.asarray([6, 7, IGNORED]), np.ones(3, dtype=np.int64), 2)
    batch = pad_questions([ended, _question(9)], pad_id=7)
    assert (batch["labels"][0] != IGNORED).sum() == 2
    assert batch["attention_mask"][0].sum() == 3


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(50, 200))
def test_batches_by_length_hold_everything_once_within_the_budget(lengths: list[int], tokens: int) -> None:
    batches = list(by_length(lengths, tokens))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(len(batch) * max(lengths[i] for i in batch) <= tokens for batch in batches)
