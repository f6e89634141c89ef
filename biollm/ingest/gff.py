"""GFF3 into intervals. Read by hand: no library of the field names the line of a fault, and we need five columns."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable
from pathlib import Path

from biollm.core.errors import DataError

# contig -> [(start_0based, end)], half open, on either strand
Intervals = dict[str, list[tuple[int, int]]]


def read_intervals(files: Iterable[Path], feature: str, contig_bases: dict[str, int]) -> Intervals:
    """The intervals of one feature type, 0-based and half open. Several parts of one feature are several intervals.

    contig_bases: length of each known sequence. Features on sequences that are not among them are left out.
    Raises DataError naming file and line for a malformed row, an interval beyond its sequence's end, and an annotation that
    shares no sequence name with the FASTA, or that has no such feature.
    """
    intervals: Intervals = {}
    names: set[str] = set()
    types: set[str] = set()
    listed = list(files)
    for file in listed:
        for number, fields in _rows(file):
            contig, kind, start, end = fields[0], fields[2], fields[3], fields[4]
            names.add(contig)
            types.add(kind)
            if kind != feature or contig not in contig_bases:
                continue
            if not (start.isdecimal() and end.isdecimal() and 1 <= int(start) <= int(end)):
                raise DataError(f"{file} line {number}: start '{start}' and end '{end}'; GFF has whole numbers with 1 <= start <= end")
            if int(end) > contig_bases[contig]:
                raise DataError(
                    f"{file} line {number}: {feature} ends at {end}, but sequence '{contig}' has {contig_bases[contig]} bases; "
                    "the annotation belongs to another assembly"
                )
            intervals.setdefault(contig, []).append((int(start) - 1, int(end)))
    where = ", ".join(str(file) for file in listed)
    if not names & contig_bases.keys():
        raise DataError(
            f"{where}: annotates {_some(names)}, but the FASTA holds {_some(set(contig_bases))}; "
            "no name in common: give the annotation of the same assembly, with the same sequence names"
        )
    if not intervals:
        raise DataError(f"{where}: no feature of type '{feature}' on {_some(set(contig_bases))}; types there: {_some(types)}")
    return intervals


def _rows(file: Path) -> Iterable[tuple[int, list[str]]]:
    opener = gzip.open if file.suffix == ".gz" else open
    try:
        with opener(file, "rt", encoding="utf-8") as text:
            for number, line in enumerate(text, start=1):
                if line.startswith("##FASTA"):
                    return
                if line.startswith("#") or not line.strip():
                    continue
                fields = line.rstrip("\n\r").split("\t")
                if len(fields) != 9:
                    raise DataError(f"{file} line {number}: {len(fields)} tab-separated columns; GFF3 has 9")
                yield number, fields
    except (EOFError, zlib.error, gzip.BadGzipFile, UnicodeDecodeError) as error:
        raise DataError(f"{file}: not a whole GFF file: {error}; fetch or export it again") from None


def _some(names: set[str]) -> str:
    shown = sorted(names)
    return ", ".join(shown[:4]) + (f" and {len(shown) - 4} more" if len(shown) > 4 else "")
