"""Unigram pieces by hard EM: the same result in every process.

The Unigram trainer of `tokenizers` sums expected counts in the order of a hash map, which differs from process to process; where two pieces
are equally good (two words of one frequency, the two strands of one stretch) the last bits of the sums decide which of them survives.
Here everything that is summed is a whole number: counts on best segmentations (Viterbi training) instead of expected ones. Seeds come from
the BPE trainer of `tokenizers`, best segmentations from its Unigram model; the pruning by loss is that of Kudo 2018, arXiv:1804.10959.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from biollm.modeling.domain import SCORE_STEP
from tokenizers import Tokenizer, models, trainers

_SEEDS_PER_PIECE = 8
_SHRINKING_FACTOR = 0.75
_ROUNDS = 2
_MAX_PIECE = 16
# Scores and losses are rounded, so that the last bit of a logarithm on another machine decides nothing.
_DIGITS = 6
_UNSEEN_COUNT = 0.5
_BATCH = 4096

Scores = dict[str, float]


def learn_pieces(words: Iterable[str], letters: Sequence[str], size: int) -> list[tuple[str, float]]:
    """`size` pieces with log probabilities (natural, in steps of SCORE_STEP), best first; fewer if the words hold no more.

    words: over `letters` only; no piece crosses from one into the next. Every letter is a piece, the rest has two letters or more.
    Raises ValueError if there are more letters than `size`.
    """
    if size < len(letters):
        raise ValueError(f"{size} pieces for {len(letters)} letters")
    counted = sorted(Counter(word for word in words if word).items())
    pieces = _seed(counted, letters, size)
    scores: Scores = dict.fromkeys(pieces, -1.0)  # at first the segmentation into the fewest pieces is the best
    while True:
        for _ in range(_ROUNDS):
            counts = _count(counted, scores)
            scores = _score(counts, scores)
        if len(scores) <= size:
            scores = {piece: round(score / SCORE_STEP) * SCORE_STEP for piece, score in scores.items()}
            return sorted(scores.items(), key=lambda item: (-item[1], item[0]))
        kept = max(size, int(_SHRINKING_FACTOR * len(scores)))
        scores = prune(scores, counts, letters, kept)


def prune(scores: Scores, counts: Mapping[str, int], letters: Sequence[str], kept: int) -> Scores:
    """The `kept` pieces whose loss would hurt most: all letters, then by how much likelier the corpus is with the piece than with
    its best segmentation into others. Ties go by the piece itself."""
    single = set(letters)
    losses = {
        piece: round(counts.get(piece, 0) * (score - best_without(piece, scores)), _DIGITS)
        for piece, score in scores.items()
        if piece not in single
    }
    ranked = sorted(losses, key=lambda piece: (-losses[piece], piece))
    return {piece: scores[piece] for piece in (*letters, *ranked[: kept - len(single)])}


def best_without(piece: str, scores: Mapping[str, float]) -> float:
    """The score of the best segmentation of a piece into other pieces. Every letter of it must have a score.

    >>> best_without("abc", {"a": -1.0, "b": -1.0, "c": -1.0, "ab": -1.5, "abc": -2.0})
    -2.5
    """
    best = [0.0] + [-math.inf] * len(piece)
    for end in range(1, len(piece) + 1):
        for start in range(end):
            if end - start < len(piece) and (score := scores.get(piece[start:end])) is not None:
                best[end] = max(best[end], best[start] + score)
    return best[-1]


def _seed(counted: Sequence[tuple[str, int]], letters: Sequence[str], size: int) -> list[str]:
    learner = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=_SEEDS_PER_PIECE * size,
        min_frequency=2,
        initial_alphabet=list(letters),
        max_token_length=_MAX_PIECE,
        show_progress=False,
    )
    learner.train_from_iterator((word for word, count in counted for _ in range(count)), trainer)
    return sorted(learner.get_vocab())


def _count(counted: Sequence[tuple[str, int]], scores: Scores) -> Counter[str]:
    """How often each piece stands on the best segmentations."""
    pieces = sorted(scores.items())
    model = Tokenizer(models.Unigram(pieces))
    of_number: Counter[int] = Counter()
    for begin in range(0, len(counted), _BATCH):
        batch = counted[begin : begin + _BATCH]
        for encoding, (_, count) in zip(model.encode_batch_fast([word for word, _ in batch]), batch, strict=True):
            if count == 1:
                of_number.update(encoding.ids)
            else:
                for number in encoding.ids:
                    of_number[number] += count
    return Counter({pieces[number][0]: count for number, count in of_number.items()})


def _score(counts: Mapping[str, int], scores: Scores) -> Scores:
    total = math.log(max(sum(counts.values()), 1))
    return {piece: round(math.log(counts.get(piece, 0) or _UNSEEN_COUNT) - total, _DIGITS) for piece in scores}
