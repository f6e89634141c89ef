"""The results of a benchmark for people: Markdown, and tables for a terminal. Both from the facts in benchmark.json."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

JSON, MARKDOWN = "benchmark.json", "benchmark.md"
_AUDIT = {"clean": "clean", "warnings": "warnings", "leaks": "LEAKS: these scores are too good"}
_MOST_FINDINGS = 6


def as_markdown(facts: dict[str, Any]) -> str:
    """The whole of it as one document."""
    lines = [f"# {facts['title']}", "", _sentence(facts), ""]
    for table in facts["tables"]:
        lines += [f"## {table['title']}", ""]
        if table["status"] != "scored":
            lines += [f"{table['status'].capitalize()}: {table['reason']}", ""]
            continue
        lines += [_about(table), "", f"Leak audit: **{_AUDIT[table['audit']['verdict']]}**.", ""]
        if found := table["audit"]["findings"]:
            lines += [*(f"- {finding}" for finding in found[:_MOST_FINDINGS]), ""]
        lines += [f"| rank | | {table['metric']['title']} | sd | |", "|--:|---|--:|--:|---|"]
        lines += ["| " + " | ".join(_escaped(cell) for cell in _cells(row)) + " |" for row in table["rows"]]
        lines += [
            f"| – | {_escaped(_who(figure, table))} | {figure['value']:g} | | {_escaped(_where(figure))} |" for figure in table["published"]
        ]
        lines += ["", *([f"Data: {table['cite']}", ""] if table["cite"] else [])]
    if facts["ranks"]:
        lines += ["## Ranks", "", "| | mean rank | tables | first |", "|---|--:|--:|--:|"]
        lines += [f"| {_escaped(r['name'])} | {r['mean_rank']:.2f} | {r['tables']} | {r['wins']} |" for r in facts["ranks"]]
        lines += [
            "",
            "An entry is ranked on the tables that it could be scored on; entries with fewer tables stand behind. Published figures are "
            "not ranked: their splits may differ.",
            "",
        ]
    return "\n".join(lines)


def render(facts: dict[str, Any], width: int | None = None) -> str:
    """The scores and ranks as text for a terminal. width: default the terminal's."""
    console = Console(width=width)
    with console.capture() as captured:
        for facts_of in facts["tables"]:
            console.print(_skipped(facts_of) if facts_of["status"] != "scored" else _scores(facts_of))
        if facts["ranks"]:
            console.print(_ranks(facts))
    return captured.get().rstrip()


def _scores(table: dict[str, Any]) -> Table:
    shown = Table(title=escape(f"{table['title']}: {_about(table)}"), box=box.SIMPLE_HEAD, title_justify="left")
    sources = dict.fromkeys(_where(figure) for figure in table["published"])
    shown.caption = escape("\n".join([f"leak audit: {_AUDIT[table['audit']['verdict']]}", *(f"published: {source}" for source in sources)]))
    shown.caption_justify = "left"
    for column in ("rank", "", table["metric"]["title"], "sd", ""):
        shown.add_column(column, justify="right" if column in ("rank", "sd", table["metric"]["title"]) else "left")
    for row in table["rows"]:
        shown.add_row(*(escape(cell) for cell in _cells(row)))
    for figure in table["published"]:
        shown.add_row("–", escape(_who(figure, table)), f"{figure['value']:g}", "", "")
    return shown


def _ranks(facts: dict[str, Any]) -> Table:
    shown = Table(title="Mean rank over the tables", box=box.SIMPLE_HEAD, title_justify="left")
    for column in ("", "mean rank", "tables", "first"):
        shown.add_column(column, justify="left" if not column else "right")
    for rank in facts["ranks"]:
        shown.add_row(escape(rank["name"]), f"{rank['mean_rank']:.2f}", str(rank["tables"]), str(rank["wins"]))
    return shown


def _skipped(table: dict[str, Any]) -> str:
    return escape(f"{table['title']}: {table['status']}: {table['reason']}\n")


def _cells(row: dict[str, Any]) -> list[str]:
    number = ["–" if row[name] is None else f"{row[name]:.4f}" for name in ("mean", "sd")]
    rank = "–" if row["rank"] is None else f"{row['rank']:g}"
    return [rank, row["name"] + (" (baseline)" if row["kind"] == "baseline" else ""), *number, row["note"]]


def _sentence(facts: dict[str, Any]) -> str:
    limit = f"; at most {facts['limit']:,} records of each table" if facts["limit"] else ""
    head = facts["head"] or "logistic regression (ridge for quantities)"
    return (
        f"Heads: {head} on mean-pooled embeddings, fitted on train, chosen on validation, scored on test. "
        f"Mean and standard deviation over {facts['seeds']} seeds{limit}; no deviation (–) where no seed changes anything, because the "
        "splits are given and the head draws nothing."
    )


def _about(table: dict[str, Any]) -> str:
    counts = table["records"][0]
    rows = ", ".join(f"{count:,} {split}" for split, count in counts.items())
    classes = f" of {len(table['classes'])} classes" if len(table["classes"]) > 2 else ""
    again = ", the same for all seeds" if table["split"] == "given" else ""
    without = f", {table['unlabelled']['records']:,} without a label left out" if table["unlabelled"]["records"] else ""
    return f"{table['label']} ({table['task']}{classes}), {rows}{without}; split by {table['split']}{again}"


def _who(figure: dict[str, Any], table: dict[str, Any]) -> str:
    metric = "" if figure["metric"] == table["metric"]["name"] else f", {figure['metric']}"
    return f"{figure['model']} (published{metric})"


def _where(figure: dict[str, Any]) -> str:
    return f"{figure['source']}; {figure['note']}" if figure["note"] else str(figure["source"])


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
