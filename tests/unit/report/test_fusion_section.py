"""What the page says about tracks as an input: it plots what was diagnosed, and claims nothing that was not tested."""

from __future__ import annotations

from typing import Any

import pytest

from biollm.report.fusion import fusion


def _facts(**changed: Any) -> dict[str, Any]:
    expanded = {"fusion": {"operator": "add", "channels": ["CG"], "step0_max_difference": 0.0}}
    stages = {
        name: {"digest": "0" * 64, "facts": facts}
        for name, facts in {"expand": expanded, "embed": {}, "classify": {}, "pretrain": {}}.items()
    }
    return {"stages": stages, "diagnostics": [], "scores": None} | changed


def _compared(name: str) -> dict[str, Any]:
    difference = {"value": 0.1, "low": 0.02, "high": 0.2, "p": 0.01}
    titles = {"row_title": "adapted", "reference_title": "other"}
    return {"name": name, "question": f"{name} asked?", "auroc_difference": difference, **titles}


def test_norms_and_distances_are_plotted_record_by_record() -> None:
    diagnosed = {
        "channel": "CG",
        "levels": [0.1, 0.4, 0.9],
        "norms": {"expand": [1.0, 2.0, 3.0], "pretrain": [4.0, 5.0, 6.0]},
        "distances": {"expand": [0.0, 0.0, 0.0], "pretrain": [0.01, 0.03, 0.02]},
    }
    section = fusion(_facts(diagnostics=[diagnosed]))
    assert section is not None
    norms, distances = section.figures
    assert (norms.id, distances.id) == ("norms-CG", "distances-CG")
    points = distances.spec["data"]["values"]
    assert [point["distance"] for point in points if point["model"] == "after"] == [0.01, 0.03, 0.02]
    assert [point["distance"] for point in points if point["model"] == "before"] == [0.0] * 3
    assert [point["level"] for point in points] == diagnosed["levels"] * 2
    assert "3 records" in distances.alt
    assert [source.stage for source in distances.sources] == ["embed"]


@pytest.mark.parametrize(
    ("tested", "answers", "is_known"),
    [
        ([], 0, False),
        (["added_to_kmers"], 0, False),
        (["shuffled_tracks", "best_against_tracks"], 2, False),
        (["tracks"], 1, True),
        (["tracks", "shuffled_tracks"], 2, True),
    ],
)
def test_whether_tracks_help_is_said_to_be_unknown_unless_it_was_tested(tested: list[str], answers: int, is_known: bool) -> None:
    section = fusion(_facts(scores={"rows": [], "comparisons": [_compared(name) for name in tested]}))
    assert section is not None
    said = [text for text in section.prose if " asked? Yes: AUROC +0.100" in text]
    assert len(said) == answers
    unknown = "No head was scored with the tracks withheld (embed.without_tracks), so whether the tracks help is not known."
    assert (unknown in section.prose) != is_known


def test_without_scores_whether_tracks_help_is_said_to_be_unknown() -> None:
    section = fusion(_facts())
    assert section is not None
    assert section.prose[1:] == ["No head was scored, so whether the tracks help is not known."]


def test_the_fusion_of_a_base_claims_no_start_at_zero_effect() -> None:
    facts = _facts()
    facts["stages"]["expand"]["facts"] = {"fusion": {"operator": "add", "channels": ["CG"], "of_base": True}}
    section = fusion(facts)
    assert section is not None
    assert section.prose[0] == "Tracks enter through the operator of the base model, which reads them already."
    assert [row.cells[0] for row in section.tables[0].rows] == ["operator", "channels"]
