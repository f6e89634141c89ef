"""Heat maps of a single record, as the commands draw them on pages of their own and the report draws them again.

As wide and as high as their caller says. Legend: P positions, A letters of the alphabet, T tokens.
"""

from __future__ import annotations

import json
from typing import Any

import altair as alt
import numpy as np
import polars as pl

# In this order of columns.
SUBSTITUTIONS = {
    "id": pl.String,
    "position_0based": pl.Int64,
    "reference": pl.String,
    "letter": pl.String,
    "effect": pl.Float64,
    "score": pl.Float64,
    "unit": pl.String,
}
LETTER_PIXELS = 14
_TOOLTIPS = {"looks": "from", "seen": "to"}  # of an attention map: the token and its number, by the column of the number


def substitution_map(table: pl.DataFrame) -> alt.LayerChart:
    """Positions (from 1, as people count) by the letters put in there: red raises the score, blue lowers it; the sequence's own letters
    stand in their cells. table: columns SUBSTITUTIONS of one record, a row for each substitution."""
    letters = sorted(table["letter"].unique())
    rows = table.select(position=pl.col("position_0based") + 1, reference="reference", letter="letter", effect=pl.col("effect").round(5))
    own = rows.select("position", letter="reference").unique(maintain_order=True).filter(pl.col("letter").is_in(letters))
    most = table["effect"].abs().max()
    largest = max(float(most), 1e-6) if isinstance(most, float) else 1.0
    colour = alt.Scale(scheme="redblue", reverse=True, domain=[-largest, largest])
    x = alt.X("position:O", title="position", axis=alt.Axis(labelOverlap=True, labelAngle=0))
    y = alt.Y("letter:O", title="put in", sort=letters)
    shown = [alt.Tooltip(name) for name in ("position:Q", "reference:N", "letter:N", "effect:Q")]
    cells = alt.Chart(alt.Data(values=rows.to_dicts())).mark_rect()
    cells = cells.encode(x=x, y=y, color=alt.Color("effect:Q", title=f"change of {table['unit'][0]}", scale=colour), tooltip=shown)
    names = alt.Chart(alt.Data(values=own.to_dicts())).mark_text(fontSize=9, color="gray").encode(x=x, y=y, text="letter:N")
    return alt.layer(cells, names).properties(height=LETTER_PIXELS * len(letters))


def attention_map(labels: list[str], layers: list[int], heads: list[int], weights: Any) -> alt.Chart:
    """Tokens by the tokens that they look at, with a menu each for the layer and the head (one of them, or the mean of all).

    labels: of the T tokens; layers, heads: their numbers; weights: (layers, heads, T, T).
    """
    each = np.asarray(weights, dtype=np.float64)
    choices = [-1, *heads] if len(heads) > 1 else heads
    values = [
        {"layer": layer, "head": head, "from": i, "to": j, "weight": round(float(square[i, j]), 4)}
        for a, layer in enumerate(layers)
        for head in choices
        for square in [each[a].mean(axis=0) if head == -1 else each[a, heads.index(head)]]
        for i in range(len(labels))
        for j in range(len(labels))
    ]
    layer = alt.param(name="layer", value=layers[-1], bind=alt.binding_select(options=layers, name="Layer "))
    names = ["mean" if head == -1 else str(head) for head in choices]
    head = alt.param(name="head", value=choices[0], bind=alt.binding_select(options=choices, labels=names, name="Head "))
    tokens = json.dumps(labels)
    axis = alt.Axis(labelExpr=f"({tokens})[datum.value]", labelOverlap=True, labelFontSize=10)
    cells = alt.Chart(alt.NamedData(name="weights"), datasets={"weights": values}).mark_rect()  # inline, Altair would check each cell
    return (
        cells.encode(
            x=alt.X("to:O", title="looked at", axis=axis),
            y=alt.Y("from:O", title="token that looks", axis=axis),
            color=alt.Color("weight:Q", title="attention", scale=alt.Scale(scheme="viridis", domainMin=0)),
            tooltip=[alt.Tooltip("looks:N", title="from"), alt.Tooltip("seen:N", title="to"), alt.Tooltip("weight:Q")],
        )
        .add_params(layer, head)
        .transform_filter("datum.layer == layer && datum.head == head")
        .transform_calculate(**{name: f"({tokens})[datum['{end}']] + ' (' + datum['{end}'] + ')'" for name, end in _TOOLTIPS.items()})
    )
