"""What the page says about per-base tracks as an input: how they enter, and whether they helped."""

from __future__ import annotations

from statistics import median
from typing import Any

import altair as alt

from biollm.report import charts
from biollm.report.content import Column, Figure, Row, Section, Table
from biollm.report.facts import Facts, facts_of, source_of, unit_of
from biollm.report.numbers import MISSING, decimal, ranged, signed

_WITHHELD = "tracks"  # the comparison with the same model, its tracks withheld
_MOMENTS = {"expand": "before", "pretrain": "after"}
_COMPARISONS = (_WITHHELD, "shuffled_tracks", "best_against_tracks")


def fusion(facts: Facts) -> Section | None:
    """The channel, and the score with and without it; None for a model without tracks. More that is measured of it is one more table."""
    found = (facts_of(facts, "expand") or {}).get("fusion")
    if found is None:
        return None
    tables = [_channel(facts, found), *_operators(facts, found), *_ablation(facts), *_distances(facts)]
    new = "Tracks enter through an operator that starts at zero effect, so that training begins from exactly the base model."
    prose = ["Tracks enter through the operator of the base model, which reads them already." if found.get("of_base") else new]
    figures = [*_norms(facts), *_distance_plots(facts)]
    return Section("fusion", "The fused channel", [*prose, *_answers(facts)], figures=figures, tables=tables)


def _norms(facts: Facts) -> list[Figure]:
    """Does the length of a vector follow the methylation of its record? Before the adaptation and after (after Xiao et al. 2026)."""
    return [
        Figure(
            id=f"norms-{of_channel['channel']}",
            title=f"Length of the embedding by {of_channel['channel']} level",
            caption="Each point is a test record: its mean level, and the length of its vector before the adaptation and after.",
            alt=f"Scatter plot of embedding norms against the mean {of_channel['channel']} level of {len(of_channel['levels'])} records.",
            spec=charts.norms(of_channel),
            sources=[source_of(facts, "embed")],
        )
        for of_channel in facts["diagnostics"]
    ]


def _distance_plots(facts: Facts) -> list[Figure]:
    """How far does a vector move with the methylation of its record? Before the adaptation and after (after Xiao et al. 2026)."""
    return [
        Figure(
            id=f"distances-{of_channel['channel']}",
            title=f"How far the embedding moves with {of_channel['channel']}",
            caption="Each point is a test record: its mean level, and the cosine distance between its vectors when every value is 0 "
            "and when every value is 1, before the adaptation and after.",
            alt=f"Scatter plot of cosine distances between two versions of each of {len(of_channel['levels'])} records, all "
            f"{of_channel['channel']} values 0 and all 1, against their mean level.",
            spec=_distance_spec(of_channel),
            sources=[source_of(facts, "embed")],
        )
        for of_channel in facts["diagnostics"]
    ]


def _distance_spec(diagnosed: Facts) -> dict[str, Any]:
    """Cosine distances against the mean level of their records. diagnosed: of one channel."""
    values = [
        {"level": level, "distance": distance, "model": moment}
        for model, moment in _MOMENTS.items()
        for level, distance in zip(diagnosed["levels"], diagnosed["distances"][model], strict=True)
    ]
    points = alt.Chart(alt.Data(values=values)).mark_point(filled=True, size=40, opacity=0.7)
    encoded = points.encode(
        x=alt.X("level:Q", axis=alt.Axis(title=f"mean {diagnosed['channel']} level of the record", tickCount=6)),
        y=alt.Y("distance:Q", axis=alt.Axis(title="cosine distance, all values 0 to all 1", format=".2~g")),
        color=alt.Color("model:N", scale=alt.Scale(domain=list(_MOMENTS.values())), legend=alt.Legend(title=None, orient="top")),
        shape=alt.Shape("model:N", legend=None),
        tooltip=["model:N", alt.Tooltip("level:Q", format=".3f"), alt.Tooltip("distance:Q", format=".3~g")],
    )
    return charts.fitted(encoded.properties(height=260))


