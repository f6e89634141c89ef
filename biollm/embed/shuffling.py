"""Whose tracks a record is given when tracks are shuffled: the control that says whether they have to be the record's own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from biollm.core.errors import DataError
from biollm.core.seeding import generator
from biollm.modeling.encoding import IntArray
from biollm.modeling.tracks import RecordTracks, Track


def choose_donors(splits: Sequence[str], lengths: Sequence[int], seed: int) -> IntArray:
    """For each record another one of its split: of the same length where there is one, else any. (n,) int64, no record its own.

    Raises DataError for a split of one record.
    """
    donors = np.arange(len(splits))
    split_of, length_of = np.asarray(splits), np.asarray(lengths)
    for split in sorted(set(splits)):
        rows = np.flatnonzero(split_of == split)
        if len(rows) == 1:
            raise DataError(f"embed.shuffled_tracks: the split '{split}' has one record, and no other to take tracks from; leave it out")
        alone = []
        for length in np.unique(length_of[rows]):
            group = rows[length_of[rows] == length]
            if len(group) == 1:
                alone.append(int(group[0]))
            else:
                _pass_on(donors, group, seed, split, int(length))
        if len(alone) == 1:
            donors[alone[0]] = next(row for row in rows if row != alone[0])
        elif alone:
            _pass_on(donors, np.asarray(alone), seed, split, -1)
    return donors


def fit_tracks(tracks: RecordTracks, length: int) -> RecordTracks:
    """Tracks of another record for a sequence of `length`: cut, or without values at the end."""
    return {
        name: Track(_fit(track.level, length), None if track.coverage is None else _fit(track.coverage, length))
        for name, track in tracks.items()
    }


def _fit(values: np.ndarray[tuple[int], np.dtype[np.float32]], length: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.pad(values[:length], (0, max(length - len(values), 0)), constant_values=np.nan)


def _pass_on(donors: IntArray, rows: IntArray, seed: int, split: str, length: int) -> None:
    """Round a circle in random order, each record takes from the next."""
    circle = generator(seed, "shuffled tracks", split, length).permutation(rows)
    donors[circle] = np.roll(circle, -1)
