"""Vega-Lite specifications. Colours, fonts and grid lines are the page's: it knows whether the reader's screen is light or dark."""

from __future__ import annotations

import json
from typing import Any, cast

import altair as alt

from biollm.report.projection import EmbeddingMap

_ROLES = ["adapted", "baseline"]
OWN_LAYER = "own output layer"
_DASHES = [[1, 0], [6, 3], [2, 2], [8, 2, 2, 2], [1, 3], [12, 3], [4, 4]]
_FADED = 0.12
# Of all curves of a figure together: many rows have coarser curves, so that the page stays small.
_CURVE_POINTS = 3000
_ROW_PIXELS = 46
# Of a chart, from which on two texts stand side by side.
_NARROW = 480
# What the stage `expand` calls the base model as it came.
NO_NEW_TOKENS = "no new tokens"


def forest(rows: list[dict[str, Any]], measures: dict[str, str], where: str) -> dict[str, Any]:
    """Every row's score with its interval, baselines in another colour; a switch between the measures (key in the rows: title). where: what
    the scores are of, for the axis."""
    values = [
        {
            "row": row["title"],
            "role": "baseline" if row["is_baseline"] else "adapted",
            "measure": title,
            "score": row[measure],
            "low": row[f"{measure}_low"],
            "high": row[f"{measure}_high"],
            "text": f"{row[measure]:.3f}",
        }
        for measure, title in measures.items()
        for row in rows
        if row[measure] is not None and row[f"{measure}_low"] is not None
    ]
    titles = list(measures.values())
    measure = alt.param(name="measure", value=titles[0], bind=alt.binding_radio(options=titles, name="Measure: "))
    base = alt.Chart(alt.Data(values=values)).encode(
        y=alt.Y("row:N", sort=None, axis=None),
        tooltip=[
            alt.Tooltip("row:N"),
            alt.Tooltip("role:N"),
            *(alt.Tooltip(f"{name}:Q", format=".3f") for name in ("score", "low", "high")),
        ],
    )
    role = alt.Color("role:N", scale=alt.Scale(domain=_ROLES), legend=alt.Legend(title=None, orient="top"))
    scale, axis = alt.Scale(zero=False, nice=True), alt.Axis(title=f"score {where}, 95 % interval", tickCount=6)
    intervals = base.mark_rule(strokeWidth=3, opacity=0.55).encode(x=alt.X("low:Q", scale=scale, axis=axis), x2="high:Q", color=role)
    points = base.mark_point(filled=True, size=90, opacity=1).encode(
        x=alt.X("score:Q", scale=scale, axis=axis), color=role, shape=alt.Shape("role:N", scale=alt.Scale(domain=_ROLES))
    )
    chart = alt.layer(intervals, points, *_named(base, "row")).add_params(measure).transform_filter("datum.measure === measure")
    return fitted(chart.properties(height=_ROW_PIXELS * len(rows)))


def _named(base: alt.Chart, name: str) -> list[alt.Chart]:
    """The name and the number of each line of a chart, above what it draws and not beside the axis: long names then fit on a telephone.
    There the number stands below, where no name reaches."""
    names = base.mark_text(align="left", dy=-13, limit=alt.ExprRef(f"width < {_NARROW} ? width : width - 110"))
    numbers = base.mark_text(align="right", dy=alt.ExprRef(f"width < {_NARROW} ? 13 : -13"))
    return [names.encode(x=alt.value(0), text=f"{name}:N"), numbers.encode(x=alt.value("width"), text="text:N")]


def roc(curves: list[dict[str, Any]]) -> dict[str, Any]:
    """ROC curves with the diagonal of chance. curves: title, features, head, fpr, tpr."""
    return _curves(curves, ("fpr", "false positive rate"), ("tpr", "true positive rate"), with_diagonal=True)


def precision_recall(curves: list[dict[str, Any]]) -> dict[str, Any]:
    """Precision-recall curves. curves: title, features, head, recall, precision."""
    return _curves(curves, ("recall", "recall"), ("precision", "precision"))


def calibration(curves: list[dict[str, Any]], observed: str) -> dict[str, Any]:
    """Observed against predicted probability, with the diagonal. curves: title, features, head, predicted, observed. observed: what is
    counted, for the axis."""
    return _curves(curves, ("predicted", "predicted probability"), ("observed", observed), with_diagonal=True, with_points=True)


