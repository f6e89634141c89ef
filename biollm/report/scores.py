"""What the page says about the heads: the score table, curves, baselines, what they look at."""

from __future__ import annotations

from biollm.report import charts
from biollm.report.content import Column, Figure, Row, Section, Table
from biollm.report.facts import Facts, is_given, source_of, two_classes
from biollm.report.numbers import MISSING, count, decimal, percent, ranged, signed

# Of facts that do not tell the measures themselves.
_TITLES = {"auroc": "AUROC", "auprc": "AUPRC"}
_SHOWN_FEATURES = 15
# More would be wider than a screen, or than paper.
_MEASURES_PER_TABLE = 3
_MAIN_MEASURES = 2
# By whether the corpus's own splits were used.
_CHOSEN = {
    True: "Rows and heads were chosen on other records than they are scored on.",
    False: "Settings were chosen within each fold, on groups held out of its train records. Which rows are compared was chosen by the mean "
    "of these scores over the folds: a fold's own scored records have no part in it, but other folds score the records that it was chosen "
    "on, so the best of many rows can look a little too good.",
}
_CHOSEN_ON = {True: "validation", False: "inner folds"}
_OF_FOLDS = (
    "Each fold's head has settings of its own (in scores.json); the score table names those of the saved head, which is fitted on all "
    "labelled records and so has no score of its own."
)
# By task: the axis of the calibration curve, and what it shows.
_CALIBRATED = {
    "binary": ("share of positives", "Share of positives among records of about equal predicted probability"),
    "multiclass": (
        "share called rightly",
        "Share of records called rightly among those whose called (likeliest) class has about equal predicted probability",
    ),
    "multilabel": ("share of labels that hold", "Share that holds among labels of about equal predicted probability, all labels together"),
}
_DIRECTIONS = {1: "raises it", -1: "lowers it", 0: MISSING}


def measure_title(facts: Facts, name: str) -> str:
    """What people call a measure; with a word if less of it is better."""
    for measure in facts["scores"].get("measures", []):
        if measure["name"] == name:
            return str(measure["title"]) + ("" if measure["higher_is_better"] else ", lower is better")
    return _TITLES.get(name, name.replace("_", " "))


def best_scores(facts: Facts) -> list[tuple[str, str, str]]:
    """Label, value and name of the best adapted row and of the best baseline; empty if they were not compared. The label says on what they
    were chosen, since the score table may hold others with a better score."""
    overall = _comparison(facts, "best_against_baseline")
    if overall is None:
        return []
    rows = {row["name"]: row for row in facts["scores"]["rows"]}
    measure = _measures(facts)[0]
    title, on = measure_title(facts, measure), _CHOSEN_ON[is_given(facts)]
    return [
        (f"Best {kind} {title} (chosen on {on})", decimal(rows[name][measure]), rows[name]["title"])
        for kind, name in (("adapted", overall["row"]), ("baseline", overall["reference"]))
    ]


def scores(facts: Facts) -> Section | None:
    """The score of every row with its interval; None if no head was scored."""
    found = facts["scores"]
    if found is None:
        return None
    source, measures, bootstrap = source_of(facts, "classify"), _measures(facts), found["bootstrap"]
    prose = [
        f"Question: {_question(facts)} {_scheme(facts)}",
        f"Intervals hold 95 % of {count(bootstrap['samples'] - bootstrap.get('skipped_one_class', 0))} bootstrap resamples of "
        f"{count(bootstrap['groups'])} groups: records of one group are neighbours and are drawn together.",
        *([] if is_given(facts) else [_OF_FOLDS]),
        *(f"Not scored: {name.replace('_', ' ')} ({why})." for name, why in found.get("left_out", {}).items()),
    ]
    figure = Figure(
        "forest",
        "Scores with 95 % intervals",
        f"Score of each combination of features and head, {_where(facts)}. Baselines need no adaptation: whatever does not beat them "
        "was not worth it.",
        f"Forest plot of {measure_title(facts, measures[0])} for every row of the score table; the table below holds the same numbers.",
        charts.forest(found["rows"], {name: measure_title(facts, name) for name in measures}, _where(facts)),
        [source],
    )
    return Section("help", "Did it help?", prose, [figure], [*_score_tables(facts, measures), *_abstention(facts)])


def _score_tables(facts: Facts, measures: list[str]) -> list[Table]:
    """The score table; of many measures the first two, and the others in a table of their own."""
    validation, source = f"validation_{measures[0]}", source_of(facts, "classify")
    main = measures if len(measures) <= _MEASURES_PER_TABLE else measures[:_MAIN_MEASURES]

    def row(entry: Facts, shown: list[str], *more: str) -> Row:
        return Row([entry["title"], *(_interval(entry, name) for name in shown), *more], badge="baseline" if entry["is_baseline"] else None)

    rows = [
        row(entry, main, decimal(entry[validation]) if entry.get(validation) is not None else MISSING, entry.get("choice") or MISSING)
        for entry in facts["scores"]["rows"]
    ]
    name = Column("features + head", False)
    columns = [
        name,
        *(Column(measure_title(facts, measure)) for measure in main),
        *_columns_of_choice(facts, measure_title(facts, measures[0])),
    ]
    tables = [Table(f"Scores {_where(facts)} (95 % interval)", columns, rows, [source])]
    if further := measures[len(main) :]:
        rows = [row(entry, further) for entry in facts["scores"]["rows"]]
        columns = [name, *(Column(measure_title(facts, measure)) for measure in further)]
        tables.append(Table(f"Further measures {_where(facts)} (95 % interval)", columns, rows, [source]))
    return tables


