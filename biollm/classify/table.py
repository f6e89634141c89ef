"""The score table for a terminal."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table


def render_table(facts: dict[str, Any], width: int | None = None) -> str:
    """The facts of the stage `classify` as text, baselines marked, the verdict below. width: default the terminal's."""
    table = Table(title="Scores on the test split (95 % interval)", caption=escape(facts["verdict"]), box=box.SIMPLE_HEAD)
    table.add_column("features + head", no_wrap=True)
    table.add_column("role", no_wrap=True)
    table.add_column("AUROC", justify="right", no_wrap=True)
    table.add_column("AUPRC", justify="right", no_wrap=True)
    for row in facts["rows"]:
        table.add_row(
            escape(row["title"]),
            "baseline" if row["is_baseline"] else "ours",
            f"{row['auroc']:.3f} ({row['auroc_low']:.3f}–{row['auroc_high']:.3f})",
            f"{row['auprc']:.3f}",
        )
    console = Console(width=width)
    with console.capture() as captured:
        console.print(table)
    return captured.get().rstrip()
