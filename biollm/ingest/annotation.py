"""Annotations into tables of features: GFF3, GTF, BED, and the feature tables of GenBank and EMBL.

GFF, GTF and BED are read by hand: no library of the field names the line of a fault, and few columns are needed. A feature table has the
columns `contig`, `type`, `start_0based`, `end` (half open), `strand` ("+", "-" or "."), `name` and `parent` (null where not given).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import polars as pl
from numpy.typing import NDArray

from biollm.core.errors import DataError, listed
from biollm.core.streams import read_lines
from biollm.ingest.kinds import kind_of
from biollm.ingest.sites.check import suggest_aliases

_SCHEMA = {
    "contig": pl.String, "type": pl.String, "start_0based": pl.Int64, "end": pl.Int64, "strand": pl.String, "name": pl.String,
    "parent": pl.String, "file": pl.Int64, "line": pl.Int64,
}  # fmt: skip
_BED_TYPE = "interval"
_STRANDS = {"+", "-", ".", "?"}
_GTF_VALUE = re.compile(r'(\w+) "([^"]*)"')
Row = tuple[str, str, int, int, str, str | None, str | None]
Intervals = NDArray[np.int64]  # (n, 2): starts (0-based) and ends, sorted, not touching


class Annotation:
    """The features of some files, by sequence.

    A feature of several parts (a CDS of GFF3) is several rows; the rows of a BED file have the type "interval"; introns are added where
    exons with a parent are given: they lie between two exons of one parent (an exon may have several). A feature of GFF3 that crosses the
    origin of a sequence whose landmark says Is_circular=true is two rows, one at each end.

    Raises DataError naming file and line for a malformed row, and naming the files if none holds a feature.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self.files = list(files)
        self._circular: set[str] = set()
        rows = [(*row, at, number) for at, file in enumerate(self.files) for number, row in _rows(file, self._circular)]
        if not rows:
            raise DataError(f"{self._where}: holds no feature, only comments or nothing; fetch or export it again, or leave it out")
        features = pl.DataFrame(rows, schema=_SCHEMA, orient="row")
        del rows
        features = pl.concat([features, _introns(features)])
        self._of_contig = {str(name): part for (name,), part in features.group_by("contig", maintain_order=True)}
        self._types: set[str] = set()

    @property
    def _where(self) -> str:
        return ", ".join(str(file) for file in self.files)

    def on(self, contig: str, bases: int) -> pl.DataFrame:
        """The features on one sequence. Raises DataError naming file and line if one ends beyond it, and it is not circular."""
        features = self._of_contig.get(contig)
        if features is None:
            return pl.DataFrame(schema=_SCHEMA)
        if contig in self._circular:
            features = _cut_at_origin(features, bases)
        if (beyond := features.filter(pl.col("end") > bases)).height:
            row = beyond.row(0, named=True)
            raise DataError(
                f"{self.files[row['file']]} line {row['line']}: {row['type']} ends at {row['end']}, but sequence '{contig}' has {bases} "
                "bases; the annotation belongs to another assembly"
            )
        self._types.update(features["type"].unique().to_list())
        return features

    def intervals(self, contig: str, bases: int, feature: str) -> Intervals:
        """The joined intervals of one type of feature on one sequence, on either strand. (n, 2)"""
        chosen = self.on(contig, bases).filter(pl.col("type") == feature)
        return _union(chosen["start_0based"].to_numpy(), chosen["end"].to_numpy())

    def check(self, contigs: Collection[str], feature: str) -> None:
        """When all sequences were seen: raises DataError if the annotation shares no name with them, or has no such feature."""
        annotated = self._of_contig.keys()
        here = set(contigs)
        # With one name left on each side alone, any two would count as a pair; the empty one keeps that from happening.
        aliases = suggest_aliases(annotated - here, {*(here - annotated), ""})
        if not annotated & here:
            twin, name = next(iter(aliases.items()), ("", ""))
            hint = f" ('{twin}' there is '{name}' here?)" if twin else ""
            raise DataError(
                f"{self._where}: annotates {listed(sorted(annotated), 4)}, but the sequences are {listed(sorted(contigs), 4)}; "
                f"no name in common{hint}: give the annotation of the same assembly, with the same sequence names"
            )
        if aliases:
            twin, name = next(iter(aliases.items()))
            raise DataError(
                f"{self._where}: annotates '{twin}', and the sequences hold '{name}' ({len(aliases)} names differ so, while others agree); "
                "every window there would count as without a feature: give both the same sequence names"
            )
        if feature not in self._types:
            raise DataError(
                f"{self._where}: no feature of type '{feature}' on {listed(sorted(contigs), 4)}; "
                f"types there: {listed(sorted(self._types), 4)}"
            )


