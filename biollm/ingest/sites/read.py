"""Any supported file of methylation or of a per-base signal into site frames."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import polars as pl

from biollm.core.errors import ConfigError, DataError
from biollm.core.streams import read_lines
from biollm.ingest.sites.arrays import read_array
from biollm.ingest.sites.bigwig import read_bigwig
from biollm.ingest.sites.config import SiteFormat, SiteOptions
from biollm.ingest.sites.duplicates import OrderedSites, SiteSet
from biollm.ingest.sites.layouts import Layout, detect, is_bigwig, layout_of
from biollm.ingest.sites.merging import StrandMerger
from biollm.ingest.sites.modifications import BASE_OF
from biollm.ingest.sites.tables import MAX_ROWS, CountedUnit, Rows, Unit, check_rows, decide_unit, expand, read_rows, to_sites

SCHEMA: dict[str, type[pl.DataType]] = {
    "contig": pl.String, "position_0based": pl.Int64, "strand": pl.String, "context": pl.String, "modification": pl.String,
    "level": pl.Float32, "coverage": pl.Float32,
}  # fmt: skip


def read_sites(file: Path, format: SiteFormat | Literal["auto"], options: SiteOptions) -> Iterator[pl.DataFrame]:
    """The sites of a file, in file order but for merged strands, in frames of SCHEMA with at most MAX_ROWS rows.

    A row is one base: intervals of bedGraph and bigWig come base by base. Level: 0 to 1 (methylation) or any number (signal), null where it
    is missing or the coverage below options.min_coverage; coverage: null where the format has none. Where a file has counts, the level is
    methylated / coverage. strand '.' and a null context or modification mean that the file does not say. Nothing is checked against a
    genome here: see `check.py`.
    Raises DataError with file and line for a bad row, a site that stands twice, a level that its counts deny, and for a file of which the
    options leave nothing; ConfigError for options that the format cannot answer. A fault may show after frames have been given: use none
    of them before the iterator has ended.
    """
    yield from select_sites(_batches(file, format, options, read_aliases(options.aliases)), file, options)


def select_sites(batches: Iterator[pl.DataFrame], file: Path, options: SiteOptions) -> Iterator[pl.DataFrame]:
    """What the options leave of all sites of a file, as `read_sites` gives it.

    batches: the columns of SCHEMA, level and coverage in Float64, level null without reads.
    """
    kept, seen = 0, Seen()
    merger = StrandMerger() if options.strands == "merge_cg" else None
    for batch in batches:
        seen.add(batch)
        chosen = _choose(batch, options)
        sites = chosen if merger is None else merger.add(chosen)
        kept += sites.height
        yield from _slices(_finish(sites, options))
    if merger is not None:
        if not merger.found:
            raise ConfigError(
                f"{file}: strands is merge_cg, but no row is a CG on strand + or - with a coverage; "
                "leave strands out, or declare contexts: [CG] if the file holds only CpGs"
            )
        rest = merger.rest()
        kept += rest.height
        yield from _slices(_finish(rest, options))
    if not kept:
        raise DataError(f"{file}: no site is left; the file holds {seen.describe()}, and the options ask for {_asked(options)}")


def read_aliases(aliases: dict[str, str] | str) -> dict[str, str]:
    """The map itself, or that of a file of two tab-separated columns. Raises DataError naming file and line."""
    if not isinstance(aliases, str):
        return aliases
    names: dict[str, str] = {}
    for number, line in read_lines(Path(aliases)):
        if not line.strip() or line.startswith("#"):
            continue
        fields = line.split("\t")
        if len(fields) != 2 or not all(fields):
            raise DataError(f"{aliases} line {number}: {len(fields)} columns; expected two: name in the sites, tab, name in the genome")
        if names.setdefault(*fields) != fields[1]:
            raise DataError(f"{aliases} line {number}: '{fields[0]}' stands twice, for '{names[fields[0]]}' and '{fields[1]}'; keep one")
    return names


class Seen:
    """What contexts and modifications a file holds, for the error that says that none of them was asked for."""

    def __init__(self) -> None:
        self._values: dict[str, set[str]] = {"contig": set(), "context": set(), "modification": set()}

    def add(self, sites: pl.DataFrame) -> None:
        for name, values in self._values.items():
            if len(values) < 1000:
                values |= {str(value) for value in sites[name].unique().to_list()}

    def describe(self) -> str:
        return "; ".join(f"{name}s {', '.join(sorted(values)[:8])}" for name, values in self._values.items())


def _asked(options: SiteOptions) -> str:
    return f"contexts {options.contexts or 'all'} and modifications {options.modifications or 'all'}"


def _choose(sites: pl.DataFrame, options: SiteOptions) -> pl.DataFrame:
    if options.contexts:
        sites = sites.filter(pl.col("context").is_in(options.contexts))
    if options.modifications:
        sites = sites.filter(pl.col("modification").is_in(options.modifications))
    return sites


def _finish(sites: pl.DataFrame, options: SiteOptions) -> pl.DataFrame:
    covered = pl.col("coverage").is_null() | (pl.col("coverage") >= options.min_coverage)
    return sites.with_columns(pl.when(covered).then("level")).select(pl.col(name).cast(kind) for name, kind in SCHEMA.items())


def _slices(sites: pl.DataFrame) -> Iterator[pl.DataFrame]:
    for start in range(0, sites.height, MAX_ROWS):
        yield sites.slice(start, MAX_ROWS)


def _batches(file: Path, format: SiteFormat | Literal["auto"], options: SiteOptions, aliases: dict[str, str]) -> Iterator[pl.DataFrame]:
    """All sites of a file, levels and coverages in Float64, before filters; duplicates refused."""
    found: Layout | Literal["bigwig", "illumina"] = detect(file) if format == "auto" else _declared(file, format)
    options = _with_unit(found, options)
    if found != "illumina" and (options.sample or options.manifest):
        raise ConfigError(f"{file}: sample and manifest are for tables of Illumina arrays; leave them out")
    if isinstance(found, Layout):
        yield from _table(file, found, options, aliases)
        return
    if options.min_coverage > 1 or options.strands == "merge_cg":
        raise ConfigError(f"{file}: {found} has no read counts; leave min_coverage and strands out")
    source = _bigwig(file, options) if found == "bigwig" else _illumina(file, options)
    for sites in source:
        yield _rename(sites, aliases)


def _with_unit(found: Layout | Literal["bigwig", "illumina"], options: SiteOptions) -> SiteOptions:
    """Levels of what is declared to be methylation are fractions, where the format knows only signals and no unit is declared."""
    of_signals = found == "bigwig" or (isinstance(found, Layout) and found.unit == "signal")
    if of_signals and options.unit == "auto" and options.declares_methylation:
        return options.model_copy(update={"unit": "fraction"})
    return options


def _declared(file: Path, format: SiteFormat) -> Layout | Literal["bigwig", "illumina"]:
    if format == "bigwig" and not is_bigwig(file):
        raise DataError(f"{file}: not a bigWig file (its first bytes are others); give the right file, or format: auto")
    return format if format in ("bigwig", "illumina") else layout_of(file, format)


def _rename(sites: pl.DataFrame, aliases: dict[str, str]) -> pl.DataFrame:
    return sites.with_columns(pl.col("contig").replace(aliases)) if aliases else sites


def _table(file: Path, layout: Layout, options: SiteOptions, aliases: dict[str, str]) -> Iterator[pl.DataFrame]:
    counted = "methylated" in layout
    if options.min_coverage > 1 and not counted and "coverage" not in layout:
        raise ConfigError(f"{file}: {layout.format} has no coverage, so min_coverage {options.min_coverage} means nothing; leave it out")
    if len(options.contexts) > 1 and not layout.has_contexts and "name" not in layout:
        raise ConfigError(f"{file}: {layout.format} has no contexts to choose {options.contexts} from; one entry declares them all")
    if len(options.modifications) > 1 and "name" not in layout:
        raise ConfigError(f"{file}: {layout.format} names no modification; one entry of modifications declares that of all sites")
    if layout.modification is not None and "name" not in layout and (other := [m for m in options.modifications if BASE_OF.get(m) != "C"]):
        raise ConfigError(f"{file}: {layout.format} holds calls of C, and {other[0]} does not sit on it; leave modifications out")
    counted_unit = CountedUnit(options.unit) if counted and "value" in layout else None
    # Beside counts a level may count in either unit up to here: CountedUnit compares it with them row by row.
    unit: Unit = "percent" if counted else decide_unit(file, layout, options.unit)
    ordered = OrderedSites()
    for rows, sites in _read_table(file, layout, options, aliases, unit, counted_unit):
        if (number := ordered.add(sites)) is not None:
            _refuse_twice(rows, sites, number)
        yield sites.drop("row")
    if not ordered.in_order:  # the file is not sorted: only a second reading, with all sites at hand, can tell
        site_set = SiteSet()
        for rows, sites in _read_table(file, layout, options, aliases, unit, None):
            if (number := site_set.add(sites)) is not None:
                _refuse_twice(rows, sites, number)


def _read_table(
    file: Path, layout: Layout, options: SiteOptions, aliases: dict[str, str], unit: Unit, counted_unit: CountedUnit | None
) -> Iterator[tuple[Rows, pl.DataFrame]]:
    declared = options.coordinates != "auto"
    base = layout.base if options.coordinates == "auto" else options.coordinates
    for rows in read_rows(file, layout):
        check_rows(rows, base, declared, unit)
        if counted_unit is not None:
            counted_unit.check(rows)
        sites = _rename(to_sites(rows, base, unit, options), aliases)
        for batch in expand(sites) if "bases" in sites.columns else [sites]:
            yield rows, batch


def _refuse_twice(rows: Rows, sites: pl.DataFrame, number: int) -> None:
    site = sites.row(number, named=True)
    kind = " ".join(str(site[name]) for name in ("modification", "context") if site[name] is not None)
    what = f"{site['contig']} position {site['position_0based']} (from 0) strand {site['strand']} {kind}".rstrip()
    raise DataError(f"{rows.place(site['row'])}: {what} stands a second time in this file; keep one row a site")


def _bigwig(file: Path, options: SiteOptions) -> Iterator[pl.DataFrame]:
    if options.coordinates == 1:
        raise ConfigError(f"{file}: bigWig counts from 0 by its format; leave coordinates out")
    for field, values in (("contexts", options.contexts), ("modifications", options.modifications)):
        if len(values) > 1:
            raise ConfigError(f"{file}: bigWig names no {field} to choose {values} from; one entry declares that of all values")
    scale, limit = {"auto": (1, None), "fraction": (1, 1), "percent": (100, 100)}[options.unit]
    modification = options.modifications[0] if options.modifications else "5mC" if limit else None
    for part in read_bigwig(file):
        if limit:
            off = part.filter((pl.col("value") < 0) | (pl.col("value") > limit + 1e-6))
            if off.height:
                contig, position, value = off.row(0)
                hint = "; it counts in percent? declare unit: percent" if limit == 1 else ""
                raise DataError(f"{file}: {contig} position {position} (from 0) has level {value}; expected 0 to {limit}{hint}")
        context = options.contexts[0] if len(options.contexts) == 1 else None
        yield part.select(
            "contig", "position_0based", pl.lit(".").alias("strand"), pl.lit(context, pl.String).alias("context"),
            pl.lit(modification, pl.String).alias("modification"), (pl.col("value") / scale).alias("level"),
            pl.lit(None, pl.Float64).alias("coverage"),
        )  # fmt: skip


def _illumina(file: Path, options: SiteOptions) -> Iterator[pl.DataFrame]:
    if options.manifest is None:
        raise ConfigError(f"{file}: a table of array probes says not where they lie; give the array's manifest with manifest")
    coordinates = None if options.coordinates == "auto" else options.coordinates
    percent = None if options.unit == "auto" else options.unit == "percent"
    for part in read_array(file, Path(options.manifest), options.sample, coordinates, percent):
        yield part.with_columns(
            # a CpG probe measures both strands, and lies on the C of the + strand
            strand=pl.when(pl.col("context") == "CG").then(pl.lit("+")).otherwise(pl.lit(".")),
            modification=pl.lit("5mC"),
            coverage=pl.lit(None, pl.Float64),
        ).select(SCHEMA.keys())
