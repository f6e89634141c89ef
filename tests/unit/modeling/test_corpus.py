"""The corpus as later stages read it: records without their tracks, and tracks by record from the disk."""

from __future__ import annotations

import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from biollm.core.errors import DataError
from biollm.modeling.corpus import ROW, TrackTable, part_of, read_records
from biollm.modeling.tracks import Track


@pytest.fixture(params=["one file", "parts"])
def corpus(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Seven records of 1 to 7 bases."""
    lengths = range(1, 8)
    table = pl.DataFrame(
        {
            "id": [f"r{n}" for n in lengths],
            "sequence": ["A" * n for n in lengths],
            "split": ["train" if n % 2 else "test" for n in lengths],
            "track_CG": [[n / 10 if i % 2 else None for i in range(n)] for n in lengths],
            "coverage_CG": [[float(i) for i in range(n)] for n in lengths],
            "track_phyloP": [[-1.0] * n for n in lengths],
        }
    )
    if request.param == "one file":
        table.write_parquet(tmp_path / "records.parquet", row_group_size=2)
    else:
        (tmp_path / "records.parquet").mkdir()
        table.head(3).write_parquet(tmp_path / "records.parquet/part-00000.parquet")
        table.tail(4).write_parquet(tmp_path / "records.parquet/part-00001.parquet")
    return tmp_path


def test_tracks_are_those_of_the_record_in_its_row(corpus: Path) -> None:
    records = read_records(corpus, "test")
    assert records.columns == [ROW, "id", "sequence", "split"]
    tracks = TrackTable(corpus, ["CG", "phyloP"])
    for row, name in records.select(ROW, "id").iter_rows():
        length = int(name[1:])
        found = tracks[row]
        np.testing.assert_array_equal(found["CG"].level, np.float32([length / 10 if i % 2 else np.nan for i in range(length)]))
        assert found["CG"].coverage is not None
        assert found["CG"].coverage.tolist() == list(range(length))
        assert found["phyloP"].level.tolist() == [-1.0] * length
        assert found["phyloP"].coverage is None


def test_tracks_are_mapped_from_the_disk_and_leave_no_file(corpus: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spill = tmp_path / "spill"
    spill.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(spill))
    tracks = TrackTable(corpus, ["CG"])
    level = tracks[3]["CG"].level
    while isinstance(level, np.ndarray) and not isinstance(level, np.memmap):
        level = level.base  # type: ignore[assignment]
    assert isinstance(level, np.memmap)
    assert not list(spill.iterdir())


def test_the_tracks_of_all_records_at_once_hardly_take_memory(corpus: Path) -> None:
    tracks = TrackTable(corpus, ["CG", "phyloP"])
    tracemalloc.start()
    kept = [tracks[number % 7] for number in range(1000)]
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken / len(kept) < 250, "bytes a record, however long it is and however many channels it has"
    assert kept[6]["CG"].level.shape == (7,), "made when asked for"


@pytest.mark.parametrize("stretch", [slice(0, 7), slice(2, 5), slice(3, 3)])
def test_a_part_of_a_record_has_the_tracks_of_its_stretch(corpus: Path, stretch: slice) -> None:
    whole = TrackTable(corpus, ["CG", "phyloP"])[6]
    given: dict[str, Track] = dict(whole)
    assert list(given) == ["CG", "phyloP"]
    for name, track in part_of(whole, stretch).items():
        wanted = part_of(given, stretch)[name]
        np.testing.assert_array_equal(track.level, whole[name].level[stretch])
        np.testing.assert_array_equal(track.level, wanted.level)
        assert (track.coverage is None) == (wanted.coverage is None) == (name == "phyloP")
        if track.coverage is not None:
            assert track.coverage.tolist() == list(range(7))[stretch]
    again = part_of(part_of(whole, slice(1, 6)), slice(2, 4))
    np.testing.assert_array_equal(again["CG"].level, whole["CG"].level[3:5])
    with pytest.raises(KeyError):
        whole["CHH"]


def test_a_sample_holds_the_values_that_there_are_of_some_records(corpus: Path) -> None:
    tracks = TrackTable(corpus, ["CG", "phyloP"])
    levels, coverages = tracks.sample([1, 2], "CG")
    assert levels.tolist() == pytest.approx([0.2, 0.3])
    assert coverages is not None
    assert coverages.tolist() == [1, 1]
    assert tracks.sample(range(7), "phyloP", most=7)[0].tolist() == [-1.0] * (1 + 5), "every fourth record"
    assert tracks.sample([], "CG")[0].tolist() == []


def test_a_track_that_the_corpus_does_not_have_is_named(corpus: Path) -> None:
    with pytest.raises(DataError, match=r"no track is called 'CHH'; the tracks of this corpus are: CG, phyloP; name one of them"):
        TrackTable(corpus, ["CG", "CHH"])
