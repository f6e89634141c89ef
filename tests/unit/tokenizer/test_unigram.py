from __future__ import annotations

import itertools
import math
import random

import pytest

from biollm.modeling.domain import SCORE_STEP
from biollm.tokenizer.unigram import best_without, learn_pieces, prune
from tokenizers import Tokenizer, models


def test_the_best_segmentation_without_a_piece_is_the_best_of_all() -> None:
    rng = random.Random(0)
    pieces = {"".join(p) for n in (1, 2, 3) for p in itertools.product("ab", repeat=n)} | {"abab"}
    scores = {piece: -rng.random() * 4 for piece in sorted(pieces)}

    def slow(piece: str) -> float:
        cuts = itertools.chain.from_iterable(itertools.combinations(range(1, len(piece)), n) for n in range(1, len(piece)))
        parts = [[piece[i:j] for i, j in itertools.pairwise((0, *cut, len(piece)))] for cut in cuts]
        return max((sum(scores.get(p, -math.inf) for p in some) for some in parts), default=-math.inf)

    for piece in scores:
        assert best_without(piece, scores) == pytest.approx(slow(piece))


def test_pruning_keeps_letters_and_what_costs_most_and_breaks_ties_by_the_piece() -> None:
    scores = {"a": -1.0, "b": -9.0, "ab": -1.0, "ba": -1.0, "aa": -1.0}
    kept = prune(scores, {"ab": 5, "ba": 5, "aa": 50}, "ab", 4)
    assert list(kept) == ["a", "b", "ab", "aa"] or list(kept) == ["a", "b", "aa", "ab"]
    assert "ba" not in kept


def test_common_words_become_pieces() -> None:
    pieces = dict(learn_pieces(["GATTACA"] * 50 + ["TATA"] * 40 + ["GC"], "ACGT", 6))
    assert set(pieces) == {*"ACGT", "GATTACA", "TATA"}
    assert pieces["GATTACA"] == pytest.approx(math.log(50 / 92), abs=SCORE_STEP / 2)


@pytest.mark.parametrize("scale", [1.0, 2.0**-10])
def test_a_file_gives_scores_to_the_last_bit(scale: float) -> None:
    """tokenizers reads many other numbers one bit off, and so decides ties in other ways than the tokenizer that was written."""
    rng = random.Random(1)
    scores = [score for _, score in learn_pieces(["".join(rng.choices("ACGT", k=60)) for _ in range(200)], "ACGT", 200)]
    every = [-step * SCORE_STEP * scale for step in range(int(64 / SCORE_STEP))]
    assert {score * scale for score in scores} < set(every)
    written = Tokenizer(models.Unigram([(f"{i}", score) for i, score in enumerate(every)]))
    assert Tokenizer.from_str(written.to_str()).to_str() == written.to_str()


def test_fewer_pieces_where_the_words_hold_no_more() -> None:
    assert len(learn_pieces(["ACGT"], "ACGT", 100)) < 100


def test_fewer_pieces_than_letters_are_refused() -> None:
    with pytest.raises(ValueError, match="3 pieces for 4 letters"):
        learn_pieces(["ACGT"], "ACGT", 3)
