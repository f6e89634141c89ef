"""Ingest: raw files into a corpus of records with labels, tracks and splits."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from biollm.core.errors import ConfigError, DataError
from biollm.core.job import Job
from biollm.core.progress import say
from biollm.corpus.columns import DROPPED, LABEL, RECORDS, SPLITS
from biollm.corpus.duplicates import find_duplicates
from biollm.corpus.mmseqs import clusters_by_mmseqs, mmseqs_version
from biollm.corpus.records import audit_records
from biollm.corpus.similarity import clusters, content_hashes, encode, identical_rows
from biollm.ingest.config import Config
from biollm.ingest.dropped import Dropped
from biollm.ingest.examples import read_examples
from biollm.ingest.genome import plan_genome, window_ids, window_sequences, write_genome
from biollm.ingest.splits import Codes, Grouping, assign_splits, group_records, in_gap

_BALANCED = ("block", "contig", "source")
Rows = NDArray[np.bool_]


def run(job: Job[Config]) -> dict[str, Any]:
    """Writes records.parquet and dropped.parquet; the facts hold the counts of both and what the leak audit found."""
    if job.config.split.tool == "mmseqs2":
        mmseqs_version()  # raises now, not when all is read
    elif job.config.split.by == "similarity" and job.config.modality == "protein" and shutil.which("mmseqs"):
        say("ingest: MMseqs2 is installed here; split.tool: mmseqs2 would keep distant relatives together too")
    ingest = _ingest_genome if job.config.kind == "sequences" else _ingest_examples
    with Dropped(job.out / DROPPED) as dropped:
        facts = ingest(job, dropped)
    options = job.config.audit.model_copy(update={"modality": job.config.modality})
    found = audit_records(job.out / RECORDS, options)
    return facts | {"dropped": dict(sorted(dropped.counts.items())), "modality": job.config.modality, "audit": found}


def _ingest_genome(job: Job[Config], dropped: Dropped) -> dict[str, Any]:
    config = job.config
    plan, genome = plan_genome(job, dropped)
    by = "block" if config.split.by == "auto" else config.split.by
    near, sequences = config.duplicates.near, None
    if by == "similarity" or near is not None:
        sequences = window_sequences(job, plan)
    groups = _group_windows(plan, config, by, sequences)  # with the duplicates: they say which blocks are copies of each other
    if config.duplicates.exact == "drop":
        same = plan["hash"].to_numpy() + plan["minus"].to_numpy()  # a window and its own other strand are not duplicates
        first = _first_alike(same)
        kept = first == np.arange(len(first))
        dropped.add(_ids(plan.filter(~kept)), "duplicate", _ids(plan[first[~kept]]))
        plan, groups = plan.filter(kept), groups.take(kept)
        sequences = None if sequences is None else sequences.filter(kept)
    if near is not None and sequences is not None:
        kept = _without_near(pl.DataFrame({"id": _ids(plan), "sequence": sequences}), config, near, dropped)
        plan, groups = plan.filter(kept), groups.take(kept)
    split = _by_name(plan["contig"], plan["source"], config) if by == "given" else _assign(plan, groups, config, by, job.seed)
    plan = plan.drop("hash").with_columns(_named(split), pl.Series("group", groups.names).cast(pl.Categorical).gather(groups.of_row))
    del groups
    if by == "block":
        contig = plan["contig_index"].to_numpy().astype(np.int64)
        close = in_gap(contig, plan["start_0based"].to_numpy(), plan["end"].to_numpy(), split, config.split)
        dropped.add(_ids(plan.filter(close)), "near_another_split")
        plan = plan.filter(~close)
    facts = _facts(plan, config, by)
    write_genome(job, genome, plan)
    tracks = {"tracks": [track.model_dump() for track in config.computed_tracks], "site_tracks": genome.tracks.facts()}
    return facts | tracks | {"sources": genome.sources}


def _ingest_examples(job: Job[Config], dropped: Dropped) -> dict[str, Any]:
    config = job.config
    table, sources = read_examples(job, dropped)
    same = identical_rows(encode(table["sequence"], config.modality))
    by = config.split.by
    if by == "auto":
        by = "given" if "split" in table.columns else "group" if "group" in table.columns else "random"
    groups = _group_examples(table, config, by, same)
    if config.duplicates.exact == "drop":
        conflicting = _conflicting(table, same, refuse=config.duplicates.conflicting == "refuse")
        dropped.add(table["id"].filter(conflicting), "conflicting_labels")
        copies = (same != np.arange(len(same))) & ~conflicting
        dropped.add(table["id"].filter(copies), "duplicate", table["id"].gather(same[copies]))
        kept = ~(conflicting | copies)
        table, groups = table.filter(kept), groups.take(kept)
    if config.duplicates.near is not None:
        kept = _without_near(table.select("id", "sequence"), config, config.duplicates.near, dropped)
        table, groups = table.filter(kept), groups.take(kept)
    if by == "given" and config.split.contigs:
        split = _by_name(table["contig"] if "contig" in table.columns else table["source"], table["source"], config)
    elif by == "given":
        split = table["split"].cast(pl.Enum(SPLITS)).to_physical().to_numpy()
    else:
        split = _assign(table, groups, config, by, job.seed)
    names = pl.Series("group", groups.names, dtype=pl.String).gather(groups.of_row)
    table = table.with_columns(_named(split).cast(pl.String), names)
    if by == "block":
        close = _near_another_split(table, split, config)
        dropped.add(table["id"].filter(close), "near_another_split")
        table = table.filter(~close)
    first = [name for name in ("id", "source", "contig", "start_0based", "end", "strand", "split", "group") if name in table.columns]
    table = table.select(*first, *(name for name in table.columns if name not in (*first, "sequence")), "sequence")
    table.write_parquet(job.out / RECORDS, compression="zstd", statistics=False, row_group_size=8_192)
    return _facts(table, config, by) | {"tracks": [], "site_tracks": [], "sources": sources}


# --- duplicates --------------------------------------------------------------------------------------------------------------


def _first_alike(values: NDArray[np.uint64]) -> NDArray[np.int64]:
    """For each row the first row of the same value. (rows,)"""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    begins = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    first = np.empty(len(values), dtype=np.int64)
    first[order] = order[np.flatnonzero(begins)[np.cumsum(begins) - 1]]
    return first


def _ids(plan: pl.DataFrame) -> pl.Series:
    # polars (2.1) panics at `format` over columns of several chunks
    return plan.select("contig", "start_0based", "end", "minus").rechunk().select(window_ids()).to_series()


def _without_near(table: pl.DataFrame, config: Config, near: float, dropped: Dropped) -> Rows:
    """Which rows are kept when near duplicates go. (rows,)"""
    found = find_duplicates(table, config.modality, near).filter(pl.col("kind") == "near")
    dropped.add(table["id"].gather(found["row"]), "near_duplicate", table["id"].gather(found["kept_row"]))
    kept = np.ones(table.height, dtype=bool)
    kept[found["row"].to_numpy()] = False
    return kept


def _conflicting(table: pl.DataFrame, same: NDArray[np.int64], refuse: bool) -> Rows:
    """Which records have an equal one with another label: dropping all but the first would choose between them. (rows,)

    Raises DataError naming two that disagree, if they are to be refused.
    """
    found = np.zeros(table.height, dtype=bool)
    for label in (name for name in table.columns if name.startswith(LABEL)):
        values = table.select(pl.Series("first", same), "id", pl.col(label).alias("value")).drop_nulls("value")
        by_first = values.group_by("first", maintain_order=True).agg(
            pl.col("value").n_unique().alias("values"),
            pl.col("id").first(),
            pl.col("id").filter(pl.col("value") != pl.col("value").first()).first().alias("other"),
        )
        conflicts = by_first.filter(pl.col("values") > 1)
        if refuse and conflicts.height:
            first = conflicts.row(0, named=True)
            raise DataError(
                f"{conflicts.height} sequences stand in the data with different values of '{label.removeprefix(LABEL)}', first those of "
                f"records '{first['id']}' and '{first['other']}'; correct the labels, or set ingest.duplicates: conflicting: drop takes "
                "all of them out, exact: keep keeps them in one split"
            )
        found |= np.isin(same, conflicts["first"].to_numpy())
    return found


# --- splits ------------------------------------------------------------------------------------------------------------------


def _group_windows(plan: pl.DataFrame, config: Config, by: str, sequences: pl.Series | None) -> Grouping:
    """Groups of windows; keys are ordered by the names of contigs, so that a group is named after its first block by name."""
    hashes = plan["hash"].to_numpy()
    if by in ("block", "contig", "given"):
        contigs = plan.select("contig_index", pl.col("contig").cast(pl.String)).unique("contig_index").sort("contig")
        rank = np.empty(int(contigs["contig_index"].to_numpy().max()) + 1, dtype=np.int64)
        rank[contigs["contig_index"].to_numpy()] = np.arange(contigs.height)
        contig, names = rank[plan["contig_index"].to_numpy()], contigs["contig"].to_list()
        if by == "given":  # contigs were given their splits one by one: repeats across them are found by the audit, not moved
            return group_records(contig, names, np.arange(plan.height, dtype=np.uint64))
        if by == "contig":
            return group_records(contig, names, hashes)
        block = plan["start_0based"].to_numpy() // config.split.block_bases
        width = int(block.max(initial=0)) + 1
        return group_records(contig * width + block, lambda keys: [f"{names[key // width]}:{key % width}" for key in keys.tolist()], hashes)
    if by == "source":
        names = [source.name for source in config.sources]
        return group_records(plan["source"].cast(pl.Enum(names)).to_physical().to_numpy().astype(np.int64), names, hashes)
    keys = np.arange(plan.height)
    if by == "similarity":
        assert sequences is not None
        keys = _clusters(sequences, config)
    return group_records(keys, None, hashes)


def _group_examples(table: pl.DataFrame, config: Config, by: str, same: NDArray[np.int64]) -> Grouping:
    """Groups of records. With given splits they are named only: what stands in two splits is found by the audit, not moved."""
    if by in ("given", "group") and not config.split.contigs:
        column = "split" if by == "given" else "group"
        if column not in table.columns:
            raise ConfigError(
                f"ingest.split.by is {by}, but no source names a column for it; set `read: {{{column}: <column>}}` of the source"
            )
        if missing := table.filter(pl.col(column).is_null())["id"].to_list():
            raise DataError(f"{len(missing)} records have no {column}, the first is '{missing[0]}'; fill the column")
    if by in ("similarity", "random"):
        rows = _clusters(table["sequence"], config) if by == "similarity" else np.arange(table.height)
        return group_records(rows, None, content_hashes(table["sequence"], config.modality))
    if by == "source" or (by in ("group", "given") and "group" in table.columns):
        keys = table["source" if by == "source" else "group"]
    elif by in ("contig", "block"):  # of reads; one without an alignment is a group of its own
        block = pl.col("start_0based") // config.split.block_bases
        place = pl.col("contig") if by == "contig" else pl.format("{}:{}", "contig", block)
        keys = table.select(pl.coalesce(place, "id")).to_series()
    else:
        keys = table["id"]
    keys = keys.cast(pl.String).alias("key")
    names = keys.unique().sort()
    codes = keys.to_frame().join(names.to_frame().with_row_index("code"), on="key", how="left", maintain_order="left", nulls_equal=True)
    joined = np.arange(table.height) if by == "given" else same
    return group_records(codes["code"].to_numpy().astype(np.int64), names.fill_null("").to_list(), joined.astype(np.uint64))


def _near_another_split(reads: pl.DataFrame, split: Codes, config: Config) -> Rows:
    """Whether reads lie too close to a block of another split; those without an alignment do not. (rows,)"""
    mapped = reads["contig"].is_not_null().to_numpy()
    contig = reads["contig"].filter(mapped).rank("dense").to_numpy().astype(np.int64)
    starts, ends = (reads[name].filter(mapped).to_numpy() for name in ("start_0based", "end"))
    close = np.zeros(reads.height, dtype=bool)
    close[mapped] = in_gap(contig, starts, ends, split[mapped], config.split)
    return close


def _clusters(sequences: pl.Series, config: Config) -> NDArray[np.int64]:
    find = clusters_by_mmseqs if config.split.tool == "mmseqs2" else clusters
    return find(sequences, config.modality, config.split.similarity)


def _named(split: Codes) -> pl.Series:
    return pl.Series("split", split).cat.to(pl.Enum(SPLITS))


def _assign(table: pl.DataFrame, groups: Grouping, config: Config, by: str, seed: int) -> Codes:
    """The split of each row. (rows,)"""
    balanced = config.split.assign == "balanced" or (
        config.split.assign == "auto" and (by in _BALANCED or config.split.stratify is not None)
    )
    strata = pl.repeat("", table.height, eager=True) if by == "source" else table["source"].cast(pl.String)
    if config.split.stratify:
        if (column := LABEL + config.split.stratify) not in table.columns:
            there = [name.removeprefix(LABEL) for name in table.columns if name.startswith(LABEL)]
            raise ConfigError(f"ingest.split.stratify is '{config.split.stratify}'; labels there: {', '.join(there) or 'none'}")
        _check_classes(table[column], config.split.stratify)
        strata = pl.select(pl.concat_str(strata, table[column].cast(pl.String).fill_null(""), separator="\x1f")).to_series()
    return assign_splits(groups, strata, config.split, balanced, seed)[groups.of_row]


def _check_classes(label: pl.Series, name: str) -> None:
    """Raises ConfigError for a label of which most values are too rare to be in every split: a measurement, or an id."""
    counts = label.drop_nulls().value_counts()["count"]
    rare, records = int(counts.filter(counts < len(SPLITS)).sum()), int(counts.sum())
    if 2 * rare > records:
        raise ConfigError(
            f"ingest.split.stratify is '{name}', a label of {len(counts):,} values in {records:,} records, most of which stand fewer than "
            f"{len(SPLITS)} times; expected classes, each with records for every split: stratify by a label of few classes, or leave it out"
        )


def _by_name(contigs: pl.Series, sources: pl.Series, config: Config) -> Codes:
    """The splits that the recipe gives to contigs or sources; train for those that it does not name. (rows,)"""
    contigs, sources = contigs.cast(pl.String), sources.cast(pl.String)
    split_of = {name: split for split, names in config.split.contigs.items() for name in names}
    if unknown := split_of.keys() - set(contigs.unique()) - set(sources.unique()):
        raise ConfigError(f"ingest.split.contigs names {sorted(unknown)}; no contig and no source is called so")
    by_contig = contigs.replace_strict(split_of, default=None, return_dtype=pl.String)
    by_source = sources.replace_strict(split_of, default="train", return_dtype=pl.String)
    return pl.select(pl.coalesce(by_contig, by_source).cast(pl.Enum(SPLITS)).to_physical()).to_series().to_numpy()


# --- facts -------------------------------------------------------------------------------------------------------------------


def _facts(table: pl.DataFrame, config: Config, by: str) -> dict[str, Any]:
    """Counts by split. Raises DataError if a split is empty."""
    labels = [name for name in table.columns if name.startswith(LABEL)]
    yes_no = [name for name in labels if table[name].dtype.is_integer() and table[name].is_in([0, 1]).all()]  # null is neither
    counted = table.group_by("split").agg(
        pl.len().alias("records"),
        *(pl.col(name).null_count().alias(f"unlabelled_{name}") for name in labels),
        *(pl.col(name).sum().alias(f"positives_{name}") for name in yes_no),
    )
    of_split = {str(row["split"]): row for row in counted.iter_rows(named=True)}
    counts = {split: of_split.get(split, {"records": 0})["records"] for split in SPLITS}
    if empty := [split for split, count in counts.items() if count == 0]:
        remedies = {
            "given": "give every split some records, or choose another split.by",
            "block": f"lower ingest.split.block_bases (now {config.split.block_bases}) or give more data",
        }
        within = f" within the classes of '{config.split.stratify}'" if config.split.stratify else ""
        remedy = remedies.get(by, f"the records form too few groups by {by}{within}; choose another split.by, or give more data")
        raise DataError(f"the splits {empty} are empty ({counts}); {remedy}")

    def facts(column: str) -> dict[str, int]:
        return {split: int(of_split[split][column]) for split in SPLITS}

    return {
        "records": counts,
        "split_by": by,
        **({"split_tool": _tool(config)} if by == "similarity" else {}),
        "groups": _count_groups(table),
        "positives": {name.removeprefix(LABEL): facts(f"positives_{name}") for name in yes_no},
        "unlabelled": {name.removeprefix(LABEL): facts(f"unlabelled_{name}") for name in labels},
    }


def _tool(config: Config) -> str:
    return f"mmseqs2 {mmseqs_version()}" if config.split.tool == "mmseqs2" else config.split.tool


def _count_groups(table: pl.DataFrame) -> dict[str, int]:
    """The number of groups in each split. By marks, since `n_unique` takes 50 bytes a row, which a genome feels."""
    codes, splits = (
        table["group"].cast(pl.Categorical).to_physical().to_numpy(),
        table["split"].cast(pl.Enum(SPLITS)).to_physical().to_numpy(),
    )
    counts = {}
    for number, split in enumerate(SPLITS):
        seen = np.zeros(int(codes.max()) + 1, dtype=bool)
        seen[codes[splits == number]] = True
        counts[split] = int(seen.sum())
    return counts
