"""The score table for a terminal."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table


def render_table(facts: dict[str, Any], width: int | None = None) -> str:
    """The facts of the stage `classify` as text, baselines marked, the verdict below. width: default the terminal's."""
    scored = "the test split" if facts["scheme"]["scheme"] == "given" else "all labelled records, out of fold"
    first, second = facts["measures"][0], facts["measures"][1] if len(facts["measures"]) > 1 else None
    table = Table(title=f"Scores on {scored} (95 % interval)", caption=escape(facts["verdict"]), box=box.SIMPLE_HEAD)
    table.add_column("features + head", no_wrap=True)
    table.add_column("role", no_wrap=True)
    for measure in filter(None, (first, second)):
        table.add_column(measure["title"], justify="right", no_wrap=True)
    for row in facts["rows"]:
        table.add_row(
            escape(row["title"]),
            "baseline" if row["is_baseline"] else "ours",
            _ranged(row, first["name"]),
            *([_value(row[second["name"]])] if second else []),
        )
    console = Console(width=width)
    with console.capture() as captured:
        console.print(table)
    return captured.get().rstrip()


def _ranged(row: dict[str, Any], name: str) -> str:
    return f"{_value(row[name])} ({_value(row[f'{name}_low'])}–{_value(row[f'{name}_high'])})"


def _value(number: float | None) -> str:
    return "–" if number is None else f"{number:.3f}"
