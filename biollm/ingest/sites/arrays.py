"""Illumina methylation arrays: a table of beta values, probes x samples, and the manifest that says where the probes lie."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from biollm.core.errors import ConfigError, DataError
from biollm.core.streams import read_blocks, read_lines
from biollm.ingest.sites.layouts import MISSING

# Names of the columns, in lower case: of Illumina's manifests and of SeSAMe's (whose CpG_beg counts from 0).
_PROBE = ("ilmnid", "probe_id", "probeid", "name", "id")
_CONTIG = ("chr", "cpg_chrm", "chromosome", "seqnames")
_POSITION = {"mapinfo": 1, "cpg_beg": 0, "position": 1, "pos": 1}
_NO_PLACE = ("", "0", "NA", "*", "chr0")


def read_manifest(file: Path, coordinates: int | None = None) -> pl.DataFrame:
    """probe, name, contig, position_0based of the probes that have a place. Raises DataError if the columns are not found."""
    header, separator, base, wanted = None, ",", 1, [0, 0, 0, 0]
    parts: list[pl.DataFrame] = []
    for first_line, block in read_blocks(file):
        lines = block.decode().split("\n")
        if header is None:
            at = next((i for i, line in enumerate(lines) if _is_manifest_header(_names(line))), None)
            if at is None:
                break
            separator, header = _separator(lines[at]), _names(lines[at])
            position = next(name for name in _POSITION if name in header)
            probe = next(name for name in _PROBE if name in header)
            contig = next(name for name in _CONTIG if name in header)
            base = _POSITION[position] if coordinates is None else coordinates
            wanted = [header.index(name) for name in (probe, "name" if "name" in header else probe, contig, position)]
            lines, first_line = lines[at + 1 :], first_line + at + 1
        controls = next((i for i, line in enumerate(lines) if line.startswith("[Controls]")), None)
        rows = []
        for number, fields in enumerate(_fields(lines[:controls], separator, file, first_line), start=first_line):
            if fields and len(fields) <= max(wanted):
                raise DataError(f"{file} line {number}: {len(fields)} columns; the manifest's header has {len(header)}")
            if fields:
                rows.append([fields[i] for i in wanted])
        parts.append(_places(rows, file, base))
        if controls is not None:
            break
    if not parts:
        raise DataError(f"{file}: no manifest: no line names columns IlmnID (or Probe_ID), CHR and MAPINFO; give the array's manifest")
    return pl.concat(parts)


def _fields(lines: list[str], separator: str, file: Path, first_line: int) -> Iterator[list[str]]:
    try:
        yield from csv.reader(lines, delimiter=separator, strict=True)  # an open quote is an error, however long the field
    except csv.Error as error:
        raise DataError(f"{file}, the block from line {first_line}: not a table in quotes: {error}; is a quote left open?") from None


def _separator(line: str) -> str:
    return "\t" if line.count("\t") > line.count(",") else ","


def _names(line: str) -> list[str]:
    return [name.strip().lower() for name in next(csv.reader([line], delimiter=_separator(line)), [])]


def _is_manifest_header(names: list[str]) -> bool:
    return all(any(name in names for name in known) for known in (_PROBE, _CONTIG, _POSITION))


def _places(rows: list[list[str]], file: Path, base: int) -> pl.DataFrame:
    table = pl.DataFrame(rows, schema=dict.fromkeys(("probe", "name", "contig", "position"), pl.String), orient="row")
    table = table.filter(~pl.col("contig").is_in(_NO_PLACE), ~pl.col("position").is_in(_NO_PLACE))
    number = table["position"].cast(pl.Float64, strict=False).cast(pl.Int64, strict=False)  # some manifests write 1234.0
    if number.null_count() or (number < base).any():
        bad = table.filter(number.is_null() | (number < base)).row(0, named=True)
        raise DataError(f"{file}: probe {bad['probe']} has position '{bad['position']}'; expected a whole number from {base} on")
    return table.select("probe", "name", "contig", (number - base).alias("position_0based"))


def read_betas(file: Path, sample: str | None) -> Iterator[pl.DataFrame]:
    """probe, value (Float64 or null) and number of the line of one sample's column, in blocks.

    Raises ConfigError if the table has several samples and none is named, and DataError for rows that are not of the table.
    """
    header_line, header, separator = _header(file)
    samples = header[1:]
    if sample is None and len(samples) > 1:
        raise ConfigError(f"{file} line {header_line}: {len(samples)} samples ({', '.join(samples[:5])}…); say which with sample")
    if sample is not None and sample not in samples:
        raise ConfigError(f"{file} line {header_line}: no sample '{sample}'; the columns are {', '.join(samples[:8])}")
    column = samples.index(sample) + 1 if sample is not None else 1
    for first_line, block in read_blocks(file):
        probes: list[str] = []
        texts: list[str] = []
        numbers: list[int] = []
        for number, line in enumerate(block.decode().split("\n"), start=first_line):
            if number <= header_line or not line.strip() or line[0] in "#!":
                continue
            fields = next(csv.reader([line], delimiter=separator)) if '"' in line else line.split(separator)
            if len(fields) != len(header):
                raise DataError(f"{file} line {number}: {len(fields)} columns; the header has {len(header)}")
            probes.append(fields[0])
            texts.append(fields[column])
            numbers.append(number)
        text = pl.Series("value", texts, dtype=pl.String)
        value = text.cast(pl.Float64, strict=False).fill_nan(None)
        bad = value.is_null() & ~text.is_in(MISSING) | value.is_infinite()
        if bad.any():
            row = int(bad.arg_true()[0])
            raise DataError(f"{file} line {numbers[row]}: beta of {probes[row]} is '{texts[row]}'; expected a number or nothing")
        yield pl.DataFrame({"probe": probes, "value": value, "line": numbers}, schema_overrides={"probe": pl.String})


def _header(file: Path) -> tuple[int, list[str], str]:
    """Number of the header's line, the names of all columns, and what parts them. R leaves out the name of the first."""
    found: tuple[int, list[str], str] | None = None
    for number, line in read_lines(file):
        if not line.strip() or line[0] in "#!":
            continue
        if found is None:
            separator = _separator(line)
            found = number, next(csv.reader([line], delimiter=separator)), separator
            continue
        columns = len(next(csv.reader([line], delimiter=found[2])))
        if columns == len(found[1]) + 1:
            found = found[0], ["", *found[1]], found[2]
        if len(found[1]) > 1:
            return found
        break
    raise DataError(f"{file}: no table of beta values; expected a header of sample names, then a line for each probe")


