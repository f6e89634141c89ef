"""Examples, their order and their masks: functions of the seed and the position alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from biollm.core.errors import DataError
from biollm.modeling.corpus import read_records
from biollm.modeling.encoding import Encoder
from biollm.modeling.fusion import FusionSpec
from biollm.modeling.tracks import TrackConfig
from biollm.training.examples import (
    IGNORED,
    Example,
    MaskedPlan,
    TrainingPlan,
    check_lengths,
    collate,
    encode_corpus,
    mask_tokens,
    require_mask_token,
)


@pytest.fixture(scope="session")
def encoder(tiny_results: Path) -> Encoder:
    return Encoder(tiny_results / "expand")


@pytest.fixture(scope="session")
def examples(tiny_results: Path, encoder: Encoder) -> list[Example]:
    return encode_corpus(read_records(tiny_results / "ingest", "train").head(40), encoder, None)


def _example(number: int) -> Example:
    return Example("", np.asarray([number]), np.asarray([1]), None)


@given(st.integers(1, 20), st.integers(0, 5), st.integers(0, 10**6))
def test_every_epoch_is_a_permutation_of_the_records(records: int, epochs: int, seed: int) -> None:
    plan = TrainingPlan([_example(i) for i in range(records)], records * epochs, seed)
    order = [int(plan[i].ids[0]) for i in range(len(plan))]
    assert all(sorted(order[e * records : (e + 1) * records]) == list(range(records)) for e in range(epochs))


@given(st.lists(st.integers(0, 59), max_size=30), st.integers(0, 10**6))
def test_the_order_is_a_function_of_seed_and_position_however_it_is_asked_for(positions: list[int], seed: int) -> None:
    examples = [_example(i) for i in range(7)]
    plan = TrainingPlan(examples, 60, seed)
    jumping = [int(plan[p].ids[0]) for p in positions]
    fresh = [int(TrainingPlan(examples, 60, seed)[p].ids[0]) for p in positions]
    assert jumping == fresh


def test_epochs_and_seeds_differ_in_their_order() -> None:
    examples = [_example(i) for i in range(50)]
    order = [int(TrainingPlan(examples, 100, 1)[i].ids[0]) for i in range(100)]
    other = [int(TrainingPlan(examples, 100, 2)[i].ids[0]) for i in range(100)]
    assert order[:50] != order[50:]
    assert order != other
    assert order[:50] != list(range(50))


@given(st.integers(0, 10**9))
def test_a_mask_keeps_its_promises(encoder: Encoder, examples: list[Example], seed: int) -> None:
    example = examples[seed % len(examples)]
    masked = mask_tokens(example, encoder, None, 0.15, seed)
    labels = np.asarray(masked.labels)
    predicted = labels != IGNORED
    real = example.residues > 0
    assert predicted.sum() == max(1, round(0.15 * real.sum()))
    assert not (predicted & ~real).any(), "special tokens are never predicted"
    assert (labels[predicted] == example.ids[predicted]).all(), "labels are the true ids"
    assert (masked.ids[~predicted] == example.ids[~predicted]).all(), "what is not predicted is not changed"
    changed = masked.ids[predicted & (masked.ids != example.ids)]
    assert all(i == encoder.mask_id or encoder.residues_by_id[i] > 0 for i in changed), "the mask or a token of the domain"
    assert (masked.residues == example.residues).all()


def test_masking_changes_nothing_that_it_was_given(encoder: Encoder, examples: list[Example]) -> None:
    before = examples[0].ids.copy()
    mask_tokens(examples[0], encoder, None, 0.9, 1)
    assert (examples[0].ids == before).all()
    assert examples[0].labels is None


def test_masks_are_eighty_ten_ten(encoder: Encoder) -> None:
    first = encoder.vocabulary.base_vocab_size if encoder.vocabulary else 0
    long = Example("", np.full(40_000, first), np.ones(40_000, dtype=np.int64), None)
    masked = mask_tokens(long, encoder, None, 0.5, 3)
    predicted = np.asarray(masked.labels) != IGNORED
    ids = masked.ids[predicted]
    kept, hidden = (ids == first).mean(), (ids == encoder.mask_id).mean()
    assert predicted.sum() == 20_000
    assert abs(hidden - 0.8) < 0.01
    assert abs(kept - 0.1) < 0.01


@given(st.integers(0, 10**6))
def test_computed_tracks_never_tell_the_hidden_bases(tiny_results: Path, encoder: Encoder, seed: int) -> None:
    track = TrackConfig(name="cpg", kind="cpg_observed_expected", window_bases=8)
    spec = FusionSpec(operator="add", channels=[track], mean=[0.5], scale=[1.0], hidden_size=32)
    records = read_records(tiny_results / "ingest", "train").head(1)
    plain = encode_corpus(records, encoder, None)[0]
    masked = mask_tokens(plain, encoder, spec, 0.3, seed)
    hidden = np.repeat(np.asarray(masked.labels) != IGNORED, plain.residues)
    other = "".join("CG"[i % 2] if h else base for i, (base, h) in enumerate(zip(plain.sequence, hidden, strict=True)))
    assert masked.features is not None
    assert (masked.features == mask_tokens(replace(plain, sequence=other), encoder, spec, 0.3, seed).features).all()
    assert (masked.features[np.asarray(masked.labels) != IGNORED] == 0).all(), "not even how many bases a hidden token has"
    assert (masked.features != 0).any()


def test_one_token_at_least_is_predicted(encoder: Encoder, examples: list[Example]) -> None:
    assert (np.asarray(mask_tokens(examples[0], encoder, None, 1e-9, 0).labels) != IGNORED).sum() == 1


def test_masks_follow_the_seed_and_the_position(encoder: Encoder, examples: list[Example]) -> None:
    plan, again, other = (MaskedPlan(examples[:1], 3, seed, encoder, None, 0.3) for seed in (1, 1, 2))
    assert all((plan[i].ids == again[i].ids).all() for i in (2, 0, 1))
    assert not (np.asarray(plan[0].labels) == np.asarray(plan[1].labels)).all(), "the same record, another epoch: another mask"
    assert not (np.asarray(plan[0].labels) == np.asarray(other[0].labels)).all()


def test_examples_follow_the_records_with_their_special_tokens_and_labels(tiny_results: Path, encoder: Encoder) -> None:
    records = read_records(tiny_results / "ingest", "validation").head(5)
    found = encode_corpus(records, encoder, None, "label_coding")
    for example, sequence, label in zip(found, records["sequence"], records["label_coding"], strict=True):
        assert encoder.tokenizer.decode(example.ids.tolist()) == sequence
        assert example.residues[[0, -1]].tolist() == [0, 0]
        assert example.residues.sum() == 64
        assert example.labels == label


def test_examples_of_a_fused_model_have_features_for_every_token(tiny_results: Path, encoder: Encoder) -> None:
    channel = TrackConfig(name="cpg", kind="cpg_observed_expected", window_bases=16)
    spec = FusionSpec(operator="add", channels=[channel], mean=[0.0], scale=[1.0], hidden_size=32)
    records = read_records(tiny_results / "ingest", "validation").head(5)
    for example, sequence in zip(encode_corpus(records, encoder, spec), records["sequence"], strict=True):
        assert example.features is not None
        assert example.features.shape == (len(example.ids), 3)
        assert not example.features[[0, -1]].any()
        # the tracks of the corpus are those that the model computes from the sequence on its own
        np.testing.assert_allclose(example.features, spec.features(spec.compute(sequence), example.residues), rtol=1e-6)


def test_a_record_longer_than_the_model_reads_is_refused_by_name(examples: list[Example]) -> None:
    check_lengths(examples[:2], ["a", "b"], max(len(e.ids) for e in examples[:2]))
    with pytest.raises(DataError, match=rf"record b has {len(examples[1].ids)} tokens, but the model reads 5.*nothing is cut in silence"):
        check_lengths([_example(1), examples[1]], ["a", "b"], 5)


def test_a_batch_is_padded_and_labels_of_padding_do_not_count(encoder: Encoder) -> None:
    rows = [Example("", np.arange(n), np.ones(n, dtype=np.int64), np.ones((n, 3), dtype=np.float32), np.arange(n)) for n in (9, 2)]
    batch = collate(rows, encoder)
    assert {name: tuple(t.shape) for name, t in batch.items()} == {
        "input_ids": (2, 16), "attention_mask": (2, 16), "features": (2, 16, 3), "labels": (2, 16), "predicted": (2, 16),
    }  # fmt: skip
    assert batch["attention_mask"].sum(1).tolist() == [9, 2]
    assert batch["predicted"].sum(1).tolist() == [9, 2]
    assert (batch["labels"][1, 2:] == IGNORED).all()
    assert not batch["features"][1, 2:].any()
    assert (batch["input_ids"][1, 2:] == encoder.pad_id).all()


def test_a_batch_of_class_labels_has_one_per_record(encoder: Encoder) -> None:
    batch = collate([Example("", np.arange(3), np.ones(3, dtype=np.int64), None, label) for label in (0, 1)], encoder)
    assert batch["labels"].tolist() == [0, 1]
    assert "predicted" not in batch
    assert "features" not in batch


def test_a_tokenizer_without_a_mask_token_is_refused(bert_base: Path, tmp_path: Path) -> None:
    require_mask_token(Encoder(bert_base))
    (tmp_path / "tokenizer.json").write_text((bert_base / "tokenizer.json").read_text().replace("[MASK]", "[HIDE]"))
    with pytest.raises(DataError, match=r"the tokenizer has no mask token \(\[MASK\] or <mask>\)"):
        require_mask_token(Encoder(tmp_path))
