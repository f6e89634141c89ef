"""A table made ready for the audit: checked, in an order of its own, its splits in the order in which they may leak."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from biollm.core.alphabets import ALPHABETS, DOUBLE_STRANDED, Modality
from biollm.core.errors import DataError
from biollm.corpus.options import AuditOptions
from biollm.corpus.similarity import IntArray

Severity = Literal["leak", "warning", "info"]
BoolArray = NDArray[np.bool_]

_MOST_EXAMPLES = 10
_SPLIT_ORDER = ("train", "validation", "test")
_SPLIT_NAMES = [
    ("train", re.compile(r"^(train|trn|training)(?![a-z])", re.IGNORECASE)),
    ("validation", re.compile(r"^(valid|val|validation|dev|development)(?![a-z])", re.IGNORECASE)),
    ("test", re.compile(r"^(test|tst|testing|eval|evaluation|holdout)(?![a-z])", re.IGNORECASE)),
]


@dataclass(frozen=True)
class Finding:
    """One thing that the audit saw.

    kind: a fixed name; count: rows touched; shares: of the rows of each evaluation split, the part touched; sentence: in plain words;
    remedy: what to do; measures: numbers beside it; examples: (id, split, other id, other split, similarity), the first ten.
    """

    kind: str
    severity: Severity
    count: int
    sentence: str
    remedy: str = ""
    shares: dict[str, float] = field(default_factory=dict)
    tolerance: float | None = None
    measures: dict[str, float | str] = field(default_factory=dict)
    examples: tuple[tuple[str, str, str, str, float], ...] = ()


@dataclass(frozen=True)
class Sides:
    """The rows' ids, and their split as a number: a split may leak into those with larger numbers. `evaluation`: the splits leaked into."""

    ids: list[str]
    number: IntArray
    names: list[str]

    @property
    def evaluation(self) -> range:
        return range(1, len(self.names))

    def shares(self, touched: BoolArray) -> dict[str, float]:
        return {self.names[i]: float(touched[self.number == i].mean()) for i in self.evaluation if (self.number == i).any()}

    def examples(self, touched: BoolArray, partner: IntArray, similarity: NDArray[np.float64] | None = None) -> tuple[Any, ...]:
        rows = sorted(np.flatnonzero(touched).tolist(), key=lambda row: -self.number[row])[:_MOST_EXAMPLES]  # test before validation
        value = np.full(len(touched), np.nan) if similarity is None else similarity
        return tuple(
            (self.ids[row], self.names[self.number[row]], self.ids[partner[row]], self.names[self.number[partner[row]]], float(value[row]))
            for row in rows
        )

    def most(self, touched: BoolArray) -> str:
        """The evaluation split that is touched most, in words: "12 of 300 test rows (4 %)"."""
        shares = self.shares(touched)
        worst = max(shares, key=lambda name: shares[name])
        inside = self.number == self.names.index(worst)
        return f"{int(touched[inside].sum()):,} of {int(inside.sum()):,} {worst} rows ({percent(shares[worst])})"


def check_table(table: pl.DataFrame, options: AuditOptions) -> pl.DataFrame:
    """The table sorted by id, split and sequence, so that what is found does not depend on the order of its rows."""
    wanted = [
        options.sequence,
        *options.headers,
        *(options.groups or ()),
        *(options.labels or ()),
        *filter(None, (options.split, options.id)),
    ]
    if absent := [name for name in wanted if name not in table.columns]:
        raise DataError(f"the table has no column {', '.join(map(repr, absent))}; it has {', '.join(table.columns)}; name the right one")
    if table.height == 0:
        raise DataError("the table has no rows; give one with a sequence a row")
    sequences = table[options.sequence]
    if sequences.dtype != pl.String:
        raise DataError(f"column '{options.sequence}' holds {sequences.dtype}, not text; name the column of the sequences")
    if not (sequences.fill_null("").str.strip_chars() != "").any():
        raise DataError(f"column '{options.sequence}' is empty in every row; name the column of the sequences")
    if options.modality != "text":
        sequences = sequences.str.strip_chars()
        if options.modality == "protein":
            sequences = sequences.str.strip_suffix("*")
    column = id_column(table, options)
    numbered = pl.format("row {}", pl.int_range(1, pl.len() + 1))
    ids = pl.col(column or ROW_NAME).cast(pl.String).fill_null("") if column or ROW_NAME in table.columns else numbered
    table = table.with_columns(sequences.alias(options.sequence), ids.alias(ID))
    _check_letters(sequences, table[ID], options.modality)
    _check_windows(table, options)
    return table.sort([ID, *([split] if (split := split_column(table, options)) else []), options.sequence]) if column else table


