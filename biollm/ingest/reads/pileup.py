"""Per-read modification calls summed up per site of the reference, in one pass over a sorted BAM.

Legend: a key is 2 * position + strand (0 plus, 1 minus), so that sorted keys are sites in order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl
import pysam
from numpy.typing import NDArray

from biollm.core.errors import ConfigError, DataError
from biollm.ingest.reads.bam import Alignments, Counts, Reference, add, bases_at, check_alignment, reference_places
from biollm.ingest.reads.config import ReadOptions
from biollm.ingest.reads.modbam import keep_contexts, modified_records
from biollm.ingest.reads.modifications import BASE_OF_NAME, CONTEXTS, Bases, ModTrack, Positions, cytosine_contexts
from biollm.ingest.reads.records import nothing_kept

BATCH_SITES = 1_000_000
# Calls held before the finished sites among them are given out; each takes 32 bytes.
_HELD_CALLS = 2_000_000
_FIRST_LOOK = 1000
SCHEMA = pl.Schema(
    {
        "contig": pl.String,
        "position_0based": pl.Int64,
        "strand": pl.String,
        "context": pl.String,
        "modification": pl.String,
        "level": pl.Float32,
        "coverage": pl.Float32,
    }
)
_CONTEXT_NAMES = pl.Series([*CONTEXTS[:3], None], dtype=pl.String)
_STRAND_NAMES = pl.Series(["+", "-"], dtype=pl.String)
Sums = NDArray[np.int64]


@dataclass
class _Tally:
    """Sums per key: calls of any kind, valid ones, modified ones. Rows may repeat a key until `compact`."""

    parts: list[tuple[Positions, Sums]] = field(default_factory=list)  # keys (n,), sums (n, 3)
    held: int = 0

    def add(self, keys: Positions, sums: Sums) -> None:
        self.parts.append((keys, sums))
        self.held += len(keys)

    def compact(self) -> tuple[Positions, Sums]:
        """Each key once, in order, and its sums; these are what is held now."""
        if not self.parts:
            return np.zeros(0, dtype=np.int64), np.zeros((0, 3), dtype=np.int64)
        keys = np.concatenate([part[0] for part in self.parts])
        sums = np.concatenate([part[1] for part in self.parts])
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])) if len(keys) else np.zeros(0, dtype=np.int64)
        merged = (keys[starts], np.add.reduceat(sums[order], starts, axis=0) if len(keys) else sums)
        self.parts, self.held = [merged], len(starts)
        return merged

    def take(self, below: int | None) -> tuple[Positions, Sums]:
        """What lies below a key (None: all), compact; it is held no longer."""
        keys, sums = self.compact()
        cut = len(keys) if below is None else int(np.searchsorted(keys, below))
        self.parts, self.held = [(keys[cut:], sums[cut:])], len(keys) - cut
        return keys[:cut], sums[:cut]


class _Spans:
    """Where reads that made calls lie, per strand of the calls: how many could have made one at a position."""

    def __init__(self) -> None:
        self._starts: tuple[list[int], list[int]] = ([], [])
        self._ends: tuple[list[int], list[int]] = ([], [])

    def add(self, strand: int, start: int, end: int) -> None:
        self._starts[strand].append(start)
        self._ends[strand].append(end)

    def depth(self, keys: Positions) -> Sums:
        depth = np.zeros(len(keys), dtype=np.int64)
        for strand in (0, 1):
            here = keys % 2 == strand
            places = keys[here] // 2
            begun = np.searchsorted(np.sort(np.array(self._starts[strand], dtype=np.int64)), places, side="right")
            depth[here] = begun - np.searchsorted(np.sort(np.array(self._ends[strand], dtype=np.int64)), places, side="right")
        return depth

    def forget(self, before: int) -> None:
        """Drop reads that end at or before a position."""
        for starts, ends in zip(self._starts, self._ends, strict=True):
            kept = [(start, end) for start, end in zip(starts, ends, strict=True) if end > before]
            starts[:], ends[:] = [start for start, _ in kept], [end for _, end in kept]


class Pileup:
    """Frames of sites, one after the other; `counts` says afterwards what was read, dropped and why; `foreign` on which contigs reads lay
    that the reference lacks. Made by `pileup`."""

    def __init__(self, file: Path, options: ReadOptions, reference: Reference | None = None, drop_foreign: bool = False) -> None:
        self.counts: Counts = {}
        self.foreign: set[str] = set()
        self._drop_foreign = drop_foreign
        self._file = file
        self._options = options
        self._reference = reference
        self._contig = ""
        self._clear()
        self._frames = self._run()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> pl.DataFrame:
        return next(self._frames)

    def _clear(self) -> None:
        self._tallies = {name: _Tally() for name in self._options.modifications}
        self._spans = _Spans()
        self._limit = _HELD_CALLS

    def _run(self) -> Iterator[pl.DataFrame]:
        options, file = self._options, self._file
        if self._reference is None and options.reference:
            self._reference = Reference.read(Path(options.reference))
        with Alignments(file) as alignments:
            if (order := alignments.sort_order) != "coordinate":
                raise DataError(f"{file}: its header says the order of reads is {order}; a pileup needs them by position: {_sort(file)}")
            contig_id, start = -1, -1
            mapped_only = options.model_copy(update={"keep_unmapped": False})
            # with a reference, contexts are judged on it, per site, and not on the read
            by_read = options if self._reference is None else options.model_copy(update={"contexts": CONTEXTS})
            for found in modified_records(alignments, mapped_only, self.counts):
                record = found.record
                check_alignment(alignments, record)
                if (record.reference_id, record.reference_start) < (contig_id, start):
                    raise DataError(
                        f"{file}: read '{record.query_name}' at {record.reference_name}:{record.reference_start} lies before the read "
                        f"ahead of it, though the header says that the reads are sorted: {_sort(file)}"
                    )
                if self._is_foreign(str(record.reference_name)):
                    add(self.counts, "dropped_contig_not_in_the_genome")
                    add(self.counts, "kept", -1)
                    continue
                if record.reference_id != contig_id:
                    yield from self._finish(None)
                    self._enter(alignments, str(record.reference_name))
                contig_id, start = record.reference_id, record.reference_start
                if sum(tally.held for tally in self._tallies.values()) > self._limit:
                    yield from self._finish(2 * start)
                self._take(record, [keep_contexts(track, found.bases, by_read) for track in found.tracks])
            yield from self._finish(None)
        if not self.counts.get("kept"):
            raise DataError(f"{file}: {nothing_kept(self.counts)}")
        self._check_off_reference(1)

    def _is_foreign(self, contig: str) -> bool:
        if not self._drop_foreign or self._reference is None or contig in self._reference:
            return False
        self.foreign.add(contig)
        return True

    def _enter(self, alignments: Alignments, contig: str) -> None:
        if self._reference is not None:
            self._reference.check(self._file, contig, alignments.contig_bases(contig))
        self._contig = contig
        self._clear()

    def _take(self, record: pysam.AlignedSegment, tracks: list[ModTrack]) -> None:
        places = reference_places(record)[:: -1 if record.is_reverse else 1]
        spoken: set[int] = set()
        for track in tracks:
            called = np.flatnonzero(~np.isnan(track.probability) & (places >= 0))
            if not len(called):
                continue
            strand = int(record.is_reverse != track.opposite)
            probability = track.probability[called]
            modified = probability >= self._options.call_threshold
            valid = modified | (1 - probability >= self._options.call_threshold)
            sums = np.stack([np.ones(len(called), dtype=np.int64), valid, modified], axis=1, dtype=np.int64)
            self._tallies[track.name].add(2 * places[called] + strand, sums)
            add(self.counts, "calls", len(called))
            spoken.add(strand)
        for strand in spoken if self._reference is not None else ():
            self._spans.add(strand, record.reference_start, int(record.reference_end or 0))

    def _finish(self, below: int | None) -> Iterator[pl.DataFrame]:
        """The sites below a key (None: all of this contig), which no further read can reach."""
        frames = [self._sites(name, *tally.take(below)) for name, tally in self._tallies.items()]
        # what is left is compact: deep stretches wait until it has doubled, so that sorting stays in proportion to the calls
        self._limit = max(_HELD_CALLS, 2 * sum(tally.held for tally in self._tallies.values()))
        if below is not None:
            self._spans.forget(below // 2)
        sites = pl.concat(frames).sort("position_0based", "strand", "modification")
        for first in range(0, len(sites), BATCH_SITES):
            yield sites[first : first + BATCH_SITES]

    def _sites(self, name: str, keys: Positions, sums: Sums) -> pl.DataFrame:
        places, strands = keys // 2, keys % 2
        contexts: list[str | None] | pl.Series = pl.Series([None] * len(keys), dtype=pl.String)
        keep = np.ones(len(keys), dtype=bool)
        carrier = BASE_OF_NAME.get(name, "N")
        if self._reference is not None and len(keys):
            genome = self._reference.bases(self._contig)
            if carrier != "N":
                keep = self._on_reference(genome, keys, sums, ord(carrier))
            if carrier == "C":
                index = np.where(
                    strands == 1, cytosine_contexts(genome, places, minus=True), cytosine_contexts(genome, places, minus=False)
                )
                keep &= np.isin(index, [CONTEXTS.index(context) for context in self._options.contexts])
                contexts = _CONTEXT_NAMES.gather(index)
        valid = sums[:, 1].astype(np.float32)
        with np.errstate(invalid="ignore"):
            level = pl.Series(sums[:, 2].astype(np.float32) / valid, nan_to_null=True)
        frame = pl.DataFrame(
            {
                "contig": pl.repeat(self._contig, len(keys), dtype=pl.String, eager=True),
                "position_0based": places,
                "strand": _STRAND_NAMES.gather(strands),
                "context": contexts,
                "modification": pl.repeat(name, len(keys), dtype=pl.String, eager=True),
                "level": level,
                "coverage": valid,
            },
            schema=SCHEMA,
        )
        return frame.filter(pl.Series(keep)) if len(keys) else frame

    def _on_reference(self, genome: Bases, keys: Positions, sums: Sums, carrier: int) -> NDArray[np.bool_]:
        """Which sites the reference allows (N allows all). Counts those it does not, and refuses once there are too many."""
        places, strands = keys // 2, keys % 2
        found = np.where(strands == 1, bases_at(genome, places, minus=True), bases_at(genome, places, minus=False))
        known = found != ord("N")
        off = known & (found != carrier)
        most = 2 * sums[:, 0] > self._spans.depth(keys)  # a lone call on another base is a variant or a sequencing error
        add(self.counts, "sites_off_reference", int(np.count_nonzero(off)))
        add(self.counts, "calls_off_reference", int(sums[off, 0].sum()))
        add(self.counts, "sites_checked", int(np.count_nonzero(known & most)))
        add(self.counts, "sites_refuted", int(np.count_nonzero(off & most)))
        self._check_off_reference(_FIRST_LOOK)
        return np.asarray(~off)

    def _check_off_reference(self, enough: int) -> None:
        checked, refuted = self.counts.get("sites_checked", 0), self.counts.get("sites_refuted", 0)
        if checked >= enough and refuted > self._options.max_off_reference * checked:
            raise DataError(
                f"{self._file}: {refuted} of {checked} sites ({refuted / checked:.1%}) lie on another base of the reference than the "
                f"modification needs; at most {self._options.max_off_reference:.1%} may (max_off_reference): "
                "give the FASTA that the reads were aligned to"
            )


def _sort(file: Path) -> str:
    return f"samtools sort -o sorted.bam {file}"


def pileup(file: Path, options: ReadOptions, reference: Reference | None = None, drop_foreign: bool = False) -> Pileup:
    """Batches of sites of a coordinate-sorted modBAM as site frames; `.counts` is whole once the last batch has been taken.

    Columns: contig, position_0based, strand (of the modified base), context (CG, CHG, CHH of the reference; null without one, beside N, and
    for other bases than cytosine), modification, level (modified / valid calls, null where none is valid), coverage (valid calls, 0 and
    up). Rows in the order of the file's contigs, then position, strand, modification; at most BATCH_SITES a batch.
    A call is modified where its probability is call_threshold or more, unmodified where 1 - probability is, and else not valid. Each
    modification is judged on its own: at a 5hmC, 5mC counts as unmodified. Calls at inserted and clipped bases have no site; a deleted base
    has no call. Two mates both count where they overlap. reference: instead of options.reference, where it has been read already.
    drop_foreign: reads on contigs that the reference lacks are dropped and counted, where else they are refused.
    Counts: as `read_records`; with a reference sites_off_reference and calls_off_reference, which are left out of the frames since the
    reference has another base there, and sites_checked and sites_refuted: the same of sites called by more than half of the reads that
    could, since a lone call is a variant or a sequencing error.
    Memory: some calls per site under the reads at hand (summed up beyond 2 M), and the reference.
    Raises DataError as `read_records` does, and for reads that are not sorted by position; ConfigError for kind bisulfite.
    """
    if options.kind != "modbam":
        raise ConfigError(
            f"{file}: a pileup is made of MM/ML tags; give bisulfite reads to bismark_methylation_extractor and read its table"
        )
    return Pileup(file, options, reference, drop_foreign)