def covered_bases(intervals: Intervals, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many bases of each window lie in the intervals. (n,)"""
    if not len(intervals):
        return np.zeros(len(starts), dtype=np.int64)
    before = np.concatenate([[0], np.cumsum(intervals[:, 1] - intervals[:, 0])])

    def up_to(position: NDArray[np.int64]) -> NDArray[np.int64]:
        last = np.searchsorted(intervals[:, 0], position, side="right")  # intervals that begin at or before it
        inside = np.where(last > 0, np.clip(intervals[last - 1, 1] - position, 0, None), 0)
        return np.asarray(before[last] - inside)

    return up_to(ends) - up_to(starts)


def _union(starts: NDArray[np.int64], ends: NDArray[np.int64]) -> Intervals:
    if not len(starts):
        return np.empty((0, 2), dtype=np.int64)
    order = np.argsort(starts, kind="stable")
    starts, reach = starts[order], np.maximum.accumulate(ends[order])
    first = np.concatenate([[True], starts[1:] > reach[:-1]])
    last = np.concatenate([first[1:], [True]])
    return np.stack([starts[first], reach[last]], axis=1)


def _introns(features: pl.DataFrame) -> pl.DataFrame:
    exons = features.filter((pl.col("type") == "exon") & pl.col("parent").is_not_null())
    exons = exons.with_columns(pl.col("parent").str.split(",")).explode("parent").sort("contig", "parent", "start_0based")
    after = exons.with_columns(pl.col("end").shift(1).over("contig", "parent").alias("begin")).filter(
        pl.col("begin") < pl.col("start_0based")
    )
    return after.select(
        "contig",
        pl.lit("intron").alias("type"),
        pl.col("begin").alias("start_0based"),
        pl.col("start_0based").alias("end"),
        "strand",
        pl.col("parent").alias("name"),
        "parent",
        "file",
        "line",
    ).unique(["contig", "start_0based", "end", "strand"], maintain_order=True)


def _cut_at_origin(features: pl.DataFrame, bases: int) -> pl.DataFrame:
    """GFF3 counts on behind the end of a circular sequence: such a feature goes on at its begin."""
    crosses = (pl.col("end") > bases) & (pl.col("start_0based") < bases) & (pl.col("end") - bases <= pl.col("start_0based"))
    if (over := features.filter(crosses)).is_empty():
        return features
    parts = over.with_columns(pl.lit(bases).alias("end")), over.with_columns(pl.lit(0).alias("start_0based"), pl.col("end") - bases)
    return pl.concat([features.filter(~crosses), *parts], how="vertical_relaxed")


def _rows(file: Path, circular: set[str]) -> Iterator[tuple[int, Row]]:
    """The rows of a file with their lines; the names of the sequences that it calls circular are added to `circular`."""
    kind = kind_of(file, "gff")
    if kind in ("genbank", "embl"):
        yield from _flat_rows(file, kind)
        return
    read = _bed_row if kind == "bed" else _gff_row
    for number, line in read_lines(file):
        if line.startswith("##FASTA"):
            return
        if line.startswith(("#", "track ", "browser ")) or not line.strip():
            continue
        yield number, (row := read(file, number, line))
        if "Is_circular=true" in line:
            circular.add(row[0])


def _gff_row(file: Path, number: int, line: str) -> Row:
    fields = line.split("\t")
    if len(fields) != 9:
        raise DataError(f"{file} line {number}: {len(fields)} tab-separated columns; GFF3 has 9")
    contig, _, kind, first, last, _, strand, _, attributes = fields
    if not (_whole(first) and _whole(last) and 1 <= int(first) <= int(last)):
        raise DataError(f"{file} line {number}: start '{first}' and end '{last}'; GFF has whole numbers with 1 <= start <= end")
    _check_strand(file, number, strand)
    given = dict(_GTF_VALUE.findall(attributes))
    if given or "=" not in attributes:
        name, parent = given.get("gene_name") or given.get("gene_id"), given.get("transcript_id")
    else:
        given = dict(part.strip().split("=", 1) for part in attributes.split(";") if "=" in part)
        name, parent = given.get("Name") or given.get("ID"), given.get("Parent")
    return unquote(contig), unquote(kind), int(first) - 1, int(last), "." if strand == "?" else strand, name and unquote(name), parent


def _bed_row(file: Path, number: int, line: str) -> Row:
    fields = line.split("\t") if "\t" in line else line.split()
    if len(fields) < 3:
        raise DataError(f"{file} line {number}: {len(fields)} columns; BED has at least 3: sequence, start, end")
    contig, start, end = fields[:3]
    if not (_whole(start) and _whole(end) and int(start) < int(end)):
        raise DataError(f"{file} line {number}: start '{start}' and end '{end}'; BED has whole numbers with 0 <= start < end")
    strand = fields[5] if len(fields) > 5 else "."
    _check_strand(file, number, strand)
    return contig, _BED_TYPE, int(start), int(end), strand, fields[3] if len(fields) > 3 else None, None


def _check_strand(file: Path, number: int, strand: str) -> None:
    if strand not in _STRANDS:
        raise DataError(f"{file} line {number}: strand '{strand}'; expected + or - or .")


def _flat_rows(file: Path, form: str) -> Iterator[tuple[int, Row]]:
    from biollm.ingest.genomes import flat_records

    for number, record in enumerate(flat_records(file, form), start=1):
        for feature in record.features:
            qualifiers = feature.qualifiers
            name = next((qualifiers[key][0] for key in ("locus_tag", "gene", "protein_id") if key in qualifiers), None)
            for part in feature.location.parts if feature.location else []:
                yield number, (record.id, feature.type, int(part.start), int(part.end), {1: "+", -1: "-"}.get(part.strand, "."), name, None)


def _whole(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 19  # what 64 bits hold
