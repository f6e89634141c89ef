"""The tables of a suite, read by biollm's own ingest: once for each seed where the split depends on it, each with its leak audit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from biollm.benchmark.suite import SuiteTable
from biollm.classify.config import Config as ClassifyConfig
from biollm.classify.data import Dataset, check_given_splits, load_dataset
from biollm.classify.measures import MEASURES, Measure
from biollm.classify.metrics import IntArray
from biollm.core.alphabets import Modality
from biollm.core.errors import ConfigError
from biollm.core.job import Job
from biollm.core.resources import digest_resource
from biollm.core.seeding import derive_seed, generator
from biollm.corpus.columns import RECORDS, SPLITS
from biollm.ingest.config import Config as IngestConfig
from biollm.ingest.stage import run as ingest

_PLACE = "its labelled records"  # the corpus is a passing file: its path would tell no one anything
_REMEDY = "bring more records, raise --limit, or choose another split for this table in the suite"
_SEVERITY = ("clean", "warnings", "leaks")


@dataclass(frozen=True)
class Draw:
    """A table as one seed splits it. audit: what the leak audit found between these splits, as facts."""

    seed: int
    dataset: Dataset
    audit: dict[str, Any]


@dataclass(frozen=True)
class Prepared:
    """A table that can be scored. digests: sha256 of the files that it was read from, by resource."""

    table: SuiteTable
    modality: Modality
    split_by: str
    measure: Measure
    draws: list[Draw]
    digests: dict[str, str]

    @property
    def verdict(self) -> str:
        """The worst that the audit said of any draw."""
        return max((str(draw.audit["verdict"]) for draw in self.draws), key=_SEVERITY.index)

    def sentences(self) -> list[str]:
        """What the audit found, of the first draw that has the worst verdict; the most severe first."""
        worst = next(draw for draw in self.draws if draw.audit["verdict"] == self.verdict)
        return [f"{f['severity']}: {f['sentence']}" for f in worst.audit["findings"] if f["severity"] in ("leak", "warning")]


def prepare(table: SuiteTable, folder: Path, seeds: Iterable[int], limit: int | None) -> Prepared:
    """Read a table for each seed. folder: what its paths are relative to; limit: at most so many records, the same for all seeds.

    Raises ResourceError for a file or package that is not there, ConfigError for a metric that the task does not have, and what ingest
    and classify raise for what is wrong with the data.
    """
    config = table.corpus()
    digests = _digests(config, folder)
    draws: list[Draw] = []
    kept: set[str] | None = None
    facts: dict[str, Any] = {}
    for seed in seeds:
        if not draws or facts["split_by"] != "given":
            with _ingested(config, folder, derive_seed(seed, "benchmark", table.name)) as (facts, records):
                options = ClassifyConfig(label=table.label, task=table.task, classes=table.classes)
                dataset = load_dataset(records, options, place=_PLACE)
        if limit is not None and kept is None:
            kept = _sample(dataset, limit, table.name)
        used = dataset if kept is None else _take(dataset, np.flatnonzero(dataset.table["id"].is_in(kept).to_numpy()))
        check_given_splits(used, table.label, _REMEDY)
        draws.append(Draw(seed, used, facts["audit"]))
    task = draws[0].dataset.targets.task
    by_name = {measure.name: measure for measure in MEASURES[task]}
    wanted = table.metric or next(iter(by_name))
    if wanted not in by_name:
        raise ConfigError(
            f"table '{table.name}': metric is {wanted}, which task {task} does not have; expected one of {', '.join(by_name)}"
        )
    return Prepared(table, config.modality, facts["split_by"], by_name[wanted], draws, digests)


def count_splits(dataset: Dataset) -> dict[str, int]:
    return {split: int(dataset.mask(split).sum()) for split in SPLITS}


@contextmanager
def _ingested(config: IngestConfig, folder: Path, seed: int) -> Iterator[tuple[dict[str, Any], Path]]:
    """The facts of a corpus, and its records while this lasts."""
    with TemporaryDirectory(prefix="biollm-benchmark-") as place:
        out, work, logs = (Path(place) / name for name in ("ingest", "work", "logs"))
        for each in (out, work):
            each.mkdir()
        job = Job(config=config, seed=seed, inputs={}, out=out, work=work, logs=logs, recipe_folder=folder, base_model="")
        facts = ingest(job)
        yield facts, out / RECORDS


def _digests(config: IngestConfig, folder: Path) -> dict[str, str]:
    names = [name for source in config.sources for name in source.resources()] + config.resources()
    return {name: digest_resource(name, folder) for name in dict.fromkeys(names)}


def _sample(dataset: Dataset, limit: int, name: str) -> set[str]:
    """The ids of at most `limit` records, drawn at random, the same whatever the seeds."""
    ids = sorted(dataset.ids)
    chosen = generator(0, "benchmark", name, "limit").permutation(len(ids))[:limit]
    return {ids[i] for i in chosen}


def _take(dataset: Dataset, rows: IntArray) -> Dataset:
    return replace(dataset, table=dataset.table[rows], targets=dataset.targets.take(rows))
