"""Reads with methylation as rows of a corpus: one read, its sequence, and a number per base."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl
import pyarrow as pa
import pysam

from biollm.core.alphabets import DNA, DNA_FOLD
from biollm.core.errors import DataError
from biollm.ingest.reads.bam import Alignments, Counts, Reference, add, bases_at, check_alignment, reference_places, strand_of
from biollm.ingest.reads.bisulfite import bisulfite_records, bisulfite_text, call_values, convert, restore_cytosines
from biollm.ingest.reads.config import ReadOptions
from biollm.ingest.reads.modbam import keep_contexts, modified_records
from biollm.ingest.reads.modifications import BASE_OF_NAME, Bases, Floats, ModTrack, to_bases

# A batch ends once it holds this many bases: with one track, about 100 MB.
BATCH_BASES = 4_000_000
# The share of reads off the reference is looked at after so many, and at the end.
_FIRST_LOOK = 1000
_NOT_DNA = np.ones(256, dtype=bool)
_NOT_DNA[list(DNA.encode())] = False


@dataclass(frozen=True)
class Read:
    """One read, in the direction of the original molecule: that of sequencing (modBAM), or of the converted strand (bisulfite).

    So for strand "-" the sequence is the reverse complement of the reference from start_0based to end. An unmapped read has None in contig,
    start_0based, end and strand. tracks: (L,) float32 per modification, in 0..1, NaN = no call; a value at a base that cannot carry the
    modification (5mC on G) is that of the base it pairs with. calls: Bismark's letters, one per base, or None.
    """

    id: str
    name: str
    contig: str | None
    start_0based: int | None
    end: int | None
    strand: str | None
    sequence: str
    tracks: dict[str, Floats]
    calls: str | None

    @property
    def mapped(self) -> bool:
        return self.contig is not None


def iterate_reads(
    file: Path, options: ReadOptions, counts: Counts, reference: Reference | None = None, on_drop: Callable[[str, str], None] | None = None
) -> Iterator[Read]:
    """The reads of a BAM file in its order; `counts` is filled on the way: see `read_records`. Raises DataError as `read_records` does."""
    if reference is None and options.reference:
        reference = Reference.read(Path(options.reference))
    numbers: dict[str, int] = {}
    with Alignments(file, on_drop) as alignments:
        found = _modbam(alignments, options, counts) if options.kind == "modbam" else _bisulfite(alignments, options, reference, counts)
        for record, strand, sequence, tracks, calls in found:
            merged = _merge_strands(tracks, len(sequence), options, counts)
            called = sum(int(np.count_nonzero(~np.isnan(values))) for values in merged.values())
            add(counts, "calls", called)
            add(counts, "reads_without_calls", called == 0)
            if record.is_mapped:
                contig = str(record.reference_name)
                check_alignment(alignments, record)
                if reference is not None:
                    reference.check(file, contig, alignments.contig_bases(contig))
                    _count_off_reference(record, strand, tracks, reference.bases(contig), counts)
                    if counts["reads_checked"] == _FIRST_LOOK:
                        _refuse_off_reference(file, options, counts)
            yield Read(
                unique_id(_name_of(record), numbers),
                str(record.query_name),
                record.reference_name,
                record.reference_start if record.is_mapped else None,
                record.reference_end if record.is_mapped else None,
                strand if record.is_mapped else None,
                converted(_spell(alignments, record, sequence, counts), merged, options),
                merged,
                calls,
            )
    if not counts.get("kept"):
        raise DataError(f"{file}: {nothing_kept(counts)}")
    _refuse_off_reference(file, options, counts)


_Found = tuple[pysam.AlignedSegment, str, Bases, list[ModTrack], str | None]


def _modbam(alignments: Alignments, options: ReadOptions, counts: Counts) -> Iterator[_Found]:
    for found in modified_records(alignments, options, counts):
        tracks = [keep_contexts(track, found.bases, options) for track in found.tracks]
        yield found.record, strand_of(found.record), found.bases, tracks, None


def _bisulfite(alignments: Alignments, options: ReadOptions, reference: Reference | None, counts: Counts) -> Iterator[_Found]:
    for found in bisulfite_records(alignments, options, reference, counts):
        calls = found.calls.tobytes().decode("ascii")
        bases = found.bases
        if options.restore_cytosines:
            bases = to_bases(restore_cytosines(bases.tobytes().decode("ascii"), calls))
        yield found.record, found.strand, bases, [ModTrack("5mC", False, call_values(found.calls, options.contexts))], calls


def _merge_strands(tracks: list[ModTrack], length: int, options: ReadOptions, counts: Counts) -> dict[str, Floats]:
    """One track per modification. Calls of both strands at one base pair (only MM's base N has them): that of the read itself is taken."""
    merged = {name: np.full(length, np.nan, dtype=np.float32) for name in options.modifications}
    for track in sorted(tracks, key=lambda track: track.opposite):
        free = np.isnan(merged[track.name])
        hidden = int(np.count_nonzero(~free & ~np.isnan(track.probability)))
        if hidden:
            add(counts, "calls_hidden_by_other_strand", hidden)
        merged[track.name] = np.where(free, track.probability, merged[track.name])
    return merged


def _count_off_reference(record: pysam.AlignedSegment, strand: str, tracks: list[ModTrack], genome: Bases, counts: Counts) -> None:
    places = reference_places(record)[:: -1 if strand == "-" else 1]
    checked = off = 0
    for track in tracks:
        if (carrier := BASE_OF_NAME.get(track.name, "N")) == "N":
            continue
        called = places[~np.isnan(track.probability) & (places >= 0)]
        found = bases_at(genome, called, (strand == "-") != track.opposite)
        checked += int(np.count_nonzero(found != ord("N")))
        off += int(np.count_nonzero((found != ord(carrier)) & (found != ord("N"))))
    add(counts, "calls_off_reference", off)
    add(counts, "reads_checked", checked > 0)
    add(counts, "reads_off_reference", off * 2 > checked)


def _refuse_off_reference(file: Path, options: ReadOptions, counts: Counts) -> None:
    checked, off = counts.get("reads_checked", 0), counts.get("reads_off_reference", 0)
    if off > options.max_off_reference * checked:
        raise DataError(
            f"{file}: in {off} of {checked} reads ({off / checked:.1%}) most calls lie on another base of the reference than the "
            f"modification needs; at most {options.max_off_reference:.1%} may (max_off_reference): "
            "give the FASTA that the reads were aligned to"
        )


def _name_of(record: pysam.AlignedSegment) -> str:
    return str(record.query_name) + (f"/{1 if record.is_read1 else 2}" if record.is_paired else "")


def unique_id(name: str, numbers: dict[str, int]) -> str:
    """A name as it is, or with #2, #3, … where it was given before. numbers: last number of each id so far; the new one is added."""
    found, number = name, numbers.get(name, 0)
    while found in numbers:
        number += 1
        found = f"{name}#{number}"
    numbers[name] = max(number, 1)
    numbers.setdefault(found, 1)
    return found


def _spell(alignments: Alignments, record: pysam.AlignedSegment, bases: Bases, counts: Counts) -> str:
    sequence = bases.tobytes().decode("ascii")
    foreign = _NOT_DNA[bases]
    if not foreign.any():
        return sequence
    if "=" in sequence:
        raise DataError(
            f"{alignments.file}: read '{record.query_name}' holds '=' (as the reference); write its bases: samtools calmd without -e"
        )
    add(counts, "bases_folded_to_N", int(np.count_nonzero(foreign)))
    return sequence.translate(DNA_FOLD)


# What bisulfite leaves as it is; 5fC and 5caC become T as C does.
_PROTECTED = ("5mC", "5hmC")


def converted(sequence: str, tracks: Mapping[str, Floats], options: ReadOptions) -> str:
    """A read in the letters that the options ask for: as it is, or as bisulfite sequencing would read the molecule.

    sequence: in the direction of the molecule; tracks: (L,) probability of each modification, NaN = no call.
    """
    if options.convert_cytosines == "no":
        return sequence
    known = [tracks[name] for name in _PROTECTED if name in tracks]  # each of them is one base's share of one whole
    protected = np.where(np.all(np.isnan(known), axis=0), np.nan, np.nansum(known, axis=0))
    methylated = protected >= options.call_threshold
    if options.convert_cytosines == "all":
        return convert(sequence, methylated, "+")
    calls = np.full(len(sequence), ord("."), dtype=np.uint8)
    calls[protected <= 1 - options.call_threshold] = ord("u")
    calls[methylated] = ord("U")
    calls[to_bases(sequence) != ord("C")] = ord(".")  # a value on G is that of the other strand
    return bisulfite_text(sequence, calls.tobytes().decode("ascii"))


def nothing_kept(counts: Counts) -> str:
    if not counts.get("records"):
        return "holds no record; give the BAM file with the reads"
    dropped = ", ".join(f"{number} {key.removeprefix('dropped_')}" for key, number in counts.items() if key.startswith("dropped_"))
    return f"none of {counts['records']} records is left (dropped: {dropped}); give reads with methylation tags, or change the options"


class ReadBatches:
    """Frames of reads, one after the other; `counts` says afterwards what was read, dropped and why."""

    def __init__(
        self, file: Path, options: ReadOptions, reference: Reference | None = None, on_drop: Callable[[str, str], None] | None = None
    ) -> None:
        self.counts: Counts = {}
        self._options = options
        self._reads = iterate_reads(file, options, self.counts, reference, on_drop)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> pl.DataFrame:
        batch: list[Read] = []
        bases = 0
        while bases < BATCH_BASES and (read := next(self._reads, None)) is not None:
            batch.append(read)
            bases += len(read.sequence)
        if not batch:
            raise StopIteration
        return _frame(batch, self._options)


def read_records(
    file: Path, options: ReadOptions, reference: Reference | None = None, on_drop: Callable[[str, str], None] | None = None
) -> ReadBatches:
    """Batches of reads as frames; `.counts` is whole once the last batch has been taken.

    Columns: id (unique in the file), contig, start_0based, end, strand (null for unmapped reads), group (read name: mates and pieces of one
    read share it), sequence (upper-case ACGTN), track_<modification> List(Float32) with one value per base, null = no call; for bisulfite
    also calls, Bismark's letters. See `Read` for directions. reference: instead of options.reference, where it has been read already.
    on_drop: is told the name of each record that is left out, and why (as the counts call it).
    Counts: records, kept, dropped_<why>, calls, reads_without_calls, calls_not_wanted_<modification>, bases_folded_to_N, and with a
    reference reads_checked, calls_off_reference, reads_off_reference (most of whose calls are off: a lone one is a variant or a sequencing
    error). Memory: one batch, the reference, and the names of all reads (for unique ids).
    Raises DataError naming file, and read where there is one, for a file that is not a whole BAM, a record without sequence, tags that do
    not fit their sequence, a reference that the reads were not aligned to, and a file of which no read is left.
    """
    return ReadBatches(file, options, reference, on_drop)


def list_column(tracks: list[Floats]) -> pl.Series:
    """Tracks as a column List(Float32), null where NaN. Through Arrow: polars goes over the values in Python, 10 times slower in all."""
    flat = np.concatenate(tracks)
    offsets = np.concatenate([[0], np.cumsum([len(track) for track in tracks])])
    values = pa.array(flat, mask=np.isnan(flat))
    return pl.Series(pa.LargeListArray.from_arrays(pa.array(offsets, type=pa.int64()), values))


def _frame(batch: list[Read], options: ReadOptions) -> pl.DataFrame:
    columns = {
        "id": pl.Series([read.id for read in batch], dtype=pl.String),
        "contig": pl.Series([read.contig for read in batch], dtype=pl.String),
        "start_0based": pl.Series([read.start_0based for read in batch], dtype=pl.Int64),
        "end": pl.Series([read.end for read in batch], dtype=pl.Int64),
        "strand": pl.Series([read.strand for read in batch], dtype=pl.String),
        "group": pl.Series([read.name for read in batch], dtype=pl.String),
        "sequence": pl.Series([read.sequence for read in batch], dtype=pl.String),
    }
    for name in options.modifications:
        columns[f"track_{name}"] = list_column([read.tracks[name] for read in batch])
    if options.kind == "bisulfite":
        columns["calls"] = pl.Series([read.calls for read in batch], dtype=pl.String)
    return pl.DataFrame(columns)
