"""Columns of the corpus as numbers: standardised or one-hot, fitted on train rows only, kept as plain JSON."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from biollm.classify.metrics import FloatArray
from biollm.core.errors import DataError, listed
from biollm.core.recipe import Section

# More would be an identifier, not a category.
_MAX_CATEGORIES = 100


class NumberColumn(Section):
    """mean and scale of the train rows. A missing number becomes the mean and sets the flag column."""

    name: str
    mean: float
    scale: float


class CategoryColumn(Section):
    """The categories of the train rows in order. Another one, or none, is all zeros."""

    name: str
    categories: list[str]

    def read(self, series: pl.Series) -> list[str | None]:
        """Values as the train rows spelt them: without white space at the ends, true and false in the letter case that these had.

        A table of text says True where a column of booleans says true.
        """
        known = set(self.categories)
        truths = {category.lower(): category for category in self.categories if category.lower() in ("true", "false")}
        found = [value if value is None or value in known else value.strip() for value in series.cast(pl.String).to_list()]
        return [value if value is None or value in known else truths.get(value.lower(), value) for value in found]


class CovariateEncoder(Section):
    """Fitted covariates."""

    columns: list[NumberColumn | CategoryColumn]

    def names(self) -> list[str]:
        found: list[str] = []
        for column in self.columns:
            if isinstance(column, NumberColumn):
                found += [column.name, f"{column.name}: missing"]
            else:
                found += [f"{column.name} = {category}" for category in column.categories]
        return found

    def transform(self, table: pl.DataFrame) -> FloatArray:
        """(records, columns). Raises DataError if the table lacks a column or holds text where the train rows had numbers."""
        if missing := [column.name for column in self.columns if column.name not in table.columns]:
            raise DataError(f"the table has no column {', '.join(missing)}, which the head was fitted with; add it")
        parts: list[FloatArray] = []
        for column in self.columns:
            series = table[column.name]
            if isinstance(column, NumberColumn):
                values = _numbers(series)
                known = np.isfinite(values)
                parts.append(np.column_stack([np.where(known, (values - column.mean) / column.scale, 0.0), ~known]))
            else:
                spelled = np.array(column.read(series), dtype=object)
                parts.append(spelled[:, None] == np.array(column.categories, dtype=object))
        return np.hstack(parts).astype(np.float64)

    def check(self, table: pl.DataFrame, ids: Sequence[str], missing: Sequence[str]) -> None:
        """Raises DataError naming the records whose category no train row had. missing: what stands for no category."""
        for column in self.columns:
            if isinstance(column, NumberColumn):
                continue
            values = column.read(table[column.name])
            known = {None, *missing, *column.categories}
            if odd := [i for i, value in enumerate(values) if value not in known]:
                raise DataError(
                    f"covariate '{column.name}' is {values[odd[0]]!r} in record {ids[odd[0]]}, which no train row was; {len(odd)} records "
                    f"have such a category: {listed([ids[i] for i in odd], 5)}; expected one of {listed(column.categories)}: mend the "
                    "spelling, or leave the field empty, which the head reads as none of these"
                )


def fit_covariates(table: pl.DataFrame, names: list[str]) -> CovariateEncoder:
    """table: the train rows. Numbers are standardised, all else is one-hot. Raises DataError for a column that says nothing there."""
    columns: list[NumberColumn | CategoryColumn] = []
    for name in names:
        series = table[name]
        if series.dtype.is_numeric():
            values = _numbers(series)
            known = values[np.isfinite(values)]
            if not len(known):
                raise DataError(f"covariate '{name}' has no number in the {len(values)} train rows; leave it out of classify.covariates")
            columns.append(NumberColumn(name=name, mean=float(known.mean()), scale=float(known.std()) or 1.0))
        elif series.dtype.is_nested():
            raise DataError(f"covariate '{name}' holds lists; expected a number or a category for each record; leave it out")
        else:
            categories = sorted(series.drop_nulls().cast(pl.String).unique().to_list())
            if not 0 < len(categories) <= _MAX_CATEGORIES:
                raise DataError(
                    f"covariate '{name}' has {len(categories)} categories in the train rows ({listed(categories, 3)}); "
                    f"expected 1 to {_MAX_CATEGORIES}; leave it out of classify.covariates"
                )
            columns.append(CategoryColumn(name=name, categories=categories))
    return CovariateEncoder(columns=columns)


def _numbers(series: pl.Series) -> FloatArray:
    if not series.dtype.is_numeric():
        raise DataError(f"covariate '{series.name}' holds text; the head was fitted on numbers; correct the column")
    return np.asarray(series.cast(pl.Float64).fill_null(float("nan")).to_numpy(), dtype=np.float64)
