"""Documents into rows of a fixed number of tokens, nearly full, none lost or cut; their order depends on seed and epoch alone.

Packing looks at lengths only, once. What an epoch changes is which of the documents of one length stands where, and the order of the
rows. So every epoch has the same number of rows, each as full as before, and any position of any epoch is found without counting
up to it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from biollm.core.compiled import compiled
from biollm.core.seeding import generator

IntArray = NDArray[np.int64]
_NEARLY_FULL, _CLEARLY_FULLER = 0.99, 0.02
_SAMPLE = 20_000  # documents that tell how full rows of a length get
_FEW_ROWS = 10  # in so few, the last one decides how full they are
_GOLDEN = (math.sqrt(5) - 1) / 2  # multiples of it fall evenly into every part of a range


@dataclass(frozen=True)
class Rows:
    """A packing. slots: (n,) places in the list of documents by falling length, row by row; row r is slots[starts[r] : starts[r + 1]].

    Within a row documents stand by length, so that equally long ones are neighbours.
    """

    starts: IntArray
    slots: IntArray

    def __len__(self) -> int:
        return len(self.starts) - 1


def pack(lengths: IntArray, row_tokens: int) -> Rows:
    """Pack documents so that rows are nearly full and none is cut.

    lengths: (n,) tokens per document, each from 1 to row_tokens. A row takes documents from all over the range of lengths, until the one
    or two that fill it best can be looked up. (Longest first, the textbook way, leaves 4 % of a row empty where lengths are alike, as
    those of DNA windows are.) A million documents take well under a second.

    >>> rows = pack(np.array([3, 5, 2, 5, 5]), 10)
    >>> [np.array([5, 5, 5, 3, 2])[rows.slots[a:b]].tolist() for a, b in zip(rows.starts, rows.starts[1:])]
    [[5, 5], [5, 3, 2]]
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    assert not len(lengths) or 1 <= lengths.min() <= lengths.max() <= row_tokens, "documents were cut to row_tokens before"
    ordered = np.sort(lengths)
    stride = next(s for s in range(int(len(lengths) * _GOLDEN) | 1, 2 * len(lengths) + 3) if math.gcd(s, max(1, len(lengths))) == 1)
    mixed = ordered[np.arange(len(lengths)) * stride % max(1, len(lengths))]
    taken, row_of = _fill(np.bincount(lengths, minlength=row_tokens + 1), mixed, row_tokens)
    by_length = np.argsort(-taken, kind="stable")  # place in `taken` of each slot
    slot_of = np.empty_like(by_length)
    slot_of[by_length] = np.arange(len(taken))
    order = np.lexsort((-taken, row_of))
    return Rows(np.concatenate([[0], np.cumsum(np.bincount(row_of))]), slot_of[order])


class PackedOrder:
    """The documents of every row of every epoch: a function of lengths, seed and epoch."""

    def __init__(self, lengths: IntArray, row_tokens: int, seed: int) -> None:
        self._lengths, self._seed = np.asarray(lengths, dtype=np.int64), seed
        self._rows = pack(self._lengths, row_tokens)
        self.fill = float(self._lengths.sum() / (row_tokens * max(1, len(self._rows))))
        self._epoch = lru_cache(maxsize=2)(self._order)

    @property
    def rows_per_epoch(self) -> int:
        return len(self._rows)

    def row(self, position: int) -> tuple[int, IntArray]:
        """(epoch, indices of the documents) of a row, counted over all epochs."""
        epoch, within = divmod(position, len(self._rows))
        rows, documents = self._epoch(epoch)
        row = rows[within]
        return epoch, documents[self._rows.slots[self._rows.starts[row] : self._rows.starts[row + 1]]]

    def _order(self, epoch: int) -> tuple[IntArray, IntArray]:
        """The order of the rows, and the document that stands for each slot: documents of one length change places."""
        rng = generator(self._seed, "order", epoch)
        shuffled = rng.permutation(len(self._lengths))
        return rng.permutation(len(self._rows)), shuffled[np.argsort(-self._lengths[shuffled], kind="stable")]


