"""The columns beside the sequence: ids, labels, groups and splits, over all files at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import polars as pl

from biollm.core.errors import DataError, listed
from biollm.ingest.records.config import RecordOptions

SPLIT_NAMES = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation", "devel": "validation",
    "development": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip
_TRUE, _FALSE = ("true", "t", "yes", "1", "1.0"), ("", "false", "f", "no", "0", "0.0", "nan")
# row of the frame -> "file line 7"
Place = Callable[[int], str]


def as_text(value: Any, column: str, error: Callable[[str], DataError], lists: bool = False) -> str | None:
    """A field as a reader found it in one spelling: text without white space at its ends; NaN and None are None.

    lists: a list of texts is joined by line ends; else it is refused, as objects are, with what `error` makes of the message.
    """
    if value is None or isinstance(value, str):
        return value.strip() if value is not None else None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and math.isnan(value):
        return None
    if lists and isinstance(value, list) and all(isinstance(part, str) for part in value):
        return "\n".join(value)
    if isinstance(value, list | dict | bytes | tuple):
        raise error(f"column '{column}' holds a {type(value).__name__}; expected a number or text: choose another column, or flatten it")
    return str(value)


def with_ids(frame: pl.DataFrame, names: list[str], column: str | None, place: Place) -> pl.DataFrame:
    """The ids, with <file>:<number> where a record brought none. Raises DataError for blank ids of a named column, and for equal ids."""
    blank = frame["id"].is_null() | (frame["id"].str.strip_chars() == "")
    if column is not None and blank.any():
        row = blank.arg_true()[0]
        raise DataError(f"{place(row)}: the column '{column}' (id) is blank here ({blank.sum()} times in all); fill it, or leave out `id`")
    made = pl.format("{}:{}", pl.col("part").replace_strict(dict(enumerate(names)), return_dtype=pl.String), pl.col("number"))
    frame = frame.with_columns(pl.when(blank).then(made).otherwise(pl.col("id")).alias("id"))
    again = frame["id"].is_duplicated()
    if again.any():
        ids = frame["id"].filter(again).unique(maintain_order=True)
        first, second = (frame["id"] == ids[0]).arg_true()[:2]
        raise DataError(
            f"{place(second)}: id '{ids[0]}' stands twice (first at {place(first)}); {len(ids)} ids do: {listed(ids.to_list(), 5)}. "
            "Ids must differ: rename or remove records, or take the id from another column (id; of a FASTA file: header)"
        )
    return frame


def with_missing(frame: pl.DataFrame, name: str, missing: list[str]) -> pl.DataFrame:
    """The column with null where it says that there is no value."""
    return frame.with_columns(pl.when(pl.col(name).is_in(missing)).then(None).otherwise(pl.col(name)).alias(name))


def with_values(frame: pl.DataFrame, name: str, column: str, missing: list[str], place: Place, strict: bool) -> pl.DataFrame:
    """The column as whole numbers or numbers if all its values are some, else as text.

    strict: raise DataError where numbers and words are mixed, or no value is left. Infinite numbers are refused always.
    """
    frame = with_missing(frame, name, missing)
    text = frame[name]
    numbers = text.cast(pl.Float64, strict=False)
    given, numeric = text.is_not_null(), numbers.is_not_null()
    if strict and not given.any():
        raise DataError(f"{place(0)}: the column '{column}' ({name}) holds no value in any record; choose another column")
    if not given.any() or not numeric.any():
        return _refuse_decimal_commas(frame, name, column, place) if strict else frame
    if (given & ~numeric).any():
        if not strict:
            return frame
        words = given & ~numeric
        odd = words if words.sum() <= numeric.sum() else numeric
        row = odd.arg_true()[0]
        raise DataError(
            f"{place(row)}: the column '{column}' ({name}) holds {text[row][:30]!r}, but mostly {'numbers' if odd is words else 'words'} "
            f"({int(numeric.sum())} numbers, {int(words.sum())} words); mend the value, or list it as missing"
        )
    if (endless := numbers.is_infinite() | numbers.is_nan()).any():
        row = endless.arg_true()[0]
        raise DataError(f"{place(row)}: the column '{column}' ({name}) holds {text[row]!r}; write a finite number, or list it as missing")
    whole = text.str.contains(r"^[+-]?\d+$") | text.is_null()
    integers = text.str.strip_prefix("+").cast(pl.Int64, strict=False)
    return frame.with_columns((integers if whole.all() and integers.null_count() == text.null_count() else numbers).alias(name))


def _refuse_decimal_commas(frame: pl.DataFrame, name: str, column: str, place: Place) -> pl.DataFrame:
    text = frame[name]
    commas = text.str.contains(r"^[+-]?\d+,\d+$")
    if commas.drop_nulls().all():
        row = text.is_not_null().arg_true()[0]
        raise DataError(f"{place(row)}: the column '{column}' ({name}) holds {text[row]!r}, with a decimal comma; write decimal points")
    return frame


def with_splits(frame: pl.DataFrame, options: RecordOptions, place: Place) -> pl.DataFrame:
    """The column `split` as train, validation and test. Raises DataError for every other word, and for none."""
    column = options.split
    splits = frame["split"].str.to_lowercase().replace_strict(SPLIT_NAMES, default=None, return_dtype=pl.String)
    if (unknown := splits.is_null()).any():
        row = unknown.arg_true()[0]
        found = frame["split"][row]
        raise DataError(
            f"{place(row)}: the column '{column}' (split) {f'holds {found[:30]!r}' if found else 'is blank'}; "
            f"expected one of {', '.join(SPLIT_NAMES)}: mend it, or remove the record"
        )
    frame = frame.with_columns(splits.alias("split"))
    if options.split_validation is None:
        return frame
    flags = frame["split_validation"].fill_null("").str.to_lowercase()
    if (odd := ~flags.is_in([*_TRUE, *_FALSE])).any():
        row = odd.arg_true()[0]
        found = flags[row][:30]
        raise DataError(f"{place(row)}: the column '{options.split_validation}' holds {found!r}; expected true, false or nothing: mend it")
    chosen = flags.is_in(_TRUE) & (frame["split"] == "train")
    return frame.with_columns(pl.when(chosen).then(pl.lit("validation")).otherwise(pl.col("split")).alias("split"))


def with_splits_of_files(frame: pl.DataFrame, shown: list[str], names: list[str]) -> pl.DataFrame:
    """The split that each file's name says. Raises DataError for a name that says none."""
    for file, name in zip(shown, names, strict=True):
        if name.lower() not in SPLIT_NAMES:
            raise DataError(
                f"{file} line 1: the name '{name}' says no split (split_from_name); expected one of {', '.join(SPLIT_NAMES)}: "
                "rename the file, or give a split column"
            )
    splits = {i: SPLIT_NAMES[name.lower()] for i, name in enumerate(names)}
    return frame.with_columns(pl.col("part").replace_strict(splits, return_dtype=pl.String).alias("split"))