def read_array(file: Path, manifest: Path, sample: str | None, coordinates: int | None, percent: bool | None) -> Iterator[pl.DataFrame]:
    """contig, position_0based, context and level of one sample. Probes that lie on one site (EPIC v2) are averaged.

    percent: None decides by the values. Control and variant probes (rs, nv, ctl) are left out, and probes without a place.
    Raises DataError for a value out of range, a probe that stands twice, and a manifest that gives no place to
    half of the CpG probes.
    """
    table = pl.concat(read_betas(file, sample))  # at most 1 M probes
    scale = 100 if percent or (percent is None and (table["value"].max() or 0) > 1) else 1  # type: ignore[operator]
    off = table.filter((pl.col("value") < 0) | (pl.col("value") > scale))
    if off.height:
        line, value = off.row(0)[2], off.row(0)[1]
        hint = "; M values? give beta values" if value < 0 else ""
        raise DataError(f"{file} line {line}: level {value}; expected 0 to {scale}{hint}")
    twice = table.filter(~pl.col("probe").is_first_distinct())
    if twice.height:
        raise DataError(f"{file} line {twice.row(0)[2]}: probe {twice.row(0)[0]} stands twice; remove one")
    wanted = table.filter(pl.col("probe").str.contains(r"^(cg|ch\.)"))
    places = read_manifest(manifest, coordinates)
    joined = wanted.join(places, on="probe", how="inner")
    if joined.is_empty():  # EPIC v2: betas are often under the name, which leaves out the replicate's number
        joined = wanted.join(places.unique("name", maintain_order=True).drop("probe"), left_on="probe", right_on="name", how="inner")
    if joined.height < 0.5 * wanted.height:
        known = wanted.join(places, on="probe", how="anti")
        raise DataError(
            f"{file}: {manifest} gives a place to {joined.height} of {wanted.height} CpG probes (not to {', '.join(known['probe'][:3])}); "
            "give the manifest of this array"
        )
    is_cg = pl.col("probe").str.starts_with("cg")
    sites = joined.group_by("contig", "position_0based", maintain_order=True).agg(pl.col("value").mean() / scale, is_cg.all().alias("cg"))
    yield sites.select("contig", "position_0based", pl.when("cg").then(pl.lit("CG")).alias("context"), pl.col("value").alias("level"))
