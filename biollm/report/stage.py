"""Stage `report`: one self-contained HTML page, and the same facts as JSON."""

from __future__ import annotations

from typing import Any

from biollm.core.files import write_json, write_text_atomic
from biollm.core.job import Job
from biollm.report.config import Config
from biollm.report.facts import gather
from biollm.report.page import render_page
from biollm.report.projection import EmbeddingMap, map_embeddings, sample_records
from biollm.report.sections import sections

# Side by side: the model as it came, and the adapted one. Of several adapted sets the last stage's is shown.
_UNTOUCHED = "base"
_ADAPTED = ("pretrain", "expand")


def run(job: Job[Config]) -> dict[str, Any]:
    """Write report.html and report.json; return what is in the page."""
    facts = gather(job)
    content = sections(facts, _maps(job, facts["scores"]["label"]))
    page = render_page(facts, content)
    write_text_atomic(job.out / "report.html", page)
    write_json(job.out / "report.json", facts)
    return {
        "sections": [section.id for section in content],
        "figures": [figure.id for section in content for figure in section.figures],
        "bytes": len(page.encode()),
    }


def _maps(job: Job[Config], label: str) -> dict[str, EmbeddingMap]:
    if "embed" not in job.inputs:
        return {}
    sets = job.facts_of("embed")["sets"]
    shown = [name for name in (_UNTOUCHED, next((name for name in _ADAPTED if name in sets), None)) if name in sets]
    sample = sample_records(job.input("ingest") / "records.parquet", label, job.config.max_points, job.seed)
    return {name: map_embeddings(job.input("embed") / f"{name}.parquet", sample, label) for name in shown if name is not None}