def best_row_tokens(lengths: IntArray, near: int, least: int = 1) -> int:
    """The length of rows near this one that the documents fill: `near`, unless another is clearly fuller.

    Documents that are all about as long leave the same room in every row whose length is no multiple of theirs. Lengths from half of
    `near` to a third more are tried, the nearest of those that are 99 % full is taken, else the fullest, and `near` where that is not two
    percent fuller. Documents for fewer than ten rows are no reason for another length, nor are documents as long as a row, which may be
    parts of longer ones. lengths: (n,); least: tokens of the longest of other documents that share the rows.

    >>> best_row_tokens(np.full(1000, 258), 1024)
    1032
    """
    if lengths.sum() < _FEW_ROWS * near or lengths.max() >= near:
        return near
    sample = np.sort(lengths)[np.linspace(0, len(lengths) - 1, min(len(lengths), _SAMPLE)).round().astype(np.int64)]
    usual = {max(1, round(float(length))) for length in (sample.mean(), np.median(sample), sample[-1])}
    multiples = {count * length for length in usual for count in (near // length, near // length + 1)}
    shortest, longest = max(least, int(sample[-1]), near // 2), near * 4 // 3
    others = sorted((m for m in multiples if shortest <= m <= longest), key=lambda tokens: (abs(tokens - near), tokens))
    best, fullest = near, _fill_before_last(sample, near)
    for tokens in others if fullest < _NEARLY_FULL else []:
        fill = _fill_before_last(sample, tokens)
        if fill > fullest + (_CLEARLY_FULLER if best == near else 0):
            best, fullest = tokens, fill
        if fullest >= _NEARLY_FULL:
            break
    return best


def _fill_before_last(lengths: IntArray, row_tokens: int) -> float:
    """How full all rows but the last are, which may have room in any case. lengths: in rising order."""
    rows = pack(lengths, row_tokens)
    last = lengths[::-1][rows.slots[rows.starts[-2] :]].sum()
    return float((lengths.sum() - last) / (row_tokens * max(1, len(rows) - 1)))


class MixedOrder:
    """Rows of a domain corpus with rows of general text between them, so that a share `ratio` of the rows is general text."""

    def __init__(self, domain: PackedOrder, general: PackedOrder | None, ratio: float, seed: int) -> None:
        self._domain, self._general, self._seed = domain, general, seed
        self._replayed = domain.rows_per_epoch * ratio / (1 - ratio) if general else 0.0  # rows of an epoch, on average
        self._epoch = lru_cache(maxsize=2)(self._order)

    @property
    def rows_per_epoch(self) -> float:
        """On average over epochs, where the share of few rows is no whole number."""
        return self._domain.rows_per_epoch + self._replayed

    def row(self, position: int) -> tuple[bool, int, IntArray]:
        """(whether it is general text, epoch of its own corpus, indices of the documents) of a row."""
        epoch = int(position / self.rows_per_epoch)
        epoch += (position >= self._start(epoch + 1)) - (position < self._start(epoch))  # the average is off by less than a row
        place = int(self._epoch(epoch)[position - self._start(epoch)])
        if place < self._domain.rows_per_epoch:
            return False, *self._domain.row(epoch * self._domain.rows_per_epoch + place)
        assert self._general is not None
        return True, *self._general.row(self._replayed_before(epoch) + place - self._domain.rows_per_epoch)

    def _replayed_before(self, epoch: int) -> int:
        return round(epoch * self._replayed)

    def _start(self, epoch: int) -> int:
        return epoch * self._domain.rows_per_epoch + self._replayed_before(epoch)

    def _order(self, epoch: int) -> IntArray:
        rows = self._start(epoch + 1) - self._start(epoch)
        return np.asarray(generator(self._seed, "mixture", epoch).permutation(rows), dtype=np.int64)


@compiled
def _fill(counts: IntArray, mixed: IntArray, row_tokens: int) -> tuple[IntArray, IntArray]:
    """(lengths, their rows), row by row. counts: documents of each length, used up here; mixed: all lengths, long and short in turn."""
    number = len(mixed)
    taken, row_of = np.empty(number, dtype=np.int64), np.empty(number, dtype=np.int64)
    done = row = following = 0
    longest, shortest, room = row_tokens, 1, row_tokens
    while done < number:
        while counts[longest] == 0:
            longest -= 1
        while counts[shortest] == 0:
            shortest += 1
        if room < shortest:
            row += 1
            room = row_tokens
        first, second = 0, 0
        if room > 2 * longest:
            while counts[mixed[following]] == 0:
                following += 1
            first = mixed[following]
            following += 1
        else:  # the one or two lengths with the largest sum that fits
            for long in range(min(room, longest), shortest - 1, -1):
                if 2 * long <= first + second or first + second == room:
                    break
                if counts[long] == 0:
                    continue
                short = min(room - long, long)
                while short >= shortest and (counts[short] == 0 or (short == long and counts[short] < 2)):
                    short -= 1
                short = short if short >= shortest else 0
                if long + short > first + second:
                    first, second = long, short
        for length in (first, second):
            if length > 0:
                counts[length] -= 1
                taken[done], row_of[done] = length, row
                done += 1
                room -= length
    return taken, row_of