def _curves(
    curves: list[dict[str, Any]], x: tuple[str, str], y: tuple[str, str], *, with_diagonal: bool = False, with_points: bool = False
) -> dict[str, Any]:
    """Curves within the unit square; colour says the features, dashes the head. x, y: key in the curves and title of the axis."""
    values = [
        {"row": curve["title"], "features": curve["features"], "head": curve["head"], x[0]: a, y[0]: b, "order": i}
        for curve in curves
        for i, (a, b) in enumerate(_thinned(list(zip(curve[x[0]], curve[y[0]], strict=True)), _CURVE_POINTS // len(curves)))
    ]
    chosen = alt.selection_point(fields=["features"], bind="legend")
    share = alt.Axis(format=".1f", values=[0, 0.2, 0.4, 0.6, 0.8, 1])
    unit = alt.Scale(domain=[0, 1])
    columns = alt.ExprRef(f"width < {_NARROW} ? 1 : 3")
    heads = list(dict.fromkeys(curve["head"] for curve in curves))
    base = alt.Chart(alt.NamedData(name="curves")).encode(  # by name: Altair copies and checks data with each step
        x=alt.X(f"{x[0]}:Q", title=x[1], axis=share, scale=unit),
        y=alt.Y(f"{y[0]}:Q", title=y[1], axis=share, scale=unit),
        detail="row:N",
        order="order:Q",
        tooltip=["row:N", *(alt.Tooltip(f"{name}:Q", format=".3f") for name, _ in (x, y))],
    )
    lines = base.mark_line(strokeWidth=2, interpolate="linear", point=with_points).encode(
        color=alt.Color(
            "features:N", sort=None, legend=alt.Legend(title="features (click to single out)", orient="bottom", columns=columns)
        ),
        strokeDash=alt.StrokeDash(
            "head:N",
            scale=alt.Scale(domain=heads, range=[_DASHES[i % len(_DASHES)] for i in range(len(heads))]),
            legend=alt.Legend(title="head", orient="bottom", columns=columns, symbolType="stroke"),
        ),
        opacity=alt.condition(chosen, alt.value(1), alt.value(_FADED)),
    )
    # Wide invisible points, so that a finger need not hit a line of two pixels.
    hover = base.mark_point(size=80, opacity=0)
    layers = [lines.add_params(chosen), hover]
    if with_diagonal:
        ends = alt.Chart(alt.Data(values=[{"x": 0, "y": 0}, {"x": 1, "y": 1}]))
        layers.insert(0, ends.mark_line(strokeDash=[2, 4], strokeWidth=1, opacity=0.6).encode(x="x:Q", y="y:Q"))
    return fitted(alt.layer(*layers).properties(height=440)) | {"datasets": {"curves": values}}


def _thinned(points: list[tuple[float, float]], limit: int) -> list[tuple[float, float]]:
    """At most `limit` (and no less than 20) points of a curve, evenly spread, its ends among them.

    >>> _thinned([(i / 100, 0.0) for i in range(101)], 20)[::19]
    [(0.0, 0.0), (1.0, 0.0)]
    """
    limit = max(20, limit)
    if len(points) <= limit:
        return points
    return [points[round(i * (len(points) - 1) / (limit - 1))] for i in range(limit)]


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
            x=alt.X("step:Q", title="step", axis=alt.Axis(labelExpr="datum.value % 1 ? '' : format(datum.value, ',')")),
            y=alt.Y("loss_nats:Q", title="loss, nats per predicted token or record", scale=alt.Scale(zero=False)),
            color=alt.Color("series:N", sort=None, legend=legend),
            opacity=alt.condition(chosen, alt.value(1), alt.value(_FADED)),
            tooltip=["series:N", "step:Q", alt.Tooltip("loss_nats:Q", format=".3f"), *extra],
        )
        .add_params(chosen)
    )
    return fitted(chart.properties(height=300))


