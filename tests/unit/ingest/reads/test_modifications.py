from __future__ import annotations

import array
import re

import numpy as np
import pysam
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biollm.ingest.reads.modifications import (
    BASE_OF_NAME,
    ModTrack,
    cytosine_contexts,
    is_modification,
    parse_modifications,
    to_bases,
)

ALL = frozenset([*BASE_OF_NAME, "ChEBI:17802", "C+C"])


def parse(sequence: str, mm: str, ml: list[int] | None, wanted: frozenset[str] = ALL, **options: bool) -> list[ModTrack]:
    values = None if ml is None else np.array(ml, dtype=np.uint8)
    return parse_modifications(to_bases(sequence), mm, values, wanted, {}, **options)


def eighths(track: ModTrack) -> list[int | None]:
    """Probabilities as the ML values that they came from; None = no call; -1 = unmodified by silence."""
    return [None if np.isnan(p) else -1 if p == 0 else round(float(p) * 256 - 0.5) for p in track.probability]


def test_a_value_of_ml_is_the_middle_of_its_interval() -> None:
    (track,) = parse("CC", "C+m?,0,0;", [0, 255])
    assert track.probability.dtype == np.float32
    assert track.probability.tolist() == [0.5 / 256, 255.5 / 256]


def test_mm_counts_the_bases_of_its_own_kind() -> None:
    (track,) = parse("ACCGTC", "C+m?,1,0;", [10, 20])
    assert eighths(track) == [None, None, 10, None, None, 20]


@pytest.mark.parametrize("mode", ["", "."])
def test_skipped_bases_are_unmodified_unless_the_mode_says_unknown(mode: str) -> None:
    (track,) = parse("CACC", f"C+m{mode},1;", [9])
    assert eighths(track) == [-1, None, 9, -1]
    (track,) = parse("CACC", "C+m?,1;", [9])
    assert eighths(track) == [None, None, 9, None]
    (track,) = parse("CACC", f"C+m{mode},1;", [9], listed_only=True)
    assert eighths(track) == [None, None, 9, None]


def test_an_entry_without_calls_says_that_all_is_unmodified_or_nothing() -> None:
    assert [eighths(track) for track in parse("CA", "C+m.;", None)] == [[-1, None]]
    assert [eighths(track) for track in parse("CA", "C+m?;", [])] == [[None, None]]
    assert parse("CA", "", None) == []


def test_several_modifications_of_one_base_each_get_their_track() -> None:
    tracks = parse("CC", "C+h?,1;C+m?,0,0;", [1, 2, 3])
    assert [(track.name, eighths(track)) for track in tracks] == [("5hmC", [None, 1]), ("5mC", [2, 3])]


def test_combined_codes_interleave_their_probabilities() -> None:
    tracks = parse("CAC", "C+mh,0,0;", [1, 2, 3, 4])
    assert [(track.name, eighths(track)) for track in tracks] == [("5mC", [1, None, 3]), ("5hmC", [2, None, 4])]


def test_the_silence_of_one_entry_does_not_overwrite_what_another_lists() -> None:
    (track,) = parse("CCC", "C+m?,0;C+m.,1;", [7, 8])
    assert eighths(track) == [7, 8, -1]


def test_the_other_strand_is_written_at_the_base_that_pairs_with_it() -> None:
    (track,) = parse("CGTG", "G-m?,1;", [5])
    assert (track.name, track.opposite, eighths(track)) == ("5mC", True, [None, None, None, 5])
    (track,) = parse("CGTG", "T-a?,0;", [5])
    assert (track.name, track.opposite, eighths(track)) == ("6mA", True, [None, None, 5, None])


def test_base_n_counts_every_base() -> None:
    (track,) = parse("ACGT", "N+n?,2;", [5])
    assert (track.name, eighths(track)) == ("xanthosine", [None, None, 5, None])
    (track,) = parse("ACGT", "N+m.,1;", [5])
    assert (track.name, eighths(track)) == ("5mC", [-1, 5, -1, -1])


def test_chebi_numbers_have_the_names_of_their_letters() -> None:
    assert [parse("CAT", mm, [5])[0].name for mm in ("C+21839?,0;", "C+27551?,0;", "C+76792?,0;", "A+28871?,0;", "T+17802?,0;")] == [
        "4mC",
        "5mC",
        "5hmC",
        "6mA",
        "ChEBI:17802",
    ]


def test_u_is_t() -> None:
    (track,) = parse("ACT", "U+17802?,0;", [5])
    assert eighths(track) == [None, None, 5]


def test_a_code_on_a_foreign_base_is_not_taken_for_the_usual_one() -> None:
    assert parse("AC", "A+m?,0;", [5], frozenset({"5mC"})) == []
    assert parse("AC", "C+C?,0;", [5])[0].name == "C+C"


