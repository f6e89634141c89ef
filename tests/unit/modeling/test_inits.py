from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biollm.core.errors import ConfigError, DataError
from biollm.modeling import inits
from biollm.modeling.inits import (
    INITS,
    Donor,
    FloatMatrix,
    InitName,
    NewTokens,
    Table,
    initialise,
    norm_bounds,
    row_weights,
    table_of,
)
from biollm.modeling.vocabulary import readable_texts
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

_LETTERS = "abcdefghij"
_BASE_TEXTS = ["", *(f" {a}{b}{c}" for a in _LETTERS for b in _LETTERS for c in "xyz"), *(f"{a}{b}" for a in _LETTERS for b in _LETTERS)]
_BASE = np.random.default_rng(0).normal(0.5, 0.5, (len(_BASE_TEXTS), 8)).astype(np.float32)
_TRAINING_FREE: list[InitName] = [name for name in INITS if name != "distill"]
_TOKENS = NewTokens(
    texts=[" abxcd", "GATTACA", "", " abx", "ÄÖÜ", " abxcd", "a"],
    pieces=[[1, 304], [5, 5, 6], [], [7], [8, 9], [1, 304], [400]],
    base_texts=_BASE_TEXTS,
)


def _make(name: InitName, tokens: NewTokens = _TOKENS, base: FloatMatrix = _BASE, seed: int = 1, donor: Donor | None = None) -> FloatMatrix:
    return initialise(name, base, tokens, np.random.default_rng(seed), donor)


def _tokens(texts: list[str], pieces: list[list[int]]) -> NewTokens:
    return NewTokens(texts, pieces, _BASE_TEXTS)


def _norms(rows: FloatMatrix) -> FloatMatrix:
    norms: FloatMatrix = np.linalg.norm(rows, axis=1)
    return norms


@pytest.mark.parametrize("name", _TRAINING_FREE)
def test_rows_are_finite_of_the_tables_width_and_of_norms_that_the_base_has(name: InitName) -> None:
    rows = _make(name)
    assert rows.shape == (len(_TOKENS.texts), 8)
    assert rows.dtype == np.float32
    assert np.isfinite(rows).all()
    low, high = np.percentile(_norms(_BASE), [1, 99])
    assert (_norms(rows) >= low).all()
    assert (_norms(rows) <= high).all()


@pytest.mark.parametrize("name", _TRAINING_FREE)
def test_rows_repeat_with_the_seed_and_the_table_stays_as_it_was(name: InitName) -> None:
    before = _BASE.copy()
    assert np.array_equal(_make(name), _make(name))
    assert np.array_equal(_BASE, before)


@pytest.mark.parametrize("name", _TRAINING_FREE)
def test_no_new_tokens_give_no_rows(name: InitName) -> None:
    assert _make(name, _tokens([], [])).shape == (0, 8)


@given(
    texts=st.lists(st.text(max_size=12), min_size=1, max_size=6),
    seed=st.integers(0, 2**32 - 1),
    name=st.sampled_from(_TRAINING_FREE),
)
@settings(max_examples=60, deadline=None)
def test_no_text_makes_an_initialiser_fail(texts: list[str], seed: int, name: InitName) -> None:
    pieces = [np.random.default_rng(seed + i).integers(0, len(_BASE), size=i % 3).tolist() for i in range(len(texts))]
    rows = _make(name, _tokens(texts, pieces), seed=seed)
    low, high = np.percentile(_norms(_BASE), [1, 99])
    assert np.isfinite(rows).all()
    assert (_norms(rows) >= low).all()
    assert (_norms(rows) <= high).all()


