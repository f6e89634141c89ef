"""What the page says, in reading order. A section that has nothing to tell is left out."""

from __future__ import annotations

from collections.abc import Callable

from biollm.report.content import Figure, Section, Tile
from biollm.report.data import data, leakage, provenance
from biollm.report.facts import Facts, facts_of, unit_of
from biollm.report.fusion import fusion
from biollm.report.maps import maps
from biollm.report.numbers import decimal
from biollm.report.overview import adapted, cost, measured
from biollm.report.pictures import pictures
from biollm.report.projection import EmbeddingMap
from biollm.report.scores import baselines, best_scores, calibration, scores, thresholds, top_features
from biollm.report.training import finetuning, pretraining
from biollm.report.vocabulary import new_rows, vocabulary, vocabulary_tiles


def tiles(facts: Facts) -> list[Tile]:
    """The few numbers that sum the run up."""
    found = [Tile(label, value, note) for label, value, note in best_scores(facts)] + vocabulary_tiles(facts)
    if (pretrain := facts_of(facts, "pretrain")) is not None:
        bits = pretrain["bits_per_base"]
        found.append(Tile(f"Bits per {unit_of(facts)}", decimal(bits["after"]), f"{decimal(bits['before'])} before pretraining"))
        if general := pretrain.get("bits_per_byte_general"):
            found.append(Tile("General text, bits per byte", decimal(general["after"]), f"{decimal(general['before'])} before pretraining"))
    return found


def sections(facts: Facts, shown: dict[str, EmbeddingMap], label: str | None, drawn: list[Figure]) -> list[Section]:
    """All sections that the facts allow, in reading order. A new one is one more line here, and a function of the facts in its module."""
    builders: list[Callable[[Facts], Section | None]] = [
        adapted,
        scores, measured,  # did it help? of heads, or of what the stages measured themselves
        cost,
        vocabulary, new_rows,
        pretraining, finetuning,
        lambda f: maps(f, shown, label),
        thresholds, calibration,
        baselines, top_features,
        fusion,
        lambda _: pictures(drawn),
        data, leakage,
        provenance,
    ]  # fmt: skip
    built = (build(facts) for build in builders)
    return [section for section in built if section is not None]
