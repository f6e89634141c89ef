"""`biollm benchmark`: read and audit every table, score every model and baseline, rank them, write JSON and Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from biollm.benchmark.output import JSON, MARKDOWN, as_markdown
from biollm.benchmark.scoring import open_models, score_baselines, score_model
from biollm.benchmark.suite import SuiteTable, load_suite
from biollm.benchmark.summary import Summary, mean_ranks, summarise
from biollm.benchmark.tables import Prepared, count_splits, prepare
from biollm.classify.config import HeadName
from biollm.classify.heads import HEADS
from biollm.classify.rows import no_nan
from biollm.core.artifacts import package_versions
from biollm.core.errors import ConfigError, DataError, ResourceError, listed, storage_error
from biollm.core.files import sha256_file, write_json, write_text_atomic
from biollm.core.progress import say

SCHEMA_VERSION = 1
_LEAST_LIMIT = 10
_SHOWN_IDS = 5


@dataclass(frozen=True)
class Options:
    """seeds: how many; each splits anew (not the given splits) and seeds the heads. limit: records of a table at most. head: on the models'
    embeddings; default: logistic (ridge for quantities). strict: a table that leaks is not scored."""

    seeds: int = 3
    limit: int | None = None
    head: HeadName | None = None
    strict: bool = False

    @classmethod
    def of(cls, seeds: int, limit: int | None, head: str | None, strict: bool) -> Options:
        """Options from what a user typed. Raises ConfigError for what cannot be."""
        if seeds < 1 or (limit is not None and limit < _LEAST_LIMIT):
            raise ConfigError(
                f"--seeds is {seeds}, --limit {limit}; expected 1 seed or more, and a limit of {_LEAST_LIMIT} records or more"
            )
        if head is not None and head not in HEADS:
            raise ConfigError(f"--head {head}: expected one of {', '.join(HEADS)}")
        return cls(seeds, limit, head, strict)


def run_suite(path: Path, models: Sequence[str], out: Path, options: Options) -> dict[str, Any]:
    """Score models over a suite, write benchmark.json and benchmark.md into `out`, and return the facts in them.

    A table whose files are not there is skipped with the reason; one that leaks is marked, or with `strict` refused.
    Raises ConfigError for a suite that cannot be, ResourceError for a model that is not there and where no table is there, DataError for
    a broken table.
    """
    suite = load_suite(path)
    if not models:
        raise ConfigError("--models names no model; give one or more: folders, package:NAME/path, or hub names")
    opened = open_models(list(models))
    read = [_read(table, path.parent, options) for table in suite.tables]  # all of them first: what is wrong is said before hours of work
    if all(about["status"] == "skipped" for about, _ in read):
        why = "\n".join(f"  {about['name']}: {about['reason']}" for about, _ in read)
        raise ResourceError(f"suite '{suite.name}': none of its tables is there, so nothing was scored; bring one of them\n{why}")
    summaries: list[list[Summary]] = []
    tables: list[dict[str, Any]] = []
    for about, prepared in read:
        if prepared is None:
            tables.append(about)
            continue
        say(f"benchmark: scoring {prepared.table.name}")
        entries = [*(score_model(model, prepared, options.head) for model in opened), *score_baselines(prepared)]
        summaries.append(summarise(entries, prepared.measure))
        rows = [asdict(one) for one in summaries[-1]]
        tables.append(about | {"rows": rows, "measures": {entry.name: entry.measures for entry in entries}})
    facts = {
        "schema_version": SCHEMA_VERSION,
        "suite": suite.name,
        "title": suite.title or suite.name,
        "suite_sha256": sha256_file(path),
        "seeds": options.seeds,
        "limit": options.limit,
        "head": options.head,
        "models": [{"name": model.name, "digest": model.digest} for model in opened],
        "tables": tables,
        "ranks": [asdict(rank) for rank in mean_ranks(summaries)],
        "versions": package_versions(),
    }
    facts = no_nan(facts)
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / JSON, facts)
        write_text_atomic(out / MARKDOWN, as_markdown(facts))
    except OSError as error:
        raise storage_error(error, out) or error from None
    return dict(facts)


def _read(table: SuiteTable, folder: Path, options: Options) -> tuple[dict[str, Any], Prepared | None]:
    """What is known of a table before it is scored, and the table; None where it is not scored: absent, or leaking and refused."""
    about = {"name": table.name, "title": table.title or table.name, "cite": table.cite, "label": table.label}
    say(f"benchmark: reading {table.name}")
    try:
        prepared = prepare(table, folder, range(options.seeds), options.limit)
    except ResourceError as error:
        say(f"benchmark: {table.name} skipped: {error}")
        return about | {"status": "skipped", "reason": str(error)}, None
    except DataError as error:
        raise DataError(f"table '{table.name}': {error}") from None
    facts = _facts(prepared)
    if facts["unlabelled"]["records"]:
        say(
            f"benchmark: {table.name}: {facts['unlabelled']['records']:,} records have no label and are left out: "
            f"{listed(facts['unlabelled']['first_ids'], _SHOWN_IDS)}"
        )
    if options.strict and prepared.verdict == "leaks":
        say(f"benchmark: {table.name} refused: its splits leak")
        return about | facts | {"status": "refused", "reason": f"its splits leak: {'; '.join(prepared.sentences())}"}, None
    return about | facts | {"status": "scored"}, prepared


def _facts(prepared: Prepared) -> dict[str, Any]:
    table, first = prepared.table, prepared.draws[0].dataset
    return {
        "modality": prepared.modality,
        "task": first.targets.task,
        "classes": list(first.targets.classes),
        "split": prepared.split_by,
        "unlabelled": {"records": len(first.unlabelled), "first_ids": sorted(first.unlabelled)[:_SHOWN_IDS]},
        "records": [count_splits(draw.dataset) for draw in prepared.draws],
        "metric": {"name": prepared.measure.name, "title": prepared.measure.title, "higher_is_better": prepared.measure.higher_is_better},
        "audit": {
            "verdict": prepared.verdict,
            "leaking_seeds": sum(draw.audit["verdict"] == "leaks" for draw in prepared.draws),
            "findings": prepared.sentences(),
        },
        "published": [figure.model_dump() | {"metric": figure.metric or prepared.measure.name} for figure in table.published],
        "inputs": prepared.digests,
    }
