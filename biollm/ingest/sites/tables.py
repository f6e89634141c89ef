"""Text tables of sites into checked frames: a fast reading of whole blocks, and a slow one that only finds the line of a fault."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
import polars as pl

from biollm.core.errors import ConfigError, DataError
from biollm.core.streams import read_blocks
from biollm.ingest.sites.config import SiteOptions
from biollm.ingest.sites.layouts import MISSING, Layout, fault_of, is_comment, is_header, map_text, split_row

Unit = Literal["fraction", "percent", "signal"]
# Levels are printed with two decimals of a fraction or none of a percent, some of them cut rather than rounded (measured: up to 0.0073
# away in the files of the ccsmeth project). A wrong column or unit is further off.
ROUNDING = 0.0101
MAX_ROWS = 1 << 20
_MAX_POSITION = 1 << 40  # a hundred times the longest chromosome known
_MAX_FLOAT32 = 3.4e38
_COMMENTS = re.compile(rb"(?m)^(?:#.*|(?:track|browser)(?:[ \t].*)?|[ \t]*)\n")
_COMMENT_MARKS = (b"\n#", b"\ntrack", b"\nbrowser", b"\n\n", b"\n ", b"\n\t")


@dataclass(frozen=True)
class Rows:
    """Some rows of a file, by role and typed, and the text they came from."""

    file: Path
    layout: Layout
    first_line: int
    block: bytes
    header_line: int | None
    table: pl.DataFrame

    def lines(self) -> Iterator[tuple[int, str]]:
        """Number and content of the lines that are rows of the table, in its order. Slow."""
        for number, line in enumerate(self.block.decode().split("\n"), start=self.first_line):
            if number != self.header_line and not is_comment(line):
                yield number, line

    def place(self, row: int) -> str:
        return f"{self.file} line {next(number for i, (number, _) in enumerate(self.lines()) if i == row)}"

    def refuse(self) -> NoReturn:
        """Raise the error for a block that the fast reading could not take, naming its first bad line."""
        for number, line in self.lines():
            if fault := fault_of(split_row(line, self.layout), self.layout):
                raise DataError(f"{self.file} line {number}: {fault}. Expected {self.layout.describe()}")
        raise DataError(f"{self.file}, the block from line {self.first_line}: cannot be read as {self.layout.describe()}")


def read_rows(file: Path, layout: Layout) -> Iterator[Rows]:
    """The rows of a file in blocks. Raises DataError with file and line for a row that has not the columns of the layout."""
    header_line, found = None, False
    for first_line, block in read_blocks(file):
        data = block
        if block.startswith(tuple(mark[1:] for mark in _COMMENT_MARKS)) or any(mark in block for mark in _COMMENT_MARKS):
            data = _COMMENTS.sub(b"", block)
        if data and not found:
            head = data[: data.index(b"\n")]
            if is_header(split_row(head.decode(), layout)):
                data = data[len(head) + 1 :]
                header_line = first_line + block[: block.index(head)].count(b"\n")
        if not data:
            continue
        found = True
        table = _parse(data, layout)
        rows = Rows(file, layout, first_line, block, header_line, table if table is not None else pl.DataFrame())
        if table is None:
            rows.refuse()
        yield rows
    if not found:
        raise DataError(f"{file}: holds no row of data (an empty file, or only headers and comments); expected {layout.describe()}")


def _parse(data: bytes, layout: Layout) -> pl.DataFrame | None:
    """The read columns, or None if a row is not of the layout. Only values may be null."""
    if layout.spaces and b" " in data:
        data = re.sub(rb" +", b"\t", data)
    # Polars fills short rows with nulls, so columns are counted. A long row it refuses, so that no two faults can cancel; but only where
    # it parses all columns (polars 2.1), which costs a fifth more time than a choice of them.
    if data.count(b"\t") != data.count(b"\n") * (len(layout.columns) - 1):
        return None
    table = _read_csv(data, layout, layout.schema)
    if table is None:  # perhaps only for a missing value written as a word
        texts: dict[str, type[pl.DataType]] = dict.fromkeys(("value", "effective"), pl.String)
        table = _read_csv(data, layout, layout.schema | {role: kind for role, kind in texts.items() if role in layout})
        if table is None:
            return None
        for role in [role for role in texts if role in layout]:
            known = pl.col(role).is_not_null() & ~pl.col(role).is_in(MISSING)
            number = pl.col(role).cast(pl.Float64, strict=False)
            if table.select((known & number.is_null()).any()).item():
                return None
            table = table.with_columns(pl.when(known).then(number))
    required = [role for role in table.columns if role not in ("value", "effective")]
    if any(table[role].null_count() for role in required):
        return None
    return table.with_columns(pl.col(role).fill_nan(None) for role in ("value", "effective") if role in layout)


def _read_csv(data: bytes, layout: Layout, schema: dict[str, type[pl.DataType]]) -> pl.DataFrame | None:
    try:
        table = pl.read_csv(data, has_header=False, schema=schema, separator="\t", quote_char=None)
    except (pl.exceptions.ComputeError, pl.exceptions.SchemaError):
        return None
    return table.select(role for role in layout.columns if role)


Message = Callable[[dict[str, Any]], str]


def _checks(layout: Layout, base: int, declared: bool, unit: Unit) -> list[tuple[pl.Expr, Message]]:
    """What no row may be, and what to say of one that is."""
    start, end, value = pl.col("start"), pl.col("end"), pl.col("value")
    other = f"declare coordinates: {1 - base} if this file counts otherwise"
    checks: list[tuple[pl.Expr, Message]] = [
        (start < 0, lambda row: f"position {row['start']} is negative; expected {base} or more"),
        (start > _MAX_POSITION, lambda row: f"position {row['start']}; expected that of a base in a sequence"),
        (start < base, lambda row: f"position {row['start']}; the first base is {base} in {layout.format}; {other}"),
    ]
    if "end" in layout:
        bases = end - start + base
        checks.append((end > _MAX_POSITION, lambda row: f"end {row['end']}; expected that of a base in a sequence"))
        checks.append((bases < 1, lambda row: f"start {row['start']} and end {row['end']}; expected start {'<=' if base else '<'} end"))
        if layout.format == "bismark_cov" and not declared:
            checks.append((
                end == start + 1,
                lambda row: f"start {row['start']} and end {row['end']}; expected start = end. Declare coordinates: 0 if this counts "
                "from 0 (zero.cov), or coordinates: 1 if each row is a CpG of two bases (merged_CpG_evidence.cov)",
            ))  # fmt: skip
        if layout.format != "bedgraph":
            checks.append((bases > 2, lambda row: f"start {row['start']} and end {row['end']}; a site is one base, or the two of a CpG"))
    counts = [role for role in ("methylated", "unmethylated", "coverage") if role in layout]
    for role in counts:
        checks.append((pl.col(role) < 0, lambda row, role=role: f"{role} is {row[role]}; expected 0 or more"))  # type: ignore[misc]
    if "methylated" in layout and "coverage" in layout:
        checks.append((
            pl.col("methylated") > pl.col("coverage"),
            lambda row: f"{row['methylated']} methylated reads of {row['coverage']}; expected no more than all",
        ))  # fmt: skip
    if "effective" in layout:
        checks.append((pl.col("effective") < 0, lambda row: f"effective count {row['effective']}; expected 0 or more"))
    if "value" in layout:
        checks.append((value.abs() > _MAX_FLOAT32, lambda row: f"level {row['value']}; expected a finite number (of 32 bits)"))
        if "coverage" in layout or "unmethylated" in layout:
            reads = _reads(layout)
            checks.append((
                value.is_null() & (reads > 0),
                lambda row: f"the level is not a number, but the coverage is {row.get('coverage', '> 0')}; expected a level",
            ))  # fmt: skip
        if unit != "signal":
            limit = 100 if unit == "percent" else 1
            hint = "; it counts in percent? declare unit: percent" if unit == "fraction" else ""
            checks.append((value < 0, lambda row: f"level {row['value']} is negative; expected 0 to {limit}"))
            checks.append((value > limit + 1e-6, lambda row: f"level {row['value']}; expected 0 to {limit}{hint}"))
    return checks


def _reads(layout: Layout) -> pl.Expr:
    if "effective" in layout:
        return pl.col("effective").fill_null(0)
    if "coverage" in layout:
        return pl.col("coverage")
    return pl.col("methylated") + pl.col("unmethylated")


def check_rows(rows: Rows, base: int, declared: bool, unit: Unit) -> None:
    """Raise DataError with file and line for the first row that cannot be."""
    checks = _checks(rows.layout, base, declared, unit)
    found = rows.table.select(bad.any().alias(str(i)) for i, (bad, _) in enumerate(checks)).row(0)
    for (bad, message), is_bad in zip(checks, found, strict=True):
        if is_bad:
            row = int(rows.table.select(bad.fill_null(False).arg_true().first()).item())
            raise DataError(f"{rows.place(row)}: {message(rows.table.row(row, named=True))}")


class CountedUnit:
    """The unit of a level column beside read counts: each row may rule one out. The level itself is made from the counts."""

    def __init__(self, unit: Literal["auto", "fraction", "percent"]) -> None:
        self.possible: set[Unit] = {"fraction", "percent"} if unit == "auto" else {unit}

    def check(self, rows: Rows) -> None:
        """Raise DataError with file and line for a level that is not methylated / coverage in the unit of the rows before it."""
        level = pl.col("value")
        counted = _level_of_counts(rows.layout)
        off: dict[Unit, pl.Expr] = {
            "fraction": ((level - counted).abs() > ROUNDING).fill_null(False),
            "percent": ((level / 100 - counted).abs() > ROUNDING).fill_null(False),
        }
        tally = rows.table.select(expression.sum().alias(unit) for unit, expression in off.items()).row(0, named=True)
        left = {unit for unit in self.possible if tally[unit] == 0}
        if not left:
            unit = min(sorted(self.possible), key=lambda name: tally[name])
            row = int(rows.table.select(off[unit].arg_true().first()).item())
            values = rows.table.with_columns(counted.alias("counted")).row(row, named=True)
            scale = 100 if unit == "percent" else 1
            raise DataError(
                f"{rows.place(row)}: level {values['value']}, but the counts say {values['counted'] * scale:.4g} as {unit}; "
                "expected the same: the columns are mixed up, or unit is declared wrongly"
            )
        self.possible = left


def _level_of_counts(layout: Layout) -> pl.Expr:
    """methylated / coverage; null without reads."""
    reads = _reads(layout)
    level = pl.col("methylated") / pl.when(reads > 0).then(reads)
    return level.clip(upper_bound=1.0) if "effective" in layout else level  # methratio's correction for C>T variants can pass 1


def decide_unit(file: Path, layout: Layout, unit: Literal["auto", "fraction", "percent"]) -> Unit:
    """The unit of a level column that has no count of methylated reads beside it, found from the whole file.

    A level above 1 says percent. If there is none, level x coverage tells: where it is a whole number of reads, within the decimals
    printed, as a fraction and not as percent, the levels are fractions. The reverse cannot be shown (k reads in percent of n are 100 k
    as a fraction), so such a file has to be declared. Raises ConfigError for that, and for percent declared of what are fractions.
    """
    if layout.unit == "signal" or unit == "fraction":
        return "signal" if unit == "auto" else unit
    fits = {"fraction": True, "percent": True}
    example, zeros = "", True
    for rows in read_rows(file, layout):
        value = rows.table["value"].fill_null(0).to_numpy()
        if (value > 1 + 1e-6).any():
            return "percent"
        if "coverage" not in layout:
            return layout.unit if unit == "auto" else unit
        reads = rows.table["coverage"].to_numpy().astype(np.float64)
        zeros = zeros and not value.any()
        step = np.where(value % 1 == 0, 1.0, np.where(np.abs(value * 10 % 1) < 1e-9, 0.1, 0.01))  # one of the last decimal printed
        for name, scale in (("fraction", 1), ("percent", 100)):
            methylated = value / scale * reads
            off = np.abs(methylated - np.round(methylated)) > step / scale * reads + 1e-9
            fits[name] = fits[name] and not off.any()
            if name == "percent" and off.any() and not example:
                row = int(off.argmax())
                example = f"{rows.place(row)}: level {value[row]:g} at coverage {reads[row]:g}"
    if zeros:
        return "percent"  # all levels are 0 in either
    if unit == "percent" and not fits["percent"] and fits["fraction"]:
        raise ConfigError(f"{example} is no whole number of reads as percent, but is as fraction; declare unit: fraction, or auto")
    if unit != "auto":
        return unit
    if fits["fraction"] and not fits["percent"]:
        return "fraction"
    raise ConfigError(f"{file}: all levels are at most 1, which may be fractions or percent, and the coverage does not tell; declare unit")


def to_sites(rows: Rows, base: int, unit: Unit, options: SiteOptions) -> pl.DataFrame:
    """The rows as sites: contig, position_0based, strand, context, modification, level and coverage (Float64), row. Checked before."""
    layout, table = rows.layout, rows.table
    columns: dict[str, pl.Series | pl.Expr] = {"contig": pl.col("contig"), "position_0based": pl.col("start") - base}
    try:
        columns["strand"] = _strands(rows)
        columns["context"] = _contexts(table, layout)
        if "name" in layout:
            columns["modification"] = map_text(table["name"], "modification")
        else:
            columns["modification"] = pl.lit(layout.modification, dtype=pl.String)
    except ValueError:
        rows.refuse()
    if layout.modification is None and (unit != "signal" or options.contexts):
        columns["modification"] = pl.lit("5mC")
    if len(options.modifications) == 1 and "name" not in layout:
        columns["modification"] = pl.lit(options.modifications[0])
    if "methylated" in layout:
        columns["level"] = _level_of_counts(layout)
    else:
        columns["level"] = pl.col("value") / (100 if unit == "percent" else 1)
    columns["coverage"] = _reads(layout).cast(pl.Float64) if "methylated" in layout or "coverage" in layout else pl.lit(None, pl.Float64)
    sites = table.select(**columns).with_row_index("row")
    if len(options.contexts) == 1 and not layout.has_contexts:
        sites = sites.with_columns(pl.col("context").fill_null(options.contexts[0]))
    if layout.format == "bedgraph":
        sites = sites.with_columns(bases=table["end"] - table["start"] + base)
    return sites


def _strands(rows: Rows) -> pl.Series | pl.Expr:
    layout, table = rows.layout, rows.table
    if "nucleotide" in layout:
        if not table["nucleotide"].is_in(["C", "G"]).all():
            rows.refuse()
        return pl.when(pl.col("nucleotide") == "C").then(pl.lit("+")).otherwise(pl.lit("-"))
    if "strand" in layout:
        allowed = ["+", "-", "."] if layout.format == "bedmethyl" else ["+", "-"]
        if not table["strand"].is_in(allowed).all():
            rows.refuse()
        return pl.col("strand")
    return pl.lit(".")


def _contexts(table: pl.DataFrame, layout: Layout) -> pl.Series | pl.Expr:
    if "kmer" in layout:
        return map_text(table.select(pl.col("strand") + pl.col("kmer")).to_series(), "kmer")
    for role in ("context", "trinucleotide", "name"):
        if role in layout:
            return map_text(table[role], role)
    return pl.lit(None, dtype=pl.String)


def expand(sites: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Intervals into one row per base, at most MAX_ROWS at a time. `bases` is the length of each interval."""
    lengths = sites["bases"].to_numpy()
    ends = np.cumsum(lengths)
    plain = sites.drop("bases")
    if len(ends) and ends[-1] == len(ends):
        yield plain
        return
    for low in range(0, int(ends[-1]) if len(ends) else 0, MAX_ROWS):
        places = np.arange(low, min(low + MAX_ROWS, int(ends[-1])))
        interval = np.searchsorted(ends, places, side="right")
        inside = places - (ends - lengths)[interval]
        yield plain[interval].with_columns(pl.col("position_0based") + pl.Series(inside))