def _columns_of_choice(facts: Facts, title: str) -> list[Column]:
    """What settings were chosen by, and the settings; of folds those of the head that is saved, which is none of the scored ones."""
    if is_given(facts):
        return [Column(f"validation {title}"), Column("chosen on validation", False)]
    return [Column(f"{title} on inner folds"), Column("settings of the saved head", False)]


def _abstention(facts: Facts) -> list[Table]:
    """Where heads may say nothing: how sure they must be, how often they answer, and how right they are then."""
    found = [row for row in facts["scores"]["rows"] if row.get("abstention")]
    if not found:
        return []
    rows = [
        Row(
            [
                row["title"],
                _confidence(entry),
                percent(entry["coverage"]),
                MISSING if entry["accuracy"] is None else percent(entry["accuracy"]),
            ]
        )
        for row in found
        for entry in [row["abstention"]]
    ]
    wanted = percent(found[0]["abstention"]["target_accuracy"])
    needed = "confidence needed" if is_given(facts) else "confidence needed, of the saved head"
    columns = [Column("features + head", False), Column(needed), Column("answered"), Column("right, of the answered")]
    return [Table(f"Answers only where sure, for an accuracy of {wanted}", columns, rows, [source_of(facts, "classify")])]


def _confidence(abstention: Facts) -> str:
    """The least probability of the called class at which an answer is given. Four digits: boosted trees are often surer than 0.999."""
    if "confidence" not in abstention:
        return MISSING
    return "none is enough" if abstention["confidence"] is None else decimal(abstention["confidence"], 4)


def baselines(facts: Facts) -> Section | None:
    """The paired comparisons with what needs no adaptation; None if nothing was compared."""
    if facts["scores"] is None or not facts["scores"]["comparisons"]:
        return None
    compared = facts["scores"]["comparisons"]
    measures = [name for name in _measures(facts) if f"{name}_difference" in compared[0]]
    rows = [
        Row(
            [
                entry["question"],
                f"{entry['row_title']} against {entry['reference_title']}",
                *(cell for name in measures for cell in _difference(entry, name)),
            ]
        )
        for entry in compared
    ]
    columns = [
        Column("question", False),
        Column("compared", False),
        *(column for name in measures for column in (Column(f"{measure_title(facts, name)} difference"), Column("p"))),
    ]
    prose = (
        "Both sides are scored on the same resamples, so their shared luck cancels. An interval that holds zero claims nothing. "
        + _CHOSEN[is_given(facts)]
    )
    caption = f"Paired differences {_where(facts)} (95 % interval, two-sided bootstrap p)"
    table = Table(caption, columns, rows, [source_of(facts, "classify")])
    return Section("baselines", "Against the baselines", [prose], tables=[table])


def thresholds(facts: Facts) -> Section | None:
    """ROC and precision-recall curves; None where there are none, as for regression."""
    if facts["scores"] is None:
        return None
    figures = []
    several = bool(_parts(facts))
    asked = "yes-or-no decisions" if several else "records"
    if facts["curves"].get("roc"):
        figures.append(
            Figure(
                "roc",
                "ROC curves",
                f"ROC curves {_where(facts)}; the dotted diagonal is chance. Hover for values, click the legend to single out one "
                f"feature set.{_pooled(facts, 'AUROC')}",
                "ROC curves of all rows but the majority class, which is the diagonal; "
                + ("the score table holds means over them." if several else "the score table holds the area under each."),
                charts.roc(_curves(facts, "roc")),
                [source_of(facts, "classify")],
                is_wide=True,
            )
        )
    if facts["curves"].get("pr"):
        figures.append(
            Figure(
                "pr",
                "Precision and recall",
                f"Of the {asked} called positive, the share that is (precision), for each share of the positives that is found "
                f"(recall).{_pooled(facts, 'AUPRC')}",
                "Precision-recall curves of all rows but the majority class; "
                + ("the score table holds means over them." if several else "the score table holds the area under each as AUPRC."),
                charts.precision_recall(_curves(facts, "pr")),
                [source_of(facts, "classify")],
                is_wide=True,
            )
        )
    if not figures:
        return None
    prose = "How many positives are found for each share of false alarms, and how many of the calls are right."
    return Section("thresholds", "What a threshold buys", [prose], figures)


