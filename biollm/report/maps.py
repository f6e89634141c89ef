"""What the page says about the embeddings: maps of them, with the reader's choice of view and colour."""

from __future__ import annotations

from biollm.report import charts
from biollm.report.content import Figure, Section
from biollm.report.facts import Facts, facts_of, source_of
from biollm.report.numbers import count
from biollm.report.projection import UMAP_RECORDS, EmbeddingMap


def maps(facts: Facts, found: dict[str, EmbeddingMap], label: str | None) -> Section | None:
    """A map for each set of embeddings that is shown; None without any."""
    embed = facts_of(facts, "embed")
    if not found or embed is None:
        return None
    titles = {name: entry.get("title", name) for name, entry in embed["sets"].items()}
    has_umap = any("UMAP" in embedded.views for embedded in found.values())
    prose = [
        "The same seeded sample of records in each map. Two dimensions show only a part: judge the model by the "
        "scores, not by how far these clouds lie apart.",
        "Principal components keep large distances; UMAP keeps neighbours, and the size and distance of its islands mean nothing. "
        "The choices below a heading switch the view and the colours."
        if has_umap
        else f"Principal components only: UMAP is drawn of {UMAP_RECORDS} records or more.",
    ]
    sources = [source_of(facts, "embed"), *([source_of(facts, "ingest")] if "ingest" in facts["stages"] else [])]
    figures = [
        Figure(
            f"map-{name}",
            titles[name][:1].upper() + titles[name][1:],
            f"Embeddings of {count(len(embedded.points))} records, {titles[name]}. {_spread(embedded)}",
            f"Scatter plot of embeddings, {titles[name]}, coloured by {label or 'source'} or by split.",
            charts.embedding_map(embedded, label or "source"),
            sources,
        )
        for name, embedded in found.items()
    ]
    return Section("maps", "What the embeddings look like", prose, figures)


def _spread(embedded: EmbeddingMap) -> str:
    first, second = (f"{100 * share:.0f} %" for share in embedded.share)
    if not any(embedded.share):
        return "All of them lie on one point: this model cannot tell any two records apart."
    return f"The first two principal components hold {first} and {second} of the variance."
