"""Vega-Lite specifications. Colours, fonts and grid lines are the page's: it knows whether the reader's screen is light or dark."""

from __future__ import annotations

from typing import Any, cast

import altair as alt

from biollm.report.projection import EmbeddingMap

_ROLES = ["adapted", "baseline"]
_HEADS = ["logistic", "XGBoost", "own output layer"]
_HEAD_DASHES = [[1, 0], [6, 3], [2, 2]]
_FADED = 0.12
_ROW_PIXELS = 46
# What the stage `expand` calls the base model as it came.
NO_NEW_TOKENS = "no new tokens"


def forest(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Every row's score with its interval, baselines in another colour; a switch between AUROC and AUPRC."""
    values = [
        {
            "row": row["title"],
            "role": "baseline" if row["is_baseline"] else "adapted",
            "measure": measure.upper(),
            "score": row[measure],
            "low": row[f"{measure}_low"],
            "high": row[f"{measure}_high"],
            "text": f"{row[measure]:.3f}",
        }
        for measure in ("auroc", "auprc")
        for row in rows
    ]
    measure = alt.param(name="measure", value="AUROC", bind=alt.binding_radio(options=["AUROC", "AUPRC"], name="Measure: "))
    base = alt.Chart(alt.Data(values=values)).encode(
        y=alt.Y("row:N", sort=None, axis=None),
        tooltip=[
            alt.Tooltip("row:N"),
            alt.Tooltip("role:N"),
            *(alt.Tooltip(f"{name}:Q", format=".3f") for name in ("score", "low", "high")),
        ],
    )
    role = alt.Color("role:N", scale=alt.Scale(domain=_ROLES), legend=alt.Legend(title=None, orient="top"))
    scale, axis = alt.Scale(zero=False, nice=True), alt.Axis(title="score on the test split, 95 % interval", tickCount=6)
    intervals = base.mark_rule(strokeWidth=3, opacity=0.55).encode(x=alt.X("low:Q", scale=scale, axis=axis), x2="high:Q", color=role)
    points = base.mark_point(filled=True, size=90, opacity=1).encode(
        x=alt.X("score:Q", scale=scale, axis=axis), color=role, shape=alt.Shape("role:N", scale=alt.Scale(domain=_ROLES))
    )
    # The row's name stands above its interval, not beside the axis: long names then fit on a telephone.
    names = base.mark_text(align="left", dy=-13).encode(x=alt.value(0), text="row:N")
    numbers = base.mark_text(align="right", dy=-13).encode(x=alt.value("width"), text="text:N")
    chart = alt.layer(intervals, points, names, numbers).add_params(measure).transform_filter("datum.measure === measure")
    return _spec(chart.properties(height=_ROW_PIXELS * len(rows)))


def roc(curves: list[dict[str, Any]]) -> dict[str, Any]:
    """ROC curves; colour says the features, dashes the head. curves: title, features, head, fpr, tpr."""
    values = [
        {"row": curve["title"], "features": curve["features"], "head": curve["head"], "fpr": fpr, "tpr": tpr, "order": i}
        for curve in curves
        for i, (fpr, tpr) in enumerate(zip(curve["fpr"], curve["tpr"], strict=True))
    ]
    chosen = alt.selection_point(fields=["features"], bind="legend")
    share = alt.Axis(format=".1f", values=[0, 0.2, 0.4, 0.6, 0.8, 1])
    columns = alt.ExprRef("width < 480 ? 1 : 3")
    base = alt.Chart(alt.Data(values=values)).encode(
        x=alt.X("fpr:Q", title="false positive rate", axis=share),
        y=alt.Y("tpr:Q", title="true positive rate", axis=share),
        detail="row:N",
        order="order:Q",
        tooltip=["row:N", alt.Tooltip("fpr:Q", format=".3f"), alt.Tooltip("tpr:Q", format=".3f")],
    )
    lines = base.mark_line(strokeWidth=2, interpolate="linear").encode(
        color=alt.Color(
            "features:N", sort=None, legend=alt.Legend(title="features (click to single out)", orient="bottom", columns=columns)
        ),
        strokeDash=alt.StrokeDash(
            "head:N",
            scale=alt.Scale(domain=_HEADS, range=_HEAD_DASHES),
            legend=alt.Legend(title="head", orient="bottom", columns=columns, symbolType="stroke"),
        ),
        opacity=alt.condition(chosen, alt.value(1), alt.value(_FADED)),
    )
    # Wide invisible points, so that a finger need not hit a line of two pixels.
    hover = base.mark_point(size=80, opacity=0)
    chance = alt.Chart(alt.Data(values=[{"x": 0, "y": 0}, {"x": 1, "y": 1}])).mark_line(strokeDash=[2, 4], strokeWidth=1, opacity=0.6)
    diagonal = chance.encode(x="x:Q", y="y:Q")
    return _spec(alt.layer(diagonal, lines.add_params(chosen), hover).properties(height=440))


def training_curve(points: list[dict[str, Any]]) -> dict[str, Any]:
    """Loss against step. points: step, loss_nats, series, and what else a tooltip may show."""
    chosen = alt.selection_point(fields=["series"], bind="legend")
    several = len({point["series"] for point in points}) > 1
    legend = alt.Legend(title="method (click to single out)", orient="bottom") if several else None
    extra = [alt.Tooltip(f"{name}:Q", format=form) for name, form in (("tokens", ",d"), ("learning_rate", ".2e")) if name in points[0]]
    chart = (
        alt.Chart(alt.Data(values=points))
        .mark_line(point=alt.OverlayMarkDef(size=30), strokeWidth=2)
        .encode(
            x=alt.X("step:Q", title="step"),
            y=alt.Y("loss_nats:Q", title="loss, nats per predicted token or record", scale=alt.Scale(zero=False)),
            color=alt.Color("series:N", sort=None, legend=legend),
            opacity=alt.condition(chosen, alt.value(1), alt.value(_FADED)),
            tooltip=["series:N", "step:Q", alt.Tooltip("loss_nats:Q", format=".3f"), *extra],
        )
        .add_params(chosen)
    )
    return _spec(chart.properties(height=300))


def initialisers(rows: list[dict[str, Any]], steps: int) -> dict[str, Any]:
    """Held-out loss of each way to start the new rows, before and after a short training, best end first.

    rows: init, step0, after (bits per base). A dotted line marks where the row "no new tokens" ends, if it was measured.
    """
    moments = [("step0", "step 0"), ("after", f"after {steps} steps")]
    ranked = sorted(rows, key=lambda row: float(row["after"]))
    values = [
        {
            "init": row["init"],
            "moment": moment,
            "bits": row[key],
            "other": row["step0"],
            "text": f"{row['step0']:.2f} → {row['after']:.2f}",
        }
        for row in ranked
        for key, moment in moments
    ]
    base = alt.Chart(alt.Data(values=values)).encode(
        y=alt.Y("init:N", sort=None, axis=None), tooltip=["init:N", "moment:N", alt.Tooltip("bits:Q", format=".3f")]
    )
    bits = alt.X("bits:Q", scale=alt.Scale(zero=False, nice=True), axis=alt.Axis(title="held-out loss, bits per base", tickCount=6))
    names_of_moments = [moment for _, moment in moments]
    role = alt.Color("moment:N", scale=alt.Scale(domain=names_of_moments), legend=alt.Legend(title=None, orient="top"))
    points = base.mark_point(filled=True, size=90, opacity=1).encode(
        x=bits, color=role, shape=alt.Shape("moment:N", scale=alt.Scale(domain=names_of_moments))
    )
    ways = base.mark_rule(strokeWidth=3, opacity=0.35).encode(x=bits, x2="other:Q")
    names = base.mark_text(align="left", dy=-13).encode(x=alt.value(0), text="init:N")
    numbers = base.mark_text(align="right", dy=-13).encode(x=alt.value("width"), text="text:N")
    layers = [ways, points, names, numbers]
    if plain := [row for row in rows if row["init"] == NO_NEW_TOKENS]:
        mark = alt.Chart(alt.Data(values=[{"bits": plain[0]["after"]}])).mark_rule(strokeDash=[2, 4], strokeWidth=1.5)
        layers.insert(0, mark.encode(x=bits))
    return _spec(alt.layer(*layers).properties(height=_ROW_PIXELS * len(rows)))


def embedding_map(embedded: EmbeddingMap, label: str) -> dict[str, Any]:
    """Records on two principal components, coloured by label."""
    chosen = alt.selection_point(fields=["label"], bind="legend")
    first, second = (f"component {i + 1} ({100 * share:.0f} % of variance)" for i, share in enumerate(embedded.share))
    chart = (
        alt.Chart(alt.Data(values=embedded.points))
        .mark_circle(size=16)
        .encode(
            x=alt.X("x:Q", title=first, scale=alt.Scale(zero=False)),
            y=alt.Y("y:Q", title=second, scale=alt.Scale(zero=False)),
            color=alt.Color(
                "label:N",
                scale=alt.Scale(domain=[label, f"not {label}"]),
                legend=alt.Legend(title=None, orient="top", symbolOpacity=1, symbolSize=80),
            ),
            opacity=alt.condition(chosen, alt.value(0.6), alt.value(0.04)),
            tooltip=["id:N", "source:N", "label:N"],
        )
        .add_params(chosen)
    )
    return _spec(chart.properties(height=360))


def _spec(chart: alt.Chart | alt.LayerChart) -> dict[str, Any]:
    """The JSON of a chart as wide as the page lets it be, without Altair's own theme."""
    fitted = chart.properties(width="container", autosize=alt.AutoSizeParams(type="fit-x", contains="padding"))
    spec = cast(dict[str, Any], fitted.to_dict())
    spec.pop("config", None)
    return spec