def initialisers(rows: list[dict[str, Any]], steps: int, unit: str) -> dict[str, Any]:
    """Held-out loss of each way to start the new rows, before and after a short training, best end first.

    rows: init, step0, after (bits per unit). unit: what a base is in this corpus. A dotted line marks where the row "no new tokens" ends,
    if it was measured.
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
    bits = alt.X("bits:Q", scale=alt.Scale(zero=False, nice=True), axis=alt.Axis(title=f"held-out loss, bits per {unit}", tickCount=6))
    names_of_moments = [moment for _, moment in moments]
    role = alt.Color("moment:N", scale=alt.Scale(domain=names_of_moments), legend=alt.Legend(title=None, orient="top"))
    points = base.mark_point(filled=True, size=90, opacity=1).encode(
        x=bits, color=role, shape=alt.Shape("moment:N", scale=alt.Scale(domain=names_of_moments))
    )
    ways = base.mark_rule(strokeWidth=3, opacity=0.35).encode(x=bits, x2="other:Q")
    layers = [ways, points, *_named(base, "init")]
    if plain := [row for row in rows if row["init"] == NO_NEW_TOKENS]:
        mark = alt.Chart(alt.Data(values=[{"bits": plain[0]["after"]}])).mark_rule(strokeDash=[2, 4], strokeWidth=1.5)
        layers.insert(0, mark.encode(x=bits))
    return fitted(alt.layer(*layers).properties(height=_ROW_PIXELS * len(rows)))


def embedding_map(embedded: EmbeddingMap, label: str) -> dict[str, Any]:
    """Records in two dimensions; the reader chooses the view, if there are two, and whether the label or the split gives the colours."""
    colours = {label: "label", "split": "split", "source": "source"} if label != "source" else {"source": "source", "split": "split"}
    show = alt.param(name="colours", value=label, bind=alt.binding_radio(options=list(colours), name="Colours: "))
    chosen = alt.selection_point(fields=["colour"], bind="legend")
    views = embedded.views[::-1]  # UMAP first, where it was drawn
    several = len(views) > 1
    view = alt.param(name="view", value=views[0], bind=alt.binding_radio(options=list(views), name="View: ") if several else alt.Undefined)
    chart = alt.Chart(alt.Data(values=embedded.points)).transform_calculate(
        colour=" : ".join([*(f"colours === {json.dumps(name)} ? datum.{field}" for name, field in colours.items()), "''"]),
        x="datum['x_' + view]",
        y="datum['y_' + view]",
    )
    axis = alt.Axis(labels=False, ticks=False, grid=False)  # only nearness means something
    return fitted(
        chart.mark_circle(size=16)
        .encode(
            x=alt.X("x:Q", title=None, scale=alt.Scale(zero=False), axis=axis),
            y=alt.Y("y:Q", title=None, scale=alt.Scale(zero=False), axis=axis),
            color=alt.Color("colour:N", legend=alt.Legend(title=None, orient="top", columns=3, symbolOpacity=1, symbolSize=80)),
            opacity=alt.condition(chosen, alt.value(0.6), alt.value(0.04)),
            tooltip=["id:N", "source:N", "label:N", "split:N"],
        )
        .add_params(view, show, chosen)
        .properties(height=360)
    )


def norms(diagnosed: dict[str, Any]) -> dict[str, Any]:
    """Norms of vectors against the mean level of their records, before and after the adaptation. diagnosed: of one channel."""
    stages = {"expand": "before", "pretrain": "after"}
    values = [
        {"level": level, "norm": norm, "model": stages[model]}
        for model, of_model in diagnosed["norms"].items()
        for level, norm in zip(diagnosed["levels"], of_model, strict=True)
    ]
    colour = alt.Color("model:N", scale=alt.Scale(domain=list(stages.values())), legend=alt.Legend(title=None, orient="top"))
    level = alt.X("level:Q", axis=alt.Axis(title=f"mean {diagnosed['channel']} level of the record", tickCount=6))
    norm = alt.Y("norm:Q", scale=alt.Scale(zero=False), axis=alt.Axis(title="length of its vector"))
    tooltip = [alt.Tooltip("model:N"), *(alt.Tooltip(f"{name}:Q", format=".3f") for name in ("level", "norm"))]
    points = alt.Chart(alt.Data(values=values)).mark_point(filled=True, size=40, opacity=0.7)
    return fitted(
        points.encode(x=level, y=norm, color=colour, shape=alt.Shape("model:N", legend=None), tooltip=tooltip).properties(height=260)
    )


def fitted(chart: alt.Chart | alt.LayerChart) -> dict[str, Any]:
    """The JSON of a chart as wide as the page lets it be, without Altair's own theme."""
    wide = chart.properties(width="container", autosize=alt.AutoSizeParams(type="fit-x", contains="padding"))
    spec = cast(dict[str, Any], wide.to_dict())
    spec.pop("config", None)
    return spec
