from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from biollm.core.errors import DataError
from biollm.embed.shuffling import choose_donors, fit_tracks
from biollm.modeling.tracks import Track


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 4)), min_size=2, max_size=40), st.integers(0, 99))
def test_every_record_takes_from_another_of_its_split(records: list[tuple[str, int]], seed: int) -> None:
    splits, lengths = [split for split, _ in records], [length for _, length in records]
    if 1 in (splits.count("a"), splits.count("b")):
        with pytest.raises(DataError, match="has one record, and no other to take tracks from"):
            choose_donors(splits, lengths, seed)
        return
    donors = choose_donors(splits, lengths, seed)
    assert (donors != np.arange(len(records))).all()
    assert [splits[i] for i in donors] == splits
    for i, donor in enumerate(donors):
        if records.count(records[i]) > 1:
            assert lengths[donor] == lengths[i], "of the same length where there is one"
    assert np.array_equal(donors, choose_donors(splits, lengths, seed))


def test_another_seed_chooses_others() -> None:
    splits, lengths = ["train"] * 50, [64] * 50
    assert not np.array_equal(choose_donors(splits, lengths, 1), choose_donors(splits, lengths, 2))


def test_tracks_are_cut_or_end_without_values() -> None:
    tracks = {"x": Track(np.asarray([1, 2, 3], dtype=np.float32), np.asarray([4, 5, 6], dtype=np.float32))}
    assert fit_tracks(tracks, 2)["x"].level.tolist() == [1, 2]
    longer = fit_tracks(tracks, 4)["x"]
    np.testing.assert_array_equal(longer.level, [1, 2, 3, np.nan])
    assert longer.coverage is not None
    assert len(longer.coverage) == 4
