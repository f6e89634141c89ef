"""The label column(s) as what a head is fitted to: the task, its classes and one number (or one row of 0 and 1) for each record.

The class set is fixed here, from the recipe or the whole label column, before any fold is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import polars as pl

from biollm.classify.config import CLASS_TASKS, Task
from biollm.classify.metrics import BoolArray, FloatArray, IntArray
from biollm.core.errors import DataError, listed
from biollm.corpus.columns import LABEL

# Whole numbers up to so many are taken as classes, more as a quantity. The facts say what was taken.
MAX_WHOLE_NUMBER_CLASSES = 20
# The gain of a relevance is 2**relevance - 1, which XGBoost counts in 32 bits.
MAX_RELEVANCE = 31


@dataclass(frozen=True)
class Targets:
    """What is to be predicted of n records.

    values: (n,) class numbers (binary, multiclass), (n,) quantities (regression, relevance in ranking), (n, labels) 0 and 1 (multilabel).
    classes: names of the classes, or of the labels; empty for quantities. query: (n,) number of the list that a record is ranked in.
    """

    task: Task
    classes: tuple[str, ...]
    values: FloatArray
    query: IntArray | None = None

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: IntArray) -> Targets:
        return replace(self, values=self.values[rows], query=None if self.query is None else self.query[rows])

    @property
    def positive(self) -> BoolArray:
        """(n,) which records are of the second class: of a binary task."""
        assert self.task == "binary", self.task
        return np.asarray(self.values == 1)

    def of_class(self) -> BoolArray:
        """(n, classes) membership; one column for a binary task (the positive class). Not for quantities."""
        if self.task == "binary":
            return self.positive[:, None]
        if self.task == "multiclass":
            return np.asarray(self.values[:, None] == np.arange(len(self.classes)))
        assert self.task == "multilabel", self.task
        return self.values.astype(bool)


def class_order(values: Sequence[Any]) -> list[str]:
    """The distinct values as names in order: as numbers if they are whole ones, else by the alphabet.

    >>> class_order([10, 9, 9]), class_order(["b", "a"])
    (['9', '10'], ['a', 'b'])
    """
    names = {str(value) for value in values}
    whole = all(name.lstrip("-").isdecimal() for name in names)
    return sorted(names, key=(lambda name: (int(name), name)) if whole else None)


def resolve_task(wanted: Literal["auto"] | Task, labels: list[pl.Series]) -> Task:
    """The task, from the label columns (without nulls) if it is left open. Numbers with a point are whole if all of them are: pandas writes
    0 and 1 as 0.0 and 1.0 where one is missing."""
    if wanted != "auto":
        return wanted
    if len(labels) > 1:
        return "multilabel"
    label = labels[0]
    if label.dtype.is_float():
        label = label.filter(label.is_finite())
        if not label.len() or (label != label.round()).any():
            return "regression"
    distinct = label.n_unique()
    if label.dtype.is_numeric() and distinct > MAX_WHOLE_NUMBER_CLASSES:
        return "regression"
    return "binary" if distinct <= 2 else "multiclass"


def read_targets(table: pl.DataFrame, columns: list[str], task: Task, classes: list[str | int], query: str, place: str) -> Targets:
    """The targets of labelled records. table: id and the label columns, free of nulls; place: for messages.

    Raises DataError naming records whose label is no class, not 0 or 1, or not a finite number.
    """
    ids = table["id"].to_list()
    if task == "multilabel":
        for name in columns:
            _check_zero_one(ids, table[name], place)
        return Targets(task, tuple(name.removeprefix(LABEL) for name in columns), table.select(columns).to_numpy().astype(np.float64))
    column = table[columns[0]]
    if task not in CLASS_TASKS:
        values = _numbers(ids, column, place)
        if task == "regression":
            return Targets(task, (), values)
        if odd := [ids[i] for i in odd_relevance(values)]:
            raise DataError(
                f"{place}: {len(odd)} records have a relevance that is no whole number of 0 to {MAX_RELEVANCE} in '{column.name}': "
                f"{listed(odd, 5)}; expected grades such as 0, 1, 2; write quantities as grades, or set classify.task to regression"
            )
        _, lists = np.unique(table[query].cast(pl.String).to_numpy(), return_inverse=True)
        return Targets(task, (), values, lists.astype(np.int64))
    if column.dtype == pl.Boolean:
        column = column.cast(pl.Int8)
    if column.dtype.is_float():
        column = _whole(ids, column, place)
    if task == "binary" and not classes:
        classes = ["0", "1"] if column.dtype.is_integer() else _two_values(column, place)
    names = [str(name) for name in classes] or class_order(column.unique().to_list())
    spelled = column.cast(pl.String)
    strange = [id_ for id_, name in zip(ids, spelled.to_list(), strict=True) if name not in set(names)]
    if strange:
        found = class_order(spelled.filter(~spelled.is_in(names)).to_list())
        expected = "0, 1 or nothing for each" if names == ["0", "1"] else f"{', '.join(names)} or nothing for each"
        what = "0 or 1" if names == ["0", "1"] else "class of this task"
        raise DataError(
            f"{place}: {len(strange)} records have no {what} in '{column.name}': {listed(strange, 5)}; found {listed(found, 5)}; "
            f"expected {expected}; correct them, or name them in classify.classes"
        )
    if not classes:
        _check_rare(ids, spelled, names, place)
    codes = spelled.replace_strict(names, list(range(len(names))), return_dtype=pl.Int64).to_numpy()
    return Targets(task, tuple(names), codes.astype(np.float64))


def odd_relevance(values: FloatArray) -> list[int]:
    """The rows whose relevance is no whole number of 0 to 31."""
    return np.flatnonzero(~((values >= 0) & (values <= MAX_RELEVANCE) & (values == np.round(values)))).tolist()


def without_choice(targets: Targets) -> str:
    """Why there is nothing to predict of these records, "" if there is: one class, a label or quantity with one value, or ranking without a
    list in which two records differ."""
    values, n = targets.values, len(targets)
    if targets.task == "multilabel":
        constant = [f"'{name}' is {column[0]:g} for all {n} records" for name, column in zip(targets.classes, values.T, strict=True)
                    if (column == column[0]).all()]  # fmt: skip
        return "; ".join(constant)
    if targets.task == "ranking":
        assert targets.query is not None
        pairs = np.unique(np.column_stack([targets.query, values]), axis=0)
        lists = len(np.unique(targets.query))
        return "" if len(pairs) > lists else f"none of its {lists} lists ({n} records) holds two records of different relevance"
    if (values != values[0]).any():
        return ""
    return f"all {n} records have the one value '{targets.classes[int(values[0])] if targets.classes else f'{values[0]:g}'}'"


def _check_rare(ids: list[str], spelled: pl.Series, names: list[str], place: str) -> None:
    """A class that the recipe does not name and one record has is more often a slip than a class."""
    counts = dict(spelled.value_counts().iter_rows())
    rare = [name for name in names if counts.get(name, 0) == 1]
    if rare:
        of_rare = [ids[i] for i in spelled.is_in(rare).arg_true()]
        raise DataError(
            f"{place}: {len(rare)} classes of '{spelled.name}' have one record only: {listed(rare, 5)} (records {listed(of_rare, 5)}); "
            f"the others are {listed([name for name in names if name not in rare], 5)}; correct these labels, take them out, "
            "or name all classes in classify.classes"
        )


def _check_zero_one(ids: list[str], column: pl.Series, place: str) -> None:
    are_numbers = column.dtype == pl.Boolean or column.dtype.is_numeric()
    strange = [ids[i] for i in (~column.cast(pl.Float64).is_in([0.0, 1.0])).arg_true()] if are_numbers else ids
    if strange:
        raise DataError(
            f"{place}: {len(strange)} records have no 0 or 1 in '{column.name}': {listed(strange, 5)}; "
            "expected 0, 1 or nothing for each; correct them"
        )


def _numbers(ids: list[str], column: pl.Series, place: str) -> FloatArray:
    if not (column.dtype.is_numeric() or column.dtype == pl.Boolean):
        raise DataError(
            f"{place}: '{column.name}' holds text (record {ids[0]}: {column[0]!r}); expected numbers for regression and ranking; "
            "correct it, or set classify.task to multiclass"
        )
    values = column.cast(pl.Float64).to_numpy()
    if broken := [ids[i] for i in np.flatnonzero(~np.isfinite(values))]:
        raise DataError(
            f"{place}: {len(broken)} records have NaN or infinity in '{column.name}': {listed(broken, 5)}; "
            "expected a number, or nothing for a record without a label; correct them"
        )
    return np.asarray(values, dtype=np.float64)


def _whole(ids: list[str], column: pl.Series, place: str) -> pl.Series:
    values = _numbers(ids, column, place)
    if broken := [ids[i] for i in np.flatnonzero(values != np.round(values))]:
        raise DataError(
            f"{place}: {len(broken)} records have a fraction in '{column.name}': {listed(broken, 5)}; "
            "expected classes; correct them, or set classify.task to regression"
        )
    return column.cast(pl.Int64)


def _two_values(column: pl.Series, place: str) -> list[str | int]:
    names = class_order(column.unique().to_list())
    if len(names) != 2:
        raise DataError(
            f"{place}: '{column.name}' has {len(names)} values ({listed(names, 5)}); task binary expected two; "
            "set classify.task to multiclass, or correct the labels"
        )
    return list(names)