def _distances(facts: Facts) -> list[Table]:
    """How far a vector moves when its record is read as unmethylated and as methylated everywhere."""
    rows = []
    for of_channel in facts["diagnostics"]:
        before, after = (of_channel["distances"][model] for model in _MOMENTS)
        found = [decimal(value, 5) for value in (median(before), median(after), max(after))]
        rows.append(Row([of_channel["channel"], str(len(after)), *found]))
    columns = [Column("channel", False), Column("records"), Column("before, median"), Column("after, median"), Column("after, largest")]
    caption = "Cosine distance between the same sequence read as unmethylated and as methylated everywhere"
    return [Table(caption, columns, rows, [source_of(facts, "embed")])] if rows else []


def _channel(facts: Facts, found: Facts) -> Table:
    rows = [Row(["operator", found["operator"]]), Row(["channels", ", ".join(found["channels"])])]
    if not found.get("of_base"):
        difference = found["step0_max_difference"]
        told = f"{difference:g}" + (" (bit-equal)" if difference == 0 else "")
        rows.append(Row(["largest difference from the base model at step 0", told]))
    columns = [Column("", False), Column("value", False)]
    return Table("Per-base tracks as an input of the model", columns, rows, [source_of(facts, "expand")])


def _operators(facts: Facts, found: Facts) -> list[Table]:
    """Held-out loss of the same model pretrained with other fusion operators, where pretrain was asked to compare them."""
    pretrain = facts_of(facts, "pretrain") or {}
    if not pretrain.get("operators"):
        return []
    bits = {found["operator"]: pretrain["bits_per_base"]["after"]}
    bits |= {operator: entry["bits_per_base"] for operator, entry in pretrain["operators"].items()}
    rows = [Row([name, decimal(value)], badge="used" if name == found["operator"] else None) for name, value in bits.items()]
    columns = [Column("operator", False), Column(f"bits per {unit_of(facts)}")]
    return [Table("The same model, its tracks fused in other ways, held-out loss", columns, rows, [source_of(facts, "pretrain")])]


def _ablation(facts: Facts) -> list[Table]:
    """The rows that differ in what they know of the tracks: as they are, withheld, shuffled, alone, beside k-mers, each fused model."""
    if facts["scores"] is None:
        return []
    first = facts["scores"].get("measure", {"name": "auroc", "title": "AUROC"})
    name, title = first["name"], first["title"]
    rows = [row for row in facts["scores"]["rows"] if any(map(_knows_tracks, row.get("features", [])))]
    if not rows:
        return []
    rows += [row for row in facts["scores"]["rows"] if row.get("features") == ["pretrain"]]
    shown = [
        Row(
            [row["title"], MISSING if row[f"{name}_low"] is None else ranged(row[name], row[f"{name}_low"], row[f"{name}_high"])],
            badge="baseline" if row["is_baseline"] else None,
        )
        for row in facts["scores"]["rows"]
        if row in rows
    ]
    caption = "With the tracks, without them, and the tracks alone (95 % interval)"
    return [Table(caption, [Column("features + head", False), Column(title)], shown, [source_of(facts, "classify")])]


def _knows_tracks(features: str) -> bool:
    return "tracks" in features or features.startswith("fused_")


def _answers(facts: Facts) -> list[str]:
    """Did the tracks help? A paired test says so; what is not tested is said to be unknown."""
    if facts["scores"] is None:
        return ["No head was scored, so whether the tracks help is not known."]
    compared = [entry for entry in facts["scores"]["comparisons"] if entry["name"] in _COMPARISONS]
    withheld = any(entry["name"] == _WITHHELD for entry in compared)
    unknown = "No head was scored with the tracks withheld (embed.without_tracks), so whether the tracks help is not known."
    return [*map(_answer, compared), *([] if withheld else [unknown])]


def _answer(compared: Facts) -> str:
    key = next(key for key in compared if key.endswith("_difference"))
    key = "auroc_difference" if "auroc_difference" in compared else "r2_difference" if "r2_difference" in compared else key
    found = compared[key]
    if found["low"] is None or found["high"] is None:
        return f"{compared['question']} Not measured."
    said = "Yes" if found["low"] > 0 else "No, the reverse" if found["high"] < 0 else "Not clear"
    interval = f"{signed(found['low'])} to {signed(found['high'])}"
    measure = key.removesuffix("_difference").upper()
    who = f"{compared['row_title']} against {compared['reference_title']}"
    return f"{compared['question']} {said}: {measure} {signed(found['value'])} (95 % interval {interval}, p {decimal(found['p'])}), {who}."