@pytest.mark.parametrize("name", ["mean", "neighbours", "mix", "weighted"])
def test_the_rows_of_many_tokens_do_not_depend_on_where_work_is_cut(name: InitName, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _make(name)
    monkeypatch.setattr(inits, "_SIMILARITY_ROWS", 2)
    assert np.array_equal(_make(name), whole)


@pytest.mark.parametrize("name", _TRAINING_FREE)
def test_a_table_that_is_read_in_blocks_gives_the_bits_of_one_in_memory(name: InitName, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inits, "_TABLE_ROWS", 64)
    asked: list[int] = []

    def read_rows(first: int, last: int) -> FloatMatrix:
        asked.append(last - first)
        return _BASE[first:last].copy()

    rows = initialise(name, Table(len(_BASE), 8, read_rows), _TOKENS, np.random.default_rng(1))
    assert np.array_equal(rows, _make(name))
    assert max(asked) <= 64


@pytest.mark.parametrize("name", ["mean", "neighbours", "mix", "weighted"])
def test_weights_sum_to_one_and_make_the_rows(name: InitName) -> None:
    weights = row_weights(name, _TOKENS)  # type: ignore[arg-type]
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)
    table = np.concatenate([_BASE, _BASE.mean(axis=0, keepdims=True)])
    by_hand, rows = weights.toarray() @ table, _make(name)
    cosines = (by_hand * rows).sum(axis=1) / _norms(by_hand) / _norms(rows)
    np.testing.assert_allclose(cosines, 1, rtol=1e-5)


def test_mean_is_the_mean_of_the_pieces() -> None:
    rows = _make("mean", _tokens(["q", "q"], [[1, 2, 2], [7]]))
    np.testing.assert_allclose(rows[0], (_BASE[1] + 2 * _BASE[2]) / 3, rtol=1e-5)
    assert np.array_equal(rows[1], _BASE[7])


@pytest.mark.parametrize("name", ["mean", "neighbours", "mix", "weighted"])
def test_a_token_with_nothing_to_go_by_gets_the_mean_of_the_base(name: InitName) -> None:
    row = _make(name, _tokens(["ÄÖÜ"], [[]]))[0]
    average = _BASE.mean(axis=0)
    np.testing.assert_allclose(row / np.linalg.norm(row), average / np.linalg.norm(average), rtol=1e-4)


def test_a_token_like_no_base_token_gets_the_mean_of_its_pieces_from_neighbours() -> None:
    tokens = _tokens(["ÄÖÜ"], [[3, 8]])
    assert np.array_equal(_make("neighbours", tokens), _make("mean", tokens))


def test_neighbours_finds_the_base_token_spelt_the_same_and_tells_tokens_of_equal_pieces_apart() -> None:
    rows = _make("neighbours", _tokens([" abx", " cdy"], [[0], [0]]))
    for row, text in zip(rows, (" abx", " cdy"), strict=True):
        cosines = _BASE @ row / _norms(_BASE)
        assert _BASE_TEXTS[int(np.argmax(cosines))] == text


def test_neighbours_folds_case_so_that_dna_finds_the_letters_of_an_uncased_base() -> None:
    assert np.array_equal(_make("neighbours", _tokens(["ABX"], [[0]])), _make("neighbours", _tokens(["abx"], [[0]])))


def test_mix_is_four_tenths_pieces_and_six_tenths_neighbours() -> None:
    expected = 0.4 * row_weights("mean", _TOKENS).toarray() + 0.6 * row_weights("neighbours", _TOKENS).toarray()
    np.testing.assert_allclose(row_weights("mix", _TOKENS).toarray(), expected, atol=1e-6)


def test_weighted_trusts_the_longer_and_more_similar_piece_more() -> None:
    tokens = _tokens([" abxcd"], [[_BASE_TEXTS.index(" abx"), _BASE_TEXTS.index("cd")]])
    weights = row_weights("weighted", tokens).toarray()[0]
    assert weights[_BASE_TEXTS.index(" abx")] > weights[_BASE_TEXTS.index("cd")] > 0


def test_weighted_weighs_pieces_that_look_like_nothing_by_their_length() -> None:
    weights = row_weights("weighted", _tokens(["ÄÖÜÄÖ"], [[1, 301]])).toarray()[0]
    scores = np.exp(np.array([3, 2]) / 5 / 2 / 0.3)
    assert [len(_BASE_TEXTS[i].strip()) for i in (1, 301)] == [3, 2]
    np.testing.assert_allclose(weights[[1, 301]], scores / scores.sum(), rtol=1e-5)