def test_what_is_not_wanted_is_counted_and_still_checked() -> None:
    counts: dict[str, int] = {}
    ml = np.array([1, 1, 2, 3], dtype=np.uint8)
    (track,) = parse_modifications(to_bases("CCA"), "C+m?,0,0;A+a?,0;C+h?,1;", ml, frozenset({"5hmC"}), counts)
    assert eighths(track) == [None, 3, None]
    assert counts == {"calls_not_wanted_5mC": 2, "calls_not_wanted_6mA": 1}
    with pytest.raises(ValueError, match=re.escape("MM entry 'A+a?' runs to the A number 2, but the read has 1")):
        parse("CCA", "A+a?,1;", [1], frozenset({"5mC"}))


@pytest.mark.parametrize(
    ("mm", "ml", "message"),
    [
        ("C+m?,0,0,0;", [1, 2, 3], "MM entry 'C+m?' runs to the C number 3, but the read has 2"),
        ("C+m?,999999999,999999999;", [1, 2], "runs to the C number 2000000000, but the read has 2"),
        ("C+m?,0;", [1, 2], "MM needs 1 probabilities, and ML holds 2"),
        ("C+m?,0,0;", [1], "MM needs 2 probabilities, and ML holds 1"),
        ("C+mh?,0;", [1], "MM needs 2 probabilities, and ML holds 1"),
        ("C+m?,0;", None, "MM needs 1 probabilities, and there is no ML"),
        ("", [1], "MM needs 0 probabilities, and ML holds 1"),
        ("C+m?,0", [1], "MM does not end in ';'"),
        ("C*m?,0;", [1], "MM holds 'C*m?,0'; expected entries like 'C+m?,3,0;'"),
        ("C+m?,x;", [1], "MM holds 'C+m?,x'"),
        ("C+m?,-1;", [1], "MM holds 'C+m?,-1'"),
        ("C+m?,;", [1], "MM holds 'C+m?,'"),
        ("C+m?,0,;", [1], "MM holds 'C+m?,0,'"),
        ("C+m?,99999999999999999999;", [1], "MM holds 'C+m?,99999"),
        ("C+m?,²;", [1], "MM holds 'C+m?,²'"),
        (";", [], "MM holds ''"),
        ("R+m?,0;", [1], "MM holds 'R+m?,0'"),
        ("C+m?,0;C+m?,0;", [1, 1], "MM gives one base the modification of 'C+m?' twice"),
    ],
)
def test_a_tag_that_cannot_be_right_is_refused(mm: str, ml: list[int] | None, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        parse("CAC", mm, ml)


_ENTRIES = st.sampled_from(["C+m", "C+fh?", "G-m?", "A+a.", "T-a", "N+n?", "C+21839?", "T+17802"])


@settings(max_examples=300, deadline=None)
@given(st.text("ACGTN", min_size=1, max_size=40), st.lists(_ENTRIES, unique=True, max_size=4), st.data())
def test_listed_calls_are_those_of_htslib(sequence: str, heads: list[str], data: st.DataObject) -> None:
    mm, ml = "", []
    for head in heads:
        have = len(sequence) if head[0] == "N" else sequence.count(head[0])
        deltas = []
        while have and data.draw(st.booleans()):
            deltas.append(data.draw(st.integers(0, have - 1)))
            have -= deltas[-1] + 1
        ml += [data.draw(st.integers(0, 255)) for _ in range(len(deltas) * (2 if "fh" in head else 1))]
        mm += head + "".join(f",{delta}" for delta in deltas) + ";"
    tracks = parse(sequence, mm, ml, listed_only=True)
    record = pysam.AlignedSegment()
    record.query_sequence = sequence
    record.set_tag("MM", mm)
    record.set_tag("ML", array.array("B", ml))
    names = {"m": "5mC", "f": "5fC", "h": "5hmC", "a": "6mA", "n": "xanthosine", 21839: "4mC", 17802: "ChEBI:17802"}
    theirs = {
        (names[code], bool(strand), place): value
        for (_, strand, code), calls in (record.modified_bases or {}).items()
        for place, value in calls
    }
    ours = {
        (track.name, track.opposite, place): value for track in tracks for place, value in enumerate(eighths(track)) if value is not None
    }
    assert ours == theirs


def test_names_that_options_may_ask_for() -> None:
    assert [is_modification(name) for name in ("5mC", "6mA", "4mC", "ChEBI:17802")] == [True] * 4
    assert [is_modification(name) for name in ("5mc", "m", "ChEBI:27551", "ChEBI:x", "")] == [False] * 5, "27551 has the name 5mC"


def context_of(sequence: str, place: int, minus: bool = False) -> str:
    return ["CG", "CHG", "CHH", "unknown"][cytosine_contexts(to_bases(sequence), np.array([place]), minus)[0]]


def test_contexts_are_read_in_the_direction_of_their_strand() -> None:
    assert [context_of(s, 0) for s in ("CGA", "CAG", "CCG", "CTT", "CCA", "CN", "CAN", "CNG", "CA", "C", "CG")] == [
        *("CG", "CHG", "CHG", "CHH", "CHH", "unknown", "unknown", "unknown", "unknown", "unknown", "CG"),
    ]
    assert [context_of(s, len(s) - 1, minus=True) for s in ("CG", "CAG", "CGG", "AAG", "GTG", "NG", "AG", "G")] == [
        *("CG", "CHG", "CHG", "CHH", "CHH", "unknown", "unknown", "unknown"),
    ]
