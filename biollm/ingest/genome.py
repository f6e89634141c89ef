"""Genomes into windows: any number of contigs of any length, in the memory of the few that are being worked on.

The sequences are read twice. The first time every contig is planned (where its windows lie, their labels, a hash of what each reads); then
duplicates and splits are decided for all windows at once, from those columns alone. The second time the windows are written, in parts
of whole contigs; a part that a killed run finished is not written again. Contigs are worked on in parallel. Their order, and so every byte,
depends on their names alone, not on the order of files: sources come by name, the files of a source by the name of their first contig, and
the contigs of a file as they stand there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from biollm.core.errors import DataError
from biollm.core.job import Job
from biollm.core.machine import usable_cores
from biollm.core.progress import progress
from biollm.corpus.columns import LABEL, RECORDS, TRACK
from biollm.ingest.annotation import Annotation, covered_bases
from biollm.ingest.config import Config, SourceConfig
from biollm.ingest.cytosines import write_cytosines
from biollm.ingest.dropped import Dropped
from biollm.ingest.fasta import Contig
from biollm.ingest.genomes import read_genome
from biollm.ingest.site_tracks import Measured, SiteTracks
from biollm.ingest.sites.join import flat_values
from biollm.ingest.windows import Windows, plan_windows, read_windows, window_hashes
from biollm.modeling.tracks import compute_track

T = TypeVar("T")
R = TypeVar("R")
# A part is closed when it has this many windows; its row groups, and what is in memory at a time, are of this many.
_PART_WINDOWS, _BATCH_WINDOWS = 65_536, 4_096


@dataclass(frozen=True)
class Annotations:
    """All files of features that the recipe names for one source."""

    own: Annotation | None
    regions: Annotation | None
    of_label: dict[str, tuple[Annotation, Annotation | None]]  # label -> what it asks for, and its opposite


@dataclass
class Genome:
    """What is known of a corpus of windows beside the windows themselves."""

    sources: dict[str, Any]
    tracks: SiteTracks = field(repr=False)


@dataclass(frozen=True)
class _Planned:
    """What is kept of a contig once it is planned."""

    contig: str
    bases: int
    ambiguous: int
    masked: int
    windows: pl.DataFrame
    dropped: dict[str, Windows]


def plan_genome(job: Job[Config], dropped: Dropped) -> tuple[pl.DataFrame, Genome]:
    """Read all contigs once; windows that are left out are added to `dropped`.

    Returns the plan, (windows,) columns source, contig, contig_index, start_0based, end, minus, hash and one for each label, in the order
    that this module's description says. Raises DataError for what is wrong with any file, before any record is written.
    """
    config = job.config
    tracks = SiteTracks(config, job.files, job.work)
    plans: list[pl.DataFrame] = []
    sources: dict[str, Any] = {}
    seen: dict[str, str] = {}
    for source in _by_name(config):
        annotations = _annotations(job, source)
        contigs, bases, ambiguous, masked = list[str](), 0, 0, 0

        def plan(contig: Contig, source: SourceConfig = source, annotations: Annotations = annotations) -> _Planned:
            tracks.check(source.name, contig.name, contig.sequence)
            windows, lost = _plan_contig(contig, source, config, annotations)
            return _Planned(contig.name, len(contig.sequence), contig.ambiguous, contig.masked, windows, lost)

        read = progress(_contigs(job, source), f"windows of {source.name}", unit="contig")
        for found in in_parallel(plan, read):
            if (other := seen.setdefault(found.contig, source.name)) != source.name:
                raise DataError(
                    f"sources '{other}' and '{source.name}' both hold a record '{found.contig}'; ids must differ over all sources"
                )
            plans.append(found.windows.with_columns(pl.lit(len(seen) - 1, dtype=pl.Int32).alias("contig_index")))
            _list_dropped(dropped, found.contig, found.dropped)
            contigs.append(found.contig)
            bases, ambiguous, masked = bases + found.bases, ambiguous + found.ambiguous, masked + found.masked
        _check_annotations(config, annotations, contigs)
        sources[source.name] = {
            **({"build": source.build} if source.build else {}),
            "contigs": len(contigs),
            "bases": bases,
            "ambiguous_bases_read_as_n": ambiguous,
            "masked_bases_read_as_n": masked,
        }
    tracks.judge({source.name: [name for name, of in seen.items() if of == source.name] for source in config.sources})
    whole = pl.concat(plans, rechunk=False)
    if whole.is_empty():
        raise DataError(
            f"no window of {config.window_bases} bases is left ({dict(dropped.counts)}); lower window_bases or raise max_unknown_fraction"
        )
    return whole, Genome(sources, tracks)


def _list_dropped(dropped: Dropped, contig: str, windows_of: dict[str, Windows]) -> None:
    dropped.count({reason: len(windows) for reason, windows in windows_of.items()})
    for reason, windows in windows_of.items():
        if len(windows) == 1:  # the tail of each of 100,000 scaffolds, without a frame for it
            dropped.list_one(f"{contig}:{windows.starts[0]}-{windows.ends[0]}{'(-)' if windows.minus[0] else ''}", reason)
        elif len(windows):
            places = {"contig": contig, "start_0based": windows.starts, "end": windows.ends, "minus": windows.minus}
            rows = pl.DataFrame(places).select(window_ids(), pl.lit(reason).alias("reason"))
            dropped.list(rows["id"], rows["reason"])


def _by_name(config: Config) -> list[SourceConfig]:
    return sorted(config.sources, key=lambda source: source.name)


def window_sequences(job: Job[Config], plan: pl.DataFrame) -> pl.Series:
    """What all windows of a plan read, at once: for the questions that need to compare them with each other. (windows,)"""
    parts = [pl.Series(values=read_windows(contig.sequence, _windows(rows))) for contig, rows in _planned(job, plan)]
    return pl.concat(parts) if parts else pl.Series(dtype=pl.String)


def write_genome(job: Job[Config], genome: Genome, plan: pl.DataFrame) -> None:
    """Write the windows of a plan, whose columns now include `split` and `group`, as `records.parquet` in the job's folder.

    One file if there is one part, else a folder of parts.
    """
    parts = job.work / "parts"
    parts.mkdir(exist_ok=True)
    number_of = _part_numbers(plan)
    done = {int(path.stem.removeprefix("part-")) for path in parts.glob("part-*.parquet")}
    waiting: list[tuple[Contig, pl.DataFrame]] = []
    ready = [index for index, number in number_of.items() if number in done]
    left = plan.filter(~pl.col("contig_index").is_in(ready)) if ready else plan

    last_of = {number: index for index, number in number_of.items()}

    def closed() -> Iterator[tuple[int, list[tuple[Contig, pl.DataFrame]]]]:
        for contig, rows in progress(_planned(job, left), "writing windows", unit="contig"):
            waiting.append((contig, rows))
            index = int(rows["contig_index"][0])
            del contig, rows
            if index == last_of[number_of[index]]:
                yield number_of[index], waiting.copy()
                waiting.clear()

    for _ in in_parallel(lambda part: _write_part(part[1], parts / f"part-{part[0]:05d}.parquet", job.config, genome.tracks), closed()):
        pass
    written = sorted(parts.glob("part-*.parquet"))
    if len(written) == 1:
        written[0].rename(job.out / RECORDS)
    else:
        parts.rename(job.out / RECORDS)


def in_parallel(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """The result of each item, in order; at most one for each core is held, beside the next one."""
    workers = usable_cores()
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                pending.append(pool.submit(work, item))
                del item
                if len(pending) >= workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _contigs(job: Job[Config], source: SourceConfig) -> Iterator[Contig]:
    assert source.sequences is not None
    return read_genome(job.files(source.sequences), job.config.policy)


def _planned(job: Job[Config], plan: pl.DataFrame) -> Iterator[tuple[Contig, pl.DataFrame]]:
    """The contigs that have windows in a plan, with these."""
    counts = dict(plan.group_by("contig_index", maintain_order=True).len().iter_rows())
    index = offset = 0
    for source in _by_name(job.config):
        for contig in _contigs(job, source):
            if count := counts.pop(index, 0):
                yield contig, plan.slice(offset, count)
                offset += count
            if not counts:
                return
            index += 1


def _windows(rows: pl.DataFrame) -> Windows:
    return Windows(rows["start_0based"].to_numpy(), rows["end"].to_numpy(), rows["minus"].to_numpy())


# --- annotations and labels --------------------------------------------------------------------------------------------------


def _annotations(job: Job[Config], source: SourceConfig) -> Annotations:
    opened: dict[str, Annotation] = {}

    def read(resource: str | None) -> Annotation | None:
        if resource is None:
            return None
        if resource not in opened:
            opened[resource] = Annotation(job.files(resource))
        return opened[resource]

    of_label = {}
    for label in job.config.labels:
        own = read(label.intervals or source.annotation)
        assert own is not None, label
        of_label[label.name] = own, read(label.against)
    return Annotations(read(source.annotation), read(source.regions), of_label)


def _check_annotations(config: Config, annotations: Annotations, contigs: list[str]) -> None:
    if config.features and annotations.own:
        annotations.own.check(contigs, config.features.feature)
    if annotations.regions:
        annotations.regions.check(contigs, "interval")
    for label in config.labels:
        own, opposite = annotations.of_label[label.name]
        own.check(contigs, label.feature)
        if opposite:
            opposite.check(contigs, label.feature)


def _plan_contig(contig: Contig, source: SourceConfig, config: Config, annotations: Annotations) -> tuple[pl.DataFrame, dict[str, Windows]]:
    bases = len(contig.sequence)
    features = annotations.own.on(contig.name, bases) if annotations.own else None
    regions = annotations.regions.intervals(contig.name, bases, "interval") if annotations.regions else None
    windows, dropped = plan_windows(contig.sequence, config, features, regions)
    columns: dict[str, Any] = {
        "source": pl.repeat(source.name, len(windows), eager=True, dtype=pl.String).cast(pl.Categorical),
        "contig": pl.repeat(contig.name, len(windows), eager=True, dtype=pl.String).cast(pl.Categorical),
        "start_0based": windows.starts,
        "end": windows.ends,
        "minus": windows.minus,
        "hash": window_hashes(contig.sequence, windows),
    }
    width = windows.ends - windows.starts
    for label in config.labels:
        own, opposite = annotations.of_label[label.name]
        values = [
            covered_bases(one.intervals(contig.name, bases, label.feature), windows.starts, windows.ends) / width >= label.min_fraction
            for one in (own, opposite)
            if one is not None
        ]
        column = pl.Series(values[0].astype(np.int8))
        if opposite:  # neither, or both: no answer
            column = column.set(pl.Series(values[0] == values[1]), None)
        columns[LABEL + label.name] = column
    return pl.DataFrame(columns), dropped


# --- writing -----------------------------------------------------------------------------------------------------------------


def _part_numbers(plan: pl.DataFrame) -> dict[int, int]:
    """contig_index -> number of its part: whole contigs, in order, closed when they have `_PART_WINDOWS` windows."""
    numbers, number, filled = {}, 0, 0
    for index, count in plan.group_by("contig_index", maintain_order=True).len().iter_rows():
        numbers[index] = number
        filled += count
        if filled >= _PART_WINDOWS:
            number, filled = number + 1, 0
    return numbers


def _write_part(contigs: list[tuple[Contig, pl.DataFrame]], path: Path, config: Config, tracks: SiteTracks) -> None:
    staged, writer = path.with_name(f".{path.name}"), None
    try:
        for contig, rows in contigs:
            measured = tracks.of_contig(str(rows["source"][0]), contig.name)
            for batch in rows.iter_slices(_BATCH_WINDOWS):
                table = _table(contig, batch, config, measured)
                writer = writer or pq.ParquetWriter(staged, table.schema, compression="zstd", write_statistics=False)
                writer.write_table(table)
    finally:
        if writer:
            writer.close()
        pa.default_memory_pool().release_unused()
    staged.rename(path)


def _table(contig: Contig, rows: pl.DataFrame, config: Config, measured: Measured) -> pa.Table:
    windows = _windows(rows)
    sequences = read_windows(contig.sequence, windows)
    labels = [LABEL + label.name for label in config.labels]
    strand = pl.when("minus").then(pl.lit("-")).otherwise(pl.lit("+")).alias("strand")
    texts = pl.col("source", "contig", "split", "group").cast(pl.String)
    head = rows.with_columns(texts, strand, window_ids()).select(
        "id", "source", "contig", "start_0based", "end", "strand", "split", "group", *labels
    )
    table = head.to_arrow()
    for track in config.computed_tracks:
        values = [compute_track(track, str(sequence)) for sequence in sequences]
        table = table.append_column(TRACK + track.name, _lists(np.concatenate(values), windows))
    for name, lists in measured.columns(windows):
        table = table.append_column(name, lists)
    if config.cytosines is not None:
        levels = [flat_values(table[TRACK + track].chunk(0)) for track in config.cytosines.tracks]
        sequences = write_cytosines(sequences, levels, config.cytosines)
    return table.append_column("sequence", sequences)


def window_ids() -> pl.Expr:
    """The id of a window of a plan: contig:start-end, 0-based and half open, with (-) behind it on the minus strand."""
    place = pl.format(
        "{}:{}-{}{}", pl.col("contig").cast(pl.String), "start_0based", "end", pl.when("minus").then(pl.lit("(-)")).otherwise(pl.lit(""))
    )
    return place.alias("id")


def _lists(flat: Any, windows: Windows) -> pa.Array:
    """(sum of widths,) float32, NaN = missing, as one list of each window; missing is null, never NaN and never 0."""
    offsets = np.concatenate([[0], np.cumsum(windows.ends - windows.starts)])
    return pa.LargeListArray.from_arrays(pa.array(offsets, type=pa.int64()), pa.array(flat, mask=np.isnan(flat)))