ID = "\x00id"
ROW_NAME = "\x00row"  # what a reader calls the rows of a table without ids; a number there says nothing of the label


def _check_letters(sequences: pl.Series, ids: pl.Series, modality: Modality) -> None:
    alphabet = ALPHABETS[modality]
    if not alphabet.residues:
        return
    foreign = sequences.str.contains(f"{'(?i)' if alphabet.folds_case else ''}[^{re.escape(alphabet.accepted)}]").fill_null(False)
    for row in foreign.arg_true().to_list():
        if (position := alphabet.foreign(raw := sequences[row])) is not None:
            guess = " (protein? say so with modality)" if modality in DOUBLE_STRANDED and raw[position].upper() in "EFILPQ" else ""
            raise DataError(
                f"{ids[row]}: {raw[position]!r} at position {position + 1} of the sequence; {modality} sequences may hold "
                f"{alphabet.accepted}{guess}; set another modality, or mend the row"
            )


def _check_windows(table: pl.DataFrame, options: AuditOptions) -> None:
    columns = [options.contig, options.start_0based, options.end]
    if any(name not in table.columns for name in columns):
        return
    for name in columns[1:]:
        if not table[name].dtype.is_integer():
            raise DataError(f"column '{name}' holds {table[name].dtype}, not whole numbers; positions are counted in bases from 0")
    wrong = (table[options.end] < table[options.start_0based]) | (table[options.start_0based] < 0)
    if wrong.any():
        row = wrong.fill_null(False).arg_true()[0]
        span = f"{table[options.start_0based][row]}-{table[options.end][row]}"
        raise DataError(f"{table[ID][row]}: the window {span} ends before it starts, or starts below 0; expected 0 <= start <= end")


def read_sides(table: pl.DataFrame, options: AuditOptions) -> Sides:
    ids = table[ID].to_list()
    column = split_column(table, options)
    if column is None and options.splits:
        raise DataError(
            f"splits are declared ({', '.join(options.splits)}), but the table has no column 'split'; name the column with --split "
            "(in a recipe: audit.split)"
        )
    if column is None:
        return Sides(ids, np.zeros(table.height, dtype=np.int64), ["all"])
    values = blank_is_null(table[column].cast(pl.String))
    if values.null_count():
        row = values.is_null().arg_true()[0]
        raise DataError(f"{ids[row]}: the column '{column}' is empty ({values.null_count():,} rows are); give every row its split")
    names = order_splits(values.unique().to_list(), options.splits)
    number = {name: i for i, name in enumerate(names)}
    return Sides(ids, np.array([number[value] for value in values.to_list()], dtype=np.int64), names)


def order_splits(names: Sequence[str], declared: Sequence[str] = ()) -> list[str]:
    """The splits in the order in which they may leak: training first, then validation, then test, then others by name.

    Raises DataError if `declared` lacks one, or if none is declared and no name says that it is for training.
    """
    if declared:
        if unknown := sorted(set(names) - set(declared)):
            raise DataError(f"splits {', '.join(unknown)} are in the table but not among those declared: {', '.join(declared)}; add them")
        return [name for name in declared if name in names]

    def role(name: str) -> int:
        found = [_SPLIT_ORDER.index(role) for role, pattern in _SPLIT_NAMES if pattern.match(name)]
        return found[0] if found else len(_SPLIT_ORDER)

    ordered = sorted(names, key=lambda name: (role(name), name))
    if len(ordered) > 1 and role(ordered[0]) != 0:
        raise DataError(
            f"none of the splits {', '.join(ordered)} is named train; name them with --splits, training first (in a recipe: audit.splits)"
        )
    return ordered


def split_column(table: pl.DataFrame, options: AuditOptions) -> str | None:
    return options.split or ("split" if "split" in table.columns else None)


def id_column(table: pl.DataFrame, options: AuditOptions) -> str | None:
    return options.id or ("id" if "id" in table.columns else None)


def blank_is_null(values: pl.Series) -> pl.Series:
    if values.dtype == pl.String:
        return values.to_frame("v").select(pl.when(pl.col("v").str.strip_chars() != "").then(pl.col("v")))["v"]
    return values.fill_nan(None) if values.dtype.is_float() else values


def percent(share: float) -> str:
    return f"{100 * share:.3g} %"
