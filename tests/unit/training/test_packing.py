"""Rows of documents: full, complete, and in an order that depends on seed and epoch alone."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from biollm.training.packing import MixedOrder, PackedOrder, best_row_tokens, pack

lengths_and_room = st.integers(1, 200).flatmap(lambda room: st.tuples(st.lists(st.integers(1, room), max_size=80), st.just(room)))


@given(lengths_and_room)
def test_every_document_is_packed_once_and_no_row_overflows(case: tuple[list[int], int]) -> None:
    lengths, room = np.asarray(case[0], dtype=np.int64), case[1]
    rows = pack(lengths, room)
    assert sorted(rows.slots.tolist()) == list(range(len(lengths)))
    falling = np.sort(lengths)[::-1]
    sums = [falling[rows.slots[a:b]].sum() for a, b in zip(rows.starts, rows.starts[1:], strict=False)]
    assert all(0 < total <= room for total in sums)
    assert sum(sums) == lengths.sum()


@pytest.mark.parametrize(
    "lengths",
    [
        np.random.default_rng(0).integers(1, 2049, 5000),
        np.random.default_rng(1).normal(66, 4, 5000).round().astype(np.int64),  # windows of DNA
        np.minimum(np.random.default_rng(2).lognormal(4, 1, 5000).astype(np.int64) + 1, 2048),  # text
    ],
    ids=["even", "dna", "text"],
)
def test_rows_are_nearly_full(lengths: np.ndarray) -> None:
    rows = pack(lengths, 2048)
    assert lengths.sum() / (2048 * len(rows)) >= 0.99


def test_a_million_documents_are_packed_in_a_moment() -> None:
    pack(np.asarray([1, 2, 3]), 8)  # compiled
    lengths = np.random.default_rng(0).integers(1, 513, 10**6)
    started = time.perf_counter()
    rows = pack(lengths, 512)
    assert time.perf_counter() - started < 5  # 0.2 to 0.5 s; room for a busy machine
    assert len(rows.slots) == 10**6


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.integers(0, 1000), st.integers(0, 4))
def test_every_epoch_holds_every_document_once(lengths: list[int], seed: int, epoch: int) -> None:
    order = PackedOrder(np.asarray(lengths), 30, seed)
    seen = [order.row(epoch * order.rows_per_epoch + row) for row in range(order.rows_per_epoch)]
    assert {found for found, _ in seen} == {epoch}
    assert sorted(np.concatenate([documents for _, documents in seen]).tolist()) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in documents) <= 30 for _, documents in seen)


def test_a_row_is_the_same_however_it_is_asked_for_and_epochs_differ() -> None:
    lengths = np.random.default_rng(0).integers(5, 9, 300)
    one, other = PackedOrder(lengths, 64, 7), PackedOrder(lengths, 64, 7)
    forward = [one.row(position)[1].tolist() for position in range(3 * one.rows_per_epoch)]
    backward = [other.row(position)[1].tolist() for position in reversed(range(3 * one.rows_per_epoch))]
    assert forward == backward[::-1]
    epochs = [forward[e * one.rows_per_epoch : (e + 1) * one.rows_per_epoch] for e in range(3)]
    assert epochs[0] != epochs[1]
    assert forward != [PackedOrder(lengths, 64, 8).row(position)[1].tolist() for position in range(3 * one.rows_per_epoch)]
    assert {frozenset(row) for row in epochs[0]} != {frozenset(row) for row in epochs[1]}, "neighbours change too"


def test_equally_long_documents_are_neighbours() -> None:
    lengths = np.random.default_rng(0).integers(5, 9, 300)
    _, documents = PackedOrder(lengths, 64, 0).row(3)
    assert (np.diff(lengths[documents]) <= 0).all()


def test_general_text_is_mixed_in_by_its_share_and_goes_on_over_epochs() -> None:
    domain, general = PackedOrder(np.full(90, 10), 10, 0), PackedOrder(np.full(25, 10), 10, 1)
    mixed = MixedOrder(domain, general, 0.1, 0)
    assert mixed.rows_per_epoch == 100
    rows = [mixed.row(position) for position in range(300)]
    assert sum(is_general for is_general, _, _ in rows) == 30
    assert sorted(int(d[0]) for is_general, _, d in rows[:100] if not is_general) == list(range(90))
    replayed = [(epoch, int(d[0])) for is_general, epoch, d in rows if is_general]
    assert len(set(replayed)) == 30, "a document comes again only in the next epoch of the general text"
    positions = [position for position, row in enumerate(rows[:100]) if row[0]]
    assert max(positions) - min(positions) > 20, "not all in one place"


@pytest.mark.parametrize(("rows", "ratio"), [(1, 0.1), (2, 0.3), (4, 0.1), (7, 0.9), (90, 0.1)])
def test_a_share_of_few_rows_is_kept_over_epochs(rows: int, ratio: float) -> None:
    mixed = MixedOrder(PackedOrder(np.full(rows, 10), 10, 0), PackedOrder(np.full(25, 10), 10, 1), ratio, 0)
    seen = [mixed.row(position) for position in range(round(20 * mixed.rows_per_epoch))]
    assert sum(is_general for is_general, _, _ in seen) == pytest.approx(ratio * len(seen), abs=1)
    of_domain = [(epoch, int(d[0])) for is_general, epoch, d in seen if not is_general]
    assert sorted(of_domain) == [(epoch, i) for epoch in range(20) for i in range(rows)], "every epoch holds every document once"
    replayed = [(epoch, int(d[0])) for is_general, epoch, d in seen if is_general]
    assert len(set(replayed)) == len(replayed)


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        (np.full(1000, 258), 1032),
        (np.full(1000, 300), 900),
        (np.full(1000, 1024), 1024),
        (np.tile([600, 700], 500), 1300),
        (np.random.default_rng(0).integers(20, 513, 5000), 1024),
        (np.random.default_rng(0).normal(258, 3, 20_001).round().astype(np.int64), 1032),
        (np.full(39, 258), 1024),
        (np.zeros(0, dtype=np.int64), 1024),
    ],
    ids=["equal", "shorter rows", "full already", "two lengths", "many lengths", "alike", "few", "none"],
)
def test_rows_take_the_length_near_the_usual_one_that_documents_fill(lengths: np.ndarray, expected: int) -> None:
    assert best_row_tokens(lengths, 1024) == expected
    if lengths.sum() > 200 * 1024:
        assert PackedOrder(lengths, expected, 0).fill >= 0.99


def test_rows_have_room_for_other_documents_too() -> None:
    assert best_row_tokens(np.full(1000, 300), 1024, least=1000) == 1200
    assert best_row_tokens(np.full(1000, 1000), 1024, least=1024) == 1024, "not twice as long for two percent"


def test_parts_of_longer_documents_are_no_reason_for_another_length() -> None:
    assert best_row_tokens(np.tile([1024, 421], 500), 1024) == 1024
    assert best_row_tokens(np.tile([1000, 600], 500), 1024) == 1024, "no length near is clearly fuller"