def calibration(facts: Facts) -> Section | None:
    """Whether a probability of 0.8 means 80 %; None where classify recorded no calibration."""
    if not facts["curves"].get("calibration"):
        return None
    observed, about = _CALIBRATED.get(facts["scores"].get("task", "binary"), _CALIBRATED["binary"])
    figure = Figure(
        "calibration",
        "Calibration",
        f"{about}; on the dotted diagonal a probability means what it says.",
        "Calibration curves of all rows; where the score table has a calibration error, it sums up the distance from the diagonal.",
        charts.calibration(_curves(facts, "calibration"), observed),
        [source_of(facts, "classify")],
    )
    return Section("calibration", "Do the probabilities mean what they say?", [], [figure])


def top_features(facts: Facts) -> Section | None:
    """What the heads look at; None where classify recorded none."""
    found = _explained(facts)
    if not found:
        return None
    tables = [
        Table(
            f"{row['title']}: {row.get('top_features_by', 'mean |SHAP value|')}",
            [Column("feature", False), Column("importance"), Column("more of it", False)],
            [
                Row([str(entry["feature"]), decimal(entry["importance"], 4), _DIRECTIONS[entry.get("direction", 0)]])
                for entry in row["top_features"][:_SHOWN_FEATURES]
            ],
            [source_of(facts, "classify")],
        )
        for row in found
    ]
    prose = (
        "For the best adapted row and the best baseline: how far each feature moves what the head says, on average. A dimension of an "
        "embedding has no meaning by itself; a k-mer has. Where k-grams share a column, it is named by those that stand in it most often."
    )
    return Section("features", "What the heads look at", [prose], tables=tables)


def _explained(facts: Facts) -> list[Facts]:
    """The best adapted row and the best baseline, as far as they can be explained; without a comparison all rows that can."""
    rows = [row for row in (facts["scores"] or {}).get("rows", []) if row.get("top_features")]
    overall = _comparison(facts, "best_against_baseline")
    named = [row for row in rows if overall is not None and row["name"] in (overall["row"], overall["reference"])]
    return named or rows[:2]


def _measures(facts: Facts) -> list[str]:
    """The measures that the rows have an interval of, the main one first."""
    row = facts["scores"]["rows"][0]
    told = [measure["name"] for measure in facts["scores"].get("measures", [])] or list(_TITLES)
    return [name for name in told if f"{name}_low" in row]


def _question(facts: Facts) -> str:
    label, task = facts["scores"]["label"], facts["scores"].get("task", "binary")
    if named := two_classes(facts):
        return f"is the {label} of a record {named[0]} (positive) or {named[1]}?"
    asked = {"binary": f"is a record {label} or not?", "multilabel": f"which of {label} hold for a record?"}
    return asked.get(task, f"what is the {label} of a record?")


def _scheme(facts: Facts) -> str:
    """How records were shared out between fitting, choosing and scoring."""
    splits, scheme = facts["scores"]["splits"], facts["scores"].get("scheme", {"scheme": "given"})
    if scheme["scheme"] != "given":
        return str(scheme["sentence"])
    train, validation, test = (count(splits[name]["records"]) for name in ("train", "validation", "test"))
    return f"Heads were fitted on {train} train records, tuned on {validation} validation records and scored once on {test} test records."


def _where(facts: Facts) -> str:
    return "on the test split" if is_given(facts) else "out of fold"


def _parts(facts: Facts) -> str:
    """What the curves of one row hold together: classes or labels; "" for one question."""
    return {"multiclass": "classes", "multilabel": "labels"}.get(facts["scores"].get("task", "binary"), "")


def _pooled(facts: Facts, measure: str) -> str:
    """How the area under a curve of several classes relates to the score table."""
    if not (parts := _parts(facts)):
        return ""
    return (
        f" A curve pools the decisions about all {parts} (micro-average), so frequent {parts} weigh more; {measure} in the score table is "
        f"the mean over {parts} (macro-average) and can differ much from the area under the curve."
    )


def _interval(row: Facts, name: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return ranged(row[name], low, high) if low is not None and row[name] is not None else MISSING


def _comparison(facts: Facts, name: str) -> Facts | None:
    return next((entry for entry in (facts["scores"] or {}).get("comparisons", []) if entry["name"] == name), None)


def _difference(entry: Facts, measure: str) -> list[str]:
    found = entry[f"{measure}_difference"]
    if any(found[key] is None for key in ("value", "low", "high", "p")):
        return [MISSING, MISSING]
    return [f"{signed(found['value'])} ({signed(found['low'])} to {signed(found['high'])})", decimal(found["p"])]


def _curves(facts: Facts, kind: str) -> list[Facts]:
    """The curves of all rows but the majority's, each with its features and head apart: a row's title is "features + head", a fine-tuned
    model's is its features."""
    curves = []
    for row in facts["scores"]["rows"]:
        if row["name"] == "majority" or not facts["curves"][kind].get(row["name"]):
            continue
        features, _, head = row["title"].rpartition(" + ")
        named = {"title": row["title"], "features": features or row["title"], "head": head if features else charts.OWN_LAYER}
        curves.append(named | facts["curves"][kind][row["name"]])
    return curves
