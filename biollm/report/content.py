"""What the page is made of, free of HTML: the template turns each of these into markup in one place."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


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

    cells: list[str]
    badge: str | None = None


@dataclass(frozen=True)
class Table:
    caption: str
    columns: list[Column]
    rows: list[Row]
    sources: list[Source]


@dataclass(frozen=True)
class Figure:
    """A Vega-Lite chart. `alt` is what a screen reader says instead of it. is_wide: it needs the whole width of the page."""

    id: str
    title: str
    caption: str
    alt: str
    spec: dict[str, Any]
    sources: list[Source]
    is_wide: bool = False


@dataclass(frozen=True)
class Note:
    """Something that the reader must know about how the numbers came about."""

    text: str
    sources: list[Source]


@dataclass(frozen=True)
class Piece:
    """A stretch of a text that is one token, or a remark in place of tokens that are left out."""

    text: str
    role: Literal["token", "unchanged", "left out"] = "token"


@dataclass(frozen=True)
class Cut:
    """One text as one tokenizer cuts it. tokens: how many, of which `pieces` may leave some out."""

    title: str
    tokens: int
    pieces: list[Piece]


@dataclass(frozen=True)
class Examples:
    """Texts cut in two ways, side by side where there is room. Each has a heading of its own, or "" if the cuts say all."""

    caption: str
    items: list[tuple[str, Cut, Cut]]
    sources: list[Source]


@dataclass(frozen=True)
class Section:
    """A headed part of the page: prose, notes, figures, tables, examples. Figures stand side by side where there is room."""

    id: str
    heading: str
    prose: list[str]
    figures: list[Figure] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    examples: list[Examples] = field(default_factory=list)


@dataclass(frozen=True)
class Tile:
    """One number that sums up a stage."""

    label: str
    value: str
    note: str
