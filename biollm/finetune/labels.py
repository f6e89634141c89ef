"""Columns of the corpus as answers: classes, yes/no labels, values, and classes of residues or words as classes of tokens.

Legend: T tokens, R residues (or bytes of a text) that they stand for, U units with a class of their own (residues or words), C classes.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from biollm.core.errors import DataError, listed
from biollm.corpus.columns import LABEL
from biollm.modeling.encoding import IntArray
from biollm.training.objectives import IGNORED

FloatArray = NDArray[np.float32]
TAGS = "tags"  # what ingest calls the IOB tags of a CoNLL file
NO_UNIT = -1
_NAMED = 5  # ids in an error


def label_column(records: pl.DataFrame, name: str) -> str:
    """The column of a label: label_<name>, or `tags` itself. Raises DataError naming those that there are."""
    if name == TAGS and TAGS in records.columns:
        return TAGS
    if (column := LABEL + name) in records.columns:
        return column
    there = [c.removeprefix(LABEL) for c in records.columns if c.startswith(LABEL)] + [c for c in records.columns if c == TAGS]
    raise DataError(
        f"finetune: the corpus has no label '{name}'; it has {', '.join(there) or 'none'}: name one of them, or let ingest make it"
    )


def class_names(found: pl.Series) -> list[str]:
    """The classes of a column in order: as numbers if they are whole ones, else by the alphabet.

    >>> class_names(pl.Series(["10", "9", "9"]))
    ['9', '10']
    """
    names = [str(name) for name in found.drop_nulls().unique()]
    by_number: Callable[[str], Any] = int if all(re.fullmatch(r"-?\d+", name) for name in names) else str
    return sorted(names, key=by_number)


def classes_of(records: pl.DataFrame, column: str) -> pl.Series:
    """The column as names of classes; null where a record has none. Raises DataError naming records whose value is no class."""
    values = records[column]
    if values.dtype.is_float():
        odd = records.filter(pl.col(column).is_not_null() & (~pl.col(column).is_finite() | (pl.col(column) != pl.col(column).floor())))
        if odd.height:
            raise _wrong(odd["id"], column, repr(odd[column][0]), "a class: a word or a whole number", "for values set task: regression")
        values = values.cast(pl.Int64)
    elif values.dtype == pl.Boolean:
        values = values.cast(pl.Int64)
    elif not (values.dtype.is_integer() or values.dtype == pl.String):
        raise DataError(f"{column} holds {values.dtype}; expected a class for each record: a word or a whole number")
    return values.cast(pl.String)


def class_numbers(ids: Sequence[str], classes: Sequence[str | None], names: Sequence[str], column: str) -> IntArray:
    """(n,) place of each class among the names, IGNORED for None. Raises DataError naming records whose class is none of them."""
    place: dict[str | None, int] = {name: i for i, name in enumerate(names)} | {None: IGNORED}
    strange = [(record, name) for record, name in zip(ids, classes, strict=True) if name not in place]
    if strange:
        first = strange[0][1]
        raise _wrong(
            [record for record, name in strange if name == first], column, repr(first), f"one of {listed(list(names))}",
            "correct them, or add it to finetune.classes",
        )  # fmt: skip
    return np.asarray([place[name] for name in classes], dtype=np.int64)


def check_classes(numbers: IntArray, names: Sequence[str], column: str) -> None:
    """Raises DataError if the train split holds less than two classes. numbers: (n,) of its records or tokens."""
    present = np.unique(numbers[numbers != IGNORED])
    if len(present) < 2:
        found = f"only '{names[present[0]]}'" if len(present) else "none"
        raise DataError(
            f"{column}: the train split holds {found} of the classes {listed(list(names))}; expected two or more there; "
            "choose another label, or change ingest.split"
        )


def yes_no_matrix(records: pl.DataFrame, columns: Sequence[str]) -> FloatArray:
    """(n, labels) 1 and 0, NaN where a record has no value. Raises DataError naming records with another value."""
    for column in columns:
        if records[column].dtype == pl.String:
            raise DataError(f"{column} holds words, such as {records[column].drop_nulls()[0]!r}; expected 0, 1 or nothing for each record")
        odd = records.filter(pl.col(column).is_not_null() & ~pl.col(column).cast(pl.Float64).is_in([0.0, 1.0]))
        if odd.height:
            raise _wrong(odd["id"], column, repr(odd[column][0]), "0, 1 or nothing", "correct them")
    return np.stack([records[column].cast(pl.Float32).fill_null(np.nan).to_numpy() for column in columns], axis=1)


def check_yes_no(matrix: FloatArray, columns: Sequence[str]) -> None:
    """Raises DataError if a label has no yes, or no no, in the train split. matrix: (n, labels) of it."""
    for column, values in zip(columns, matrix.T, strict=True):
        yes, no = int((values == 1).sum()), int((values == 0).sum())
        if not yes or not no:
            raise DataError(
                f"{column}: the train split holds {yes} records with 1 and {no} with 0; expected some of each; "
                "leave the label out, or change ingest.split"
            )


def numbers_of(records: pl.DataFrame, column: str) -> NDArray[np.float64]:
    """(n,) values. Raises DataError if the column holds words, or naming records whose value is NaN or infinite."""
    if not records[column].dtype.is_numeric():
        raise DataError(
            f"{column} holds words, such as {records[column].drop_nulls()[0]!r}; task: regression expects numbers; choose another label"
        )
    odd = records.filter(~pl.col(column).cast(pl.Float64).is_finite())
    if odd.height:
        raise _wrong(odd["id"], column, repr(odd[column][0]), "a finite number, or nothing", "correct them")
    return np.asarray(records[column].cast(pl.Float64).to_numpy())


def balanced_weights(counts: NDArray[np.int64]) -> FloatArray:
    """Weights of classes that give each the same share of the loss, 1 on average over records; 0 for a class without any.

    counts: (..., C) records of each class, C of them weighed against one another.

    >>> [f"{weight:.2f}" for weight in balanced_weights(np.array([30, 10]))]
    ['0.67', '2.00']
    """
    present = (counts > 0).sum(axis=-1, keepdims=True)
    total = counts.sum(axis=-1, keepdims=True)
    return np.where(counts > 0, total / (present * np.maximum(counts, 1)), 0.0).astype(np.float32)


# --- residues and words ---------------------------------------------------------------------------------------------------------


def unit_classes(value: Any, by_word: bool) -> list[str | None]:
    """The classes of the residues or words of a record: a list, a list in JSON, words with spaces between, or a letter for each residue.

    None in a list: no class is known.

    >>> unit_classes("HHE", by_word=False)
    ['H', 'H', 'E']
    >>> unit_classes('["O", null, "B-Gene"]', by_word=True)
    ['O', None, 'B-Gene']
    """
    if isinstance(value, str) and value.startswith("["):
        with contextlib.suppress(ValueError):  # '[' may be a class
            value = json.loads(value)
    if isinstance(value, str):
        value = value.split() if by_word or " " in value else list(value)
    return [None if name is None else str(name) for name in value]


def residue_units(text: str, by_word: bool) -> IntArray:
    """(R,) the unit that each residue of a sequence or byte of a text belongs to, NO_UNIT for white space between words.

    >>> residue_units("a µg", by_word=True).tolist()
    [0, -1, 1, 1, 1]
    """
    if not by_word:
        return np.arange(len(text), dtype=np.int64)
    units = np.full(len(text.encode()), NO_UNIT, dtype=np.int64)
    for number, word in enumerate(re.finditer(r"\S+", text)):
        start = len(text[: word.start()].encode())
        units[start : start + len(word.group().encode())] = number
    return units


def token_classes(residues: IntArray, units: IntArray, class_of_unit: IntArray, classes: int) -> IntArray:
    """(T,) the class of each token: that of most residues it stands for, of equally many the first in the list of classes.

    residues: (T,) how many each token stands for; units: (R,) see residue_units; class_of_unit: (U,), IGNORED if unknown.
    A token of which nothing is known, or that stands for nothing, is IGNORED.
    """
    token = np.repeat(np.arange(len(residues)), residues)
    units = units[: len(token)]
    of_residue = np.where(units == NO_UNIT, IGNORED, class_of_unit[units])
    known = of_residue != IGNORED
    counts = np.zeros((len(residues), classes), dtype=np.int64)
    np.add.at(counts, (token[: len(units)][known], of_residue[known]), 1)
    return np.where(counts.any(axis=1), counts.argmax(axis=1), IGNORED)


def unit_probabilities(probabilities: FloatArray, residues: IntArray, units: IntArray, number: int) -> FloatArray:
    """(U, C) for each unit the mean over its residues of what their tokens (T, C) say; NaN if no token stands for it."""
    token = np.repeat(np.arange(len(residues)), residues)[: len(units)]
    units = units[: len(token)]
    within = units != NO_UNIT
    sums = np.zeros((number, probabilities.shape[1]), dtype=np.float64)
    np.add.at(sums, units[within], probabilities[token[within]])
    covered = np.bincount(units[within], minlength=number)[:, None]
    return np.divide(sums, covered, out=np.full_like(sums, np.nan), where=covered > 0).astype(np.float32)


def _wrong(ids: Sequence[str] | pl.Series, column: str, found: str, expected: str, remedy: str) -> DataError:
    names = [str(name) for name in ids]
    which = f"record {names[0]} has" if len(names) == 1 else f"{len(names)} records have"
    there = "" if len(names) == 1 else f" ({listed(names, _NAMED)})"
    return DataError(f"{which} {found} in {column}{there}; expected {expected}; {remedy}")
