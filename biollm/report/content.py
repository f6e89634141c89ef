"""What the page is made of, free of HTML: the template turns each of these into markup in one place."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

# A cell is text, or a list of tokens that are shown as chips.
Cell = str | list[str]


@dataclass(frozen=True)
class Source:
    """The artifact that numbers come from."""

    stage: str
    digest: str

    @property
    def short(self) -> str:
        return self.digest[:12]


@dataclass(frozen=True)
class Column:
    heading: str
    is_number: bool = True


@dataclass(frozen=True)
class Row:
    """One line of a table. The first cell names it. A badge stands after the name."""

    cells: list[Cell]
    badge: str | None = None


@dataclass(frozen=True)
class Table:
    caption: str
    columns: list[Column]
    rows: list[Row]
    sources: list[Source]


@dataclass(frozen=True)
class Figure:
    """A Vega-Lite chart. `alt` is what a screen reader says instead of it."""

    id: str
    title: str
    caption: str
    alt: str
    spec: dict[str, Any]
    sources: list[Source]


@dataclass(frozen=True)
class Section:
    """A headed part of the page: prose, then figures, then tables. Figures stand side by side where there is room."""

    id: str
    heading: str
    prose: list[str]
    figures: list[Figure] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)


@dataclass(frozen=True)
class Tile:
    """One number that sums up a stage."""

    label: str
    value: str
    note: str
