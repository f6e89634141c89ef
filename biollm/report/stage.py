"""Stage `report`: one self-contained HTML page, and the same as JSON and Markdown."""

from __future__ import annotations

from typing import Any

import polars as pl

from biollm.core.errors import ConfigError
from biollm.core.files import write_json, write_text_atomic
from biollm.core.job import Job
from biollm.corpus.columns import LABEL, RECORDS
from biollm.report.config import Config
from biollm.report.facts import Facts, gather
from biollm.report.markdown import as_json, render_markdown
from biollm.report.page import render_page
from biollm.report.pictures import draw
from biollm.report.projection import EmbeddingMap, map_embeddings, sample_records
from biollm.report.sections import sections

MOST_BYTES = 5_000_000
# Side by side: the model as it came, and the adapted one. Of several adapted sets the last stage's is shown.
_UNTOUCHED = "base"
_ADAPTED = ("pretrain", "expand")


def run(job: Job[Config]) -> dict[str, Any]:
    """Write report.html, report.json and report.md; return what is in the page. Raises ConfigError if the page is larger than 5 MB."""
    facts = gather(job)
    label = _label(job, facts)
    content = sections(facts, _maps(job, label), label, draw(job))
    page = render_page(facts, content)
    size = len(page.encode())
    _check_size(size, job.config)
    write_text_atomic(job.out / "report.html", page)
    write_text_atomic(job.out / "report.md", render_markdown(facts, content))
    write_json(job.out / "report.json", facts | {"page": as_json(facts, content)})
    return {
        "sections": [section.id for section in content],
        "figures": [figure.id for section in content for figure in section.figures],
        "bytes": size,
    }


def _check_size(size: int, config: Config) -> None:
    """Raises ConfigError if a page is larger than a mail or a browser takes gladly. What grows is what the recipe asks for."""
    if size <= MOST_BYTES:
        return
    pictures = f"name fewer files in report.pictures (now {len(config.pictures)}), or " if config.pictures else ""
    raise ConfigError(
        f"the page of the report is {size / 1e6:.2f} MB; expected at most {MOST_BYTES / 1e6:g} MB; {pictures}"
        f"lower report.max_points (now {config.max_points:,})"
    )


def _label(job: Job[Config], facts: Facts) -> str | None:
    """The label that colours the maps: of the heads, or else of fine-tuning, or else the first of the corpus; None without any."""
    if "ingest" not in job.inputs:
        return None
    schema = pl.scan_parquet(job.input("ingest") / RECORDS).collect_schema()
    there = [name.removeprefix(LABEL) for name, kind in schema.items() if name.startswith(LABEL) and not kind.is_nested()]
    asked = (facts["scores"]["label"] if facts["scores"] else None, (facts["stages"].get("finetune", {}).get("facts") or {}).get("label"))
    return next((name for name in (*asked, *there) if name in there), None)


def _maps(job: Job[Config], label: str | None) -> dict[str, EmbeddingMap]:
    if "embed" not in job.inputs:
        return {}
    sets = job.facts_of("embed")["sets"]
    shown = [name for name in (_UNTOUCHED, next((name for name in _ADAPTED if name in sets), None)) if name in sets]
    sample = sample_records(job.input("ingest") / RECORDS, label, job.config.max_points, job.seed)
    return {name: map_embeddings(job.input("embed") / f"{name}.parquet", sample) for name in shown if name is not None}