def test_normal_has_the_mean_and_spread_of_the_table_and_rows_that_differ() -> None:
    rows = _make("normal", _tokens([" abx"] * 3000, [[1]] * 3000))
    np.testing.assert_allclose(rows.mean(axis=0), _BASE.mean(axis=0), atol=0.05)
    np.testing.assert_allclose(np.cov(rows.T), np.cov(_BASE.T), atol=0.05)
    assert len(np.unique(rows, axis=0)) == 3000


def test_omp_carries_a_donors_row_over_in_the_bases_space() -> None:
    # the base's space is the donor's, rotated and cut differently: what is a sum of two rows there must be the same sum here
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(8, 8)))[0]
    row = 0.5 * _BASE[10] + 0.5 * _BASE[20]
    rows = np.concatenate([_BASE, row[None]]).astype(np.float64) @ turn
    donor = Donor(table_of(rows.astype(np.float32)), [*_BASE_TEXTS, " novel"])
    got = _make("omp", _tokens([" novel"], [[1]]), donor=donor)[0]
    np.testing.assert_allclose(got, row, atol=1e-3)


def test_omp_gives_tokens_that_the_donor_lacks_their_mix_row() -> None:
    donor = Donor(table_of(_BASE), _BASE_TEXTS)
    tokens = _tokens(["novel"], [[1]])
    assert np.array_equal(_make("omp", tokens, donor=donor), _make("mix", tokens))


def test_omp_refuses_a_donor_that_shares_nothing() -> None:
    with pytest.raises(ConfigError, match="no token in common"):
        _make("omp", donor=Donor(table_of(_BASE[:2]), ["中", "文"]))


def test_distill_without_a_teacher_says_what_is_missing() -> None:
    with pytest.raises(ConfigError, match=r"'distill'.*give texts, or take 'mix'"):
        _make("distill")


def test_a_broken_table_is_named_by_its_row() -> None:
    broken = _BASE.copy()
    broken[17, 3] = np.nan
    with pytest.raises(DataError, match="row 17"):
        _make("mean", base=broken)


@pytest.mark.parametrize("name", _TRAINING_FREE)
def test_pieces_that_cancel_out_still_give_a_row(name: InitName) -> None:
    base = np.concatenate([_BASE[:-1], -_BASE[1:2]])
    row = _make(name, _tokens(["ÄÖÜ"], [[1, len(base) - 1]]), base=base)[0]
    assert np.linalg.norm(row) >= np.percentile(_norms(base), 1)


@pytest.mark.parametrize("name", _TRAINING_FREE)
def test_a_base_of_single_letters_is_no_obstacle(name: InitName) -> None:
    base = _BASE[:5]
    tokens = NewTokens(["ACD", "E", ""], [[0, 1, 2], [3], []], list("ACDEF"))
    assert np.isfinite(initialise(name, base, tokens, np.random.default_rng(0))).all()


def test_bounds_leave_room_for_rounding() -> None:
    low, high = norm_bounds(np.linspace(1.0, 2.0, 101))
    assert 1.01 < low < 1.02
    assert 1.98 < high < 1.99
    assert norm_bounds(np.ones(5)) == (1.0, 1.0)


def test_texts_of_a_word_start_with_a_space_in_every_kind_of_tokenizer() -> None:
    wordpiece = Tokenizer(models.WordPiece({"[UNK]": 0, "gene": 1, "##tic": 2, "[unused3]": 3}, unk_token="[UNK]"))
    assert readable_texts(wordpiece) == ["", " gene", "tic", ""]
    bytes_bpe = Tokenizer(models.BPE({"Ġgene": 0, "tic": 1, "Ã©": 2, "<s>": 3}, []))
    bytes_bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_bpe.add_special_tokens(["<s>"])
    assert readable_texts(bytes_bpe) == [" gene", "tic", "é", ""]
    metaspace = Tokenizer(models.Unigram([("<unk>", 0.0), ("▁gene", -1.0), ("tic", -2.0), ("<0x41>", -3.0)], 0, True))
    metaspace.decoder = decoders.Metaspace()
    metaspace.add_special_tokens(["<unk>"])
    assert readable_texts(metaspace) == ["", " gene", "tic", ""]


def test_initialisers_without_a_teacher_need_no_torch() -> None:
    code = "import sys, biollm.modeling.inits; assert 'torch' not in sys.modules and 'sklearn' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
