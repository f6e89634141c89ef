"""Corpora whose records are there already: tables, FASTA of proteins, texts, cells, reads."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl

from biollm.core.errors import DataError, first_line
from biollm.core.job import Job
from biollm.core.progress import progress
from biollm.corpus.columns import COVERAGE, TRACK
from biollm.ingest.config import Config, SourceConfig, split_member
from biollm.ingest.dropped import Dropped
from biollm.ingest.reads.methylbert import read_methylbert_table
from biollm.ingest.reads.records import read_records as read_bam
from biollm.ingest.reads.records import unique_id
from biollm.ingest.records.read import read_records

_DROPPED = "dropped_"  # what the readers' counts of left-out records begin with


def read_examples(job: Job[Config], dropped: Dropped) -> tuple[pl.DataFrame, dict[str, Any]]:
    """The records of all sources, and facts of each; what is left out is added to `dropped`.

    Columns: id, source, sequence, and group, split, labels, covariates, places and tracks as far as the sources have them. Sources come by
    name, the files of a source by their first id, and records as they stand in a file, so the order of files says nothing.
    Raises DataError as the readers do, and for an id that two sources have.
    """
    tables, sources = list[pl.DataFrame](), dict[str, Any]()
    for source in progress(sorted(job.config.sources, key=lambda source: source.name), "reading", unit="source"):
        table, counts = _reads(job, source, dropped) if source.kind == "reads" else _records(job, source, dropped)
        tables.append(table.with_columns(pl.lit(source.name).alias("source")))
        dropped.count({key[len(_DROPPED) :]: number for key, number in counts.items() if key.startswith(_DROPPED)})
        residues = int(table["sequence"].str.len_chars().sum())
        sources[source.name] = {"records": table.height, "residues": residues, "counts": counts}
    try:
        table = pl.concat(tables, how="diagonal")
    except pl.exceptions.SchemaError as error:
        raise DataError(f"the sources disagree on a column: {first_line(error)}; give it one type in all of them") from None
    table = table.with_columns(_without_values(table, name) for name in table.columns if name.startswith((TRACK, COVERAGE)))
    if (twice := table.filter(pl.col("id").is_duplicated())).height:
        name = twice["id"][0]
        where = twice.filter(pl.col("id") == name)["source"].to_list()
        raise DataError(f"record id '{name}' stands in the sources {where}; ids must differ over all sources: rename or remove one")
    return table, sources


def _without_values(table: pl.DataFrame, column: str) -> pl.Expr:
    """A track that the records of another source do not carry: there, missing at every residue."""
    missing = pl.lit(None, dtype=table.schema[column].inner).repeat_by(pl.col("sequence").str.len_chars())  # type: ignore[attr-defined]
    return pl.when(pl.col(column).is_null()).then(missing).otherwise(pl.col(column)).alias(column)


def _records(job: Job[Config], source: SourceConfig, dropped: Dropped) -> tuple[pl.DataFrame, dict[str, int]]:
    found = read_records(_record_files(job, source), source.read, job.config.modality)
    dropped.list(found.dropped["id"], found.dropped["reason"])
    return found.frame, {key.replace("dropped, ", _DROPPED): number for key, number in found.counts.items()}


def _record_files(job: Job[Config], source: SourceConfig) -> list[Path]:
    assert source.records is not None
    resource, member = split_member(source.records)
    files = job.files(resource)
    return [Path(f"{file}::{member}") for file in files] if member else files


def _reads(job: Job[Config], source: SourceConfig, dropped: Dropped) -> tuple[pl.DataFrame, dict[str, int]]:
    assert source.reads is not None
    tables, counts, options = list[pl.DataFrame](), Counter[str](), source.read_bam
    if options.reference:
        options = options.model_copy(update={"reference": str(job.files(options.reference)[0])})
    files = job.files(source.reads)
    for file in files:
        if options.kind == "methylbert":
            tables.append(read_methylbert_table(file, options))
            counts.update(records=tables[-1].height, kept=tables[-1].height)
            continue
        reads = read_bam(file, options, on_drop=dropped.list_one)
        tables.append(pl.concat(list(reads)))
        counts.update(reads.counts)
    tables.sort(key=lambda table: str(table["id"][0]))
    table, numbers = pl.concat(tables), dict[str, int]()
    if len(files) > 1:  # each file's ids are unique in itself
        table = table.with_columns(pl.Series("id", [unique_id(identity, numbers) for identity in table["id"]], dtype=pl.String))
    return table, dict(counts)
