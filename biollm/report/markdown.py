"""The page's content without its pictures: as Markdown for people and issue trackers, as JSON for programs."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any

from biollm.report.content import Cut, Examples, Figure, Section, Source, Table
from biollm.report.facts import Facts, domain_of, judged_by
from biollm.report.outcome import verdict
from biollm.report.sections import tiles

# What Markdown or HTML would read as markup. A dash or number sign only matters at the start of a line, where no text of ours begins.
_MARKUP = re.compile(r"([\\`*_\[\]<>|~&])")


def as_json(facts: Facts, content: list[Section]) -> dict[str, Any]:
    """Everything that the page shows, in its order. Figures hold their Vega-Lite specification with its data."""
    return {
        "verdict": verdict(facts),
        "adapted_to": domain_of(facts),
        "judged_by": judged_by(facts),
        "tiles": [asdict(tile) for tile in tiles(facts)],
        "sections": [asdict(section) for section in content],
    }


def render_markdown(facts: Facts, content: list[Section]) -> str:
    """Markdown (GitHub's tables) of the page. Of a figure it has the title and the words that a screen reader would say."""
    lines = [f"# {escaped(facts['title'])}", "", f"**{escaped(verdict(facts))}**", ""]
    judged = "" if (label := judged_by(facts)) is None else f", judged by the label {escaped(label)}"
    lines += [f"{escaped(facts['base_model'] or 'No base model')}, adapted to {escaped(domain_of(facts))}{judged}.", ""]
    for tile in tiles(facts):
        lines.append(f"- {escaped(tile.label)}: **{escaped(tile.value)}** ({escaped(tile.note)})")
    for section in content:
        lines += ["", f"## {escaped(section.heading)}", ""]
        for paragraph in section.prose:
            lines += [escaped(paragraph), ""]
        for note in section.notes:
            lines += [f"> {escaped(note.text)} {_sources(note.sources)}", ""]
        for figure in section.figures:
            lines += [*_figure(figure), ""]
        for table in section.tables:
            lines += [*_table(table), ""]
        for examples in section.examples:
            lines += [*_examples(examples), ""]
    return "\n".join(lines).rstrip() + "\n"


def escaped(text: str) -> str:
    r"""Text that Markdown shows as it is.

    >>> escaped("a_b <b> | c")
    'a\\_b \\<b\\> \\| c'
    """
    return _MARKUP.sub(r"\\\1", text).replace("\n", " ")


def _sources(sources: list[Source]) -> str:
    return "(source: " + ", ".join(f"{source.stage} `{source.short}`" for source in sources) + ")"


def _figure(figure: Figure) -> list[str]:
    return [f"*Figure, {escaped(figure.title)}.* {escaped(figure.caption)} {escaped(figure.alt)} {_sources(figure.sources)}"]


def _table(table: Table) -> list[str]:
    lines = [f"**{escaped(table.caption)}** {_sources(table.sources)}", ""]
    lines.append("| " + " | ".join(escaped(column.heading) for column in table.columns) + " |")
    lines.append("|" + "|".join("---:" if column.is_number else "---" for column in table.columns) + "|")
    for row in table.rows:
        first = escaped(row.cells[0]) + (f" ({escaped(row.badge)})" if row.badge else "")
        lines.append("| " + " | ".join([first, *map(escaped, row.cells[1:])]) + " |")
    return lines


def _examples(examples: Examples) -> list[str]:
    lines = [f"**{escaped(examples.caption)}** {_sources(examples.sources)}", ""]
    for title, before, after in examples.items:
        lines.append(f"- {escaped(title)}" if title else "-")
        lines += [f"    - {_cut(cut)}" for cut in (before, after)]
    return lines


def _cut(cut: Cut) -> str:
    pieces = " · ".join(escaped(piece.text) for piece in cut.pieces)
    return f"{escaped(cut.title)} ({cut.tokens}): {pieces}"
