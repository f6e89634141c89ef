"""Ingest: raw files into a corpus of windows with labels, tracks and splits."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from biollm.core.errors import DataError
from biollm.core.job import Job
from biollm.core.progress import progress
from biollm.ingest.config import Config, SourceConfig
from biollm.ingest.fasta import Contig, read_dna
from biollm.ingest.gff import read_intervals
from biollm.ingest.splits import Placed, assign_splits, group_blocks, in_gap
from biollm.modeling.corpus import RECORDS, SPLITS
from biollm.modeling.tracks import compute_track


def run(job: Job[Config]) -> dict[str, Any]:
    config = job.config
    dropped: Counter[str] = Counter()
    windows: list[Placed] = []
    labels: dict[str, list[bool]] = {label.name: [] for label in config.labels}
    sources: dict[str, Any] = {}
    seen: dict[str, str] = {}
    for source in config.sources:
        contigs = read_dna(job.files(source.sequences))
        for contig in contigs:
            if (other := seen.setdefault(contig.name, source.name)) != source.name:
                raise DataError(
                    f"sources '{other}' and '{source.name}' both hold a record '{contig.name}'; ids must differ over all sources"
                )
        covered = _label_coverage(job, source, contigs)
        for contig in progress(contigs, f"windows of {source.name}", unit="contig"):
            starts = _window_starts(contig, config, dropped)
            windows += [_place(source, contig, start, config.window_bases) for start in starts.tolist()]
            for label in config.labels:
                bases = covered[label.name][contig.name]
                share = (bases[starts + config.window_bases] - bases[starts]) / config.window_bases
                labels[label.name] += (share >= label.min_fraction).tolist()
        sources[source.name] = {
            "contigs": len(contigs),
            "bases": sum(len(contig.sequence) for contig in contigs),
            "ambiguous_bases_read_as_n": sum(contig.ambiguous for contig in contigs),
        }
    if not windows:
        raise DataError(
            f"no window of {config.window_bases} bases is left ({dict(dropped)}); lower window_bases or raise max_unknown_fraction"
        )

    groups = group_blocks(windows, config.split.block_bases)
    splits = assign_splits(windows, groups, config.split, job.seed)
    kept = [not in_gap(window, groups, splits, config.split) for window in windows]
    dropped["near_another_split"] = kept.count(False)

    group_of = [groups[window.contig, window.start_0based // config.split.block_bases] for window in windows]
    table = pl.DataFrame(
        {
            "id": [f"{w.contig}:{w.start_0based}-{w.end}" for w in windows],
            "source": [w.source for w in windows],
            "contig": [w.contig for w in windows],
            "start_0based": pl.Series([w.start_0based for w in windows], dtype=pl.Int64),
            "end": pl.Series([w.end for w in windows], dtype=pl.Int64),
            "split": [splits[group] for group in group_of],
            "group": group_of,
            **{f"label_{name}": pl.Series(values, dtype=pl.Int8) for name, values in labels.items()},
            "sequence": [w.sequence for w in windows],
        }
    ).filter(pl.Series(kept))
    for track in config.tracks:
        values = [compute_track(track, s) for s in progress(table["sequence"].to_list(), f"track {track.name}", unit="window")]
        column = pl.Series(f"track_{track.name}", values).cast(pl.List(pl.Float32)).list.eval(pl.element().fill_nan(None))
        table = table.with_columns(column)  # missing is null, never NaN and never 0
    counts = {split: int(table.filter(pl.col("split") == split).height) for split in SPLITS}
    if empty := [split for split, count in counts.items() if count == 0]:
        raise DataError(
            f"the splits {empty} are empty ({counts}); lower ingest.split.block_bases (now {config.split.block_bases}) or give more data"
        )
    table.write_parquet(job.out / RECORDS, compression="zstd", statistics=False)
    return {
        "records": counts,
        "positives": {name: {s: int(table.filter(pl.col("split") == s)[f"label_{name}"].sum()) for s in SPLITS} for name in labels},
        "groups": {split: int(table.filter(pl.col("split") == split)["group"].n_unique()) for split in SPLITS},
        "tracks": [track.model_dump() for track in config.tracks],
        "dropped": dict(sorted(dropped.items())),
        "sources": sources,
    }


def _label_coverage(job: Job[Config], source: SourceConfig, contigs: list[Contig]) -> dict[str, dict[str, NDArray[np.int64]]]:
    """Per label and contig: how many bases before each position lie in such a feature. (L + 1,), for differences."""
    lengths = {contig.name: len(contig.sequence) for contig in contigs}
    coverage: dict[str, dict[str, NDArray[np.int64]]] = {}
    for label in job.config.labels:
        assert source.annotation is not None
        intervals = read_intervals(job.files(source.annotation), label.feature, lengths)
        coverage[label.name] = {}
        for name, length in lengths.items():
            inside = np.zeros(length, dtype=bool)
            for start, end in intervals.get(name, []):
                inside[start:end] = True
            coverage[label.name][name] = np.concatenate([[0], np.cumsum(inside)])
    return coverage


def _window_starts(contig: Contig, config: Config, dropped: Counter[str]) -> NDArray[np.int64]:
    """The 0-based starts of the windows that are kept; the others are counted by reason."""
    length, width = len(contig.sequence), config.window_bases
    stride = config.stride_bases or width
    starts = np.arange(0, length, stride, dtype=np.int64)
    whole = starts + width <= length
    dropped["shorter_than_window"] += int((~whole).sum())
    starts = starts[whole]
    unknown = np.concatenate([[0], np.cumsum(np.frombuffer(contig.sequence.encode(), dtype=np.uint8) == ord("N"))])
    known = (unknown[starts + width] - unknown[starts]) / width <= config.max_unknown_fraction
    dropped["too_many_unknown_bases"] += int((~known).sum())
    kept: NDArray[np.int64] = starts[known]
    return kept


def _place(source: SourceConfig, contig: Contig, start: int, width: int) -> Placed:
    return Placed(source.name, contig.name, start, start + width, contig.sequence[start : start + width])
