"""What the page says, section by section. A section whose stage did not run is left out."""

from __future__ import annotations

from collections.abc import Callable

from biollm.report import charts
from biollm.report.content import Column, Figure, Row, Section, Table, Tile
from biollm.report.facts import Facts, facts_of, source_of
from biollm.report.numbers import MISSING, count, decimal, duration, percent, ranged, signed
from biollm.report.projection import EmbeddingMap
from biollm.report.vocabulary import new_rows, vocabulary, vocabulary_tiles

_DROP_REASONS = {"near_another_split": "too near to a record of another split"}


def tiles(facts: Facts) -> list[Tile]:
    """The few numbers that sum the run up."""
    found: list[Tile] = []
    overall = _comparison(facts, "best_against_baseline")
    if overall is not None:
        rows = {row["name"]: row for row in facts["scores"]["rows"]}
        for label, name in (("Best adapted AUROC", overall["row"]), ("Best baseline AUROC", overall["reference"])):
            found.append(Tile(label, decimal(rows[name]["auroc"]), rows[name]["title"]))
    found += vocabulary_tiles(facts)
    if (pretrain := facts_of(facts, "pretrain")) is not None:
        bits = pretrain["bits_per_base"]
        found.append(Tile("Bits per base", decimal(bits["after"]), f"{decimal(bits['before'])} before pretraining"))
    return found


def sections(facts: Facts, maps: dict[str, EmbeddingMap]) -> list[Section]:
    """All sections that the facts allow, in reading order."""
    builders: list[Callable[[Facts], Section | None]] = [
        _scores, _comparisons, _roc, lambda f: _maps(f, maps), vocabulary, new_rows, _fusion, _training, _finetuning, _data,
        _leakage, _provenance,
    ]  # fmt: skip
    built = (build(facts) for build in builders)
    return [section for section in built if section is not None]


def _scores(facts: Facts) -> Section:
    scores, source = facts["scores"], source_of(facts, "classify")
    bootstrap, splits = scores["bootstrap"], scores["splits"]
    prose = (
        f"Question: is a record {scores['label']} or not? Heads were fitted on {count(splits['train']['records'])} train records, tuned on "
        f"{count(splits['validation']['records'])} validation records and scored once on {count(splits['test']['records'])} test records. "
        f"Intervals hold 95 % of {count(bootstrap['samples'] - bootstrap['skipped_one_class'])} bootstrap resamples of the "
        f"{count(bootstrap['groups'])} groups of the test split: records of one group are neighbours and are drawn together."
    )
    figure = Figure(
        "forest",
        "Scores with 95 % intervals",
        "Score of each combination of features and head on the test split. Baselines need no adaptation: whatever does not beat them "
        "was not worth it.",
        "Forest plot of AUROC or AUPRC for every row of the score table; the table below holds the same numbers.",
        charts.forest(scores["rows"]),
        [source],
    )
    rows = [
        Row(
            [
                row["title"],
                ranged(row["auroc"], row["auroc_low"], row["auroc_high"]),
                ranged(row["auprc"], row["auprc_low"], row["auprc_high"]),
                decimal(row["validation_auroc"]),
                row["choice"] or MISSING,
            ],
            badge="baseline" if row["is_baseline"] else None,
        )
        for row in scores["rows"]
    ]
    columns = [
        Column("features + head", False),
        Column("AUROC"),
        Column("AUPRC"),
        Column("validation AUROC"),
        Column("chosen on validation", False),
    ]
    return Section(
        "scores", "Did it help?", [prose], [figure], [Table("Scores on the test split (95 % interval)", columns, rows, [source])]
    )


def _comparisons(facts: Facts) -> Section | None:
    compared = facts["scores"]["comparisons"]
    if not compared:
        return None
    rows = [
        Row(
            [
                entry["question"],
                f"{entry['row_title']} against {entry['reference_title']}",
                *_difference(entry, "auroc"),
                *_difference(entry, "auprc"),
            ]
        )
        for entry in compared
    ]
    columns = [
        Column("question", False),
        Column("compared", False),
        Column("AUROC difference"),
        Column("p"),
        Column("AUPRC difference"),
        Column("p"),
    ]
    prose = (
        "Both sides are scored on the same resamples, so their shared luck cancels. An interval that holds zero claims nothing. "
        "Rows and heads were chosen by validation AUROC, never by the test split."
    )
    table = Table(
        "Paired differences on the test split (95 % interval, two-sided bootstrap p)", columns, rows, [source_of(facts, "classify")]
    )
    return Section("comparisons", "Paired comparisons", [prose], tables=[table])


def _roc(facts: Facts) -> Section:
    rows = {row["name"]: row for row in facts["scores"]["rows"]}
    curves = [_curve(row, facts["roc"][name]) for name, row in rows.items() if name != "majority"]
    figure = Figure(
        "roc",
        "ROC curves",
        "ROC curves on the test split; the dotted diagonal is chance. Hover for values, click the legend to single out one feature set.",
        "ROC curves of all rows but the majority class, which is the diagonal.",
        charts.roc(curves),
        [source_of(facts, "classify")],
    )
    return Section("roc-curves", "What a threshold buys", ["How many true positives are found for each share of false alarms."], [figure])


def _maps(facts: Facts, maps: dict[str, EmbeddingMap]) -> Section | None:
    if not maps:
        return None
    titles = {name: entry.get("title", name) for name, entry in facts["stages"]["embed"]["facts"]["sets"].items()}
    label = facts["scores"]["label"]
    figures = [
        Figure(
            f"map-{name}",
            titles[name].capitalize(),
            f"Embeddings of {count(len(embedded.points))} records, {titles[name]}, on their first two principal components.",
            f"Scatter plot of embeddings, {titles[name]}, coloured by label.",
            charts.embedding_map(embedded, label),
            [source_of(facts, "embed"), source_of(facts, "ingest")],
        )
        for name, embedded in maps.items()
    ]
    prose = (
        "The same seeded sample of records in each map. Two components show only part of the variance: judge the model by the "
        "scores above, not by how far these clouds lie apart."
    )
    return Section("maps", "What the embeddings look like", [prose], figures)


def _fusion(facts: Facts) -> Section | None:
    fusion = (facts_of(facts, "expand") or {}).get("fusion")
    if fusion is None:
        return None
    difference = fusion["step0_max_difference"]
    rows = [
        Row(["operator", fusion["operator"]]),
        Row(["channels", ", ".join(fusion["channels"])]),
        Row(["largest difference from the base model at step 0", f"{difference:g}" + (" (bit-equal)" if difference == 0 else "")]),
    ]
    table = Table(
        "Per-base tracks as an input of the model", [Column("", False), Column("value", False)], rows, [source_of(facts, "expand")]
    )
    prose = "Tracks enter through an operator that starts at zero effect, so that training begins from exactly the base model."
    return Section("fusion", "The fused channel", [prose], tables=[table])


def _training(facts: Facts) -> Section | None:
    pretrain = facts_of(facts, "pretrain")
    if pretrain is None:
        return None
    source, bits = source_of(facts, "pretrain"), pretrain["bits_per_base"]
    history = facts["histories"]["pretrain"]
    points = [{**point, "series": "pretraining"} for point in history]
    caption = "Training loss of continued pretraining."
    figures = (
        [Figure("pretraining", "Training curve", caption, "Line chart: loss against step.", charts.training_curve(points), [source])]
        if points
        else []
    )
    rows = [
        Row(["steps", count(pretrain["steps"])]),
        Row(["tokens seen", count(pretrain["tokens"])]),
        Row(["bits per base before", decimal(bits["before"])]),
        Row(["bits per base after", decimal(bits["after"])]),
        *([Row(["bits per base of token frequencies alone", decimal(bits["token_frequencies"])])] if "token_frequencies" in bits else []),
        *_forgetting(pretrain.get("bits_per_byte_general")),
        *([Row(["objective", pretrain["objective"].replace("_", " ")])] if "objective" in pretrain else []),
        *([Row(["rows filled", percent(pretrain["packing"]["fill"])])] if "packing" in pretrain else []),
        Row(["precision", pretrain["precision"]]),
    ]
    table = Table("Continued pretraining, measured on the validation split", [Column("", False), Column("value")], rows, [source])
    prose = (
        "Bits per base: how surprising the bases behind hidden tokens are, given both sides; guessing each base at random costs 2. "
        "A hidden token hides its length and borders too, so more than 2 is possible; compare with token frequencies alone."
    )
    return Section("training", "Pretraining", [prose], figures, [table])


def _forgetting(general: dict[str, float] | None) -> list[Row]:
    """What the adaptation cost: held-out text outside the domain, before and after."""
    if general is None:
        return []
    change = general["after"] / general["before"] - 1
    return [
        Row(["general text, bits per byte before", decimal(general["before"])]),
        Row(
            [
                "general text, bits per byte after",
                f"{decimal(general['after'])} ({'+' if change > 0 else '−'}{percent(abs(change))}{': forgotten' if change > 0 else ''})",
            ]
        ),
    ]


def _finetuning(facts: Facts) -> Section | None:
    finetune = facts_of(facts, "finetune")
    if finetune is None:
        return None
    source = source_of(facts, "finetune")
    histories = facts["histories"]["finetune"]
    points = [
        {**point, "series": method.replace("_", " ")} for method, history in histories.items() for point in history if "loss_nats" in point
    ]
    validated = [
        {"step": point["step"], "loss_nats": point["validation_loss"], "series": f"{method.replace('_', ' ')}, validation"}
        for method, history in histories.items()
        for point in history
        if "validation_loss" in point
    ]
    caption = "Training loss of each fine-tuning method."
    if validated:
        caption += " The weights of the lowest loss on the validation split were kept."
    points += validated
    alt = "Line chart: loss against step, one line per method, and one for its validation loss if it was measured."
    figures = [Figure("finetuning", "Fine-tuning curves", caption, alt, charts.training_curve(points), [source])] if points else []
    rows = [
        Row(
            [
                method.replace("_", " "),
                count(entry["steps"]),
                count(entry["weights_of_step"]),
                count(entry["trainable_parameters"]),
                percent(entry["trainable_parameters"] / entry["parameters"]),
            ]
        )
        for method, entry in finetune["methods"].items()
    ]
    columns = [Column("method", False), Column("steps"), Column("weights of step"), Column("trained parameters"), Column("share of all")]
    return Section("finetuning", "Fine-tuning", [], figures, [Table("Fine-tuning methods", columns, rows, [source])])


def _data(facts: Facts) -> Section:
    ingest, source = facts["stages"]["ingest"]["facts"], source_of(facts, "ingest")
    splits = [(name, facts["scores"]["splits"][name]) for name in ("train", "validation", "test")]
    split_rows = [Row([name, count(entry["records"]), count(entry["positives"]), count(entry["groups"])]) for name, entry in splits]
    split_columns = [Column("split", False), Column("records"), Column(facts["scores"]["label"]), Column("groups")]
    counted = [name for name in ("contigs", "bases", "records", "residues") if any(name in entry for entry in ingest["sources"].values())]
    source_rows = [Row([name, *(count(entry[key]) for key in counted)]) for name, entry in ingest["sources"].items()]
    dropped = [Row([_DROP_REASONS.get(reason, reason.replace("_", " ")), count(number)]) for reason, number in ingest["dropped"].items()]
    tables = [
        Table("Records per split", split_columns, split_rows, [source, source_of(facts, "classify")]),
        Table("Sources", [Column("source", False), *map(Column, counted)], source_rows, [source]),
        Table("Dropped records", [Column("reason", False), Column("records")], dropped or [Row(["none", count(0)])], [source]),
    ]
    if ingest.get("site_tracks"):
        columns = [Column("track", False), Column("on", False), Column("sites"), Column("on another base")]
        rows = [
            Row([track["name"], track["source"], count(track["sites"]), count(track["sites_on_another_base"])])
            for track in ingest["site_tracks"]
        ]
        tables.append(Table("Measured tracks", columns, rows, [source]))
    return Section(
        "data", "The data", ["Splits are disjoint by group. Every record that was left out is counted with its reason."], tables=tables
    )


def _leakage(facts: Facts) -> Section:
    """What the audit found among the records that the heads were fitted and scored on."""
    leakage, source = facts["scores"]["leakage"], source_of(facts, "classify")
    sentence = {
        "clean": "The leak audit found nothing that would flatter the scores.",
        "warnings": "The leak audit found no leak beyond the declared tolerances; what it noticed is listed.",
        "leaks": "The splits leak: read the scores as too good.",
    }[leakage["verdict"]]
    text = [sentence]
    if "allowed" in leakage:
        text.append(f"Leaks were allowed by the recipe, for this reason: {leakage['allowed']}")
    if leakage["rows_audited"] < leakage["rows_of_corpus"]:
        text.append(f"A sample of {count(leakage['rows_audited'])} of {count(leakage['rows_of_corpus'])} records was looked at.")
    rows = [Row([finding["severity"], finding["kind"].replace("_", " "), finding["sentence"]]) for finding in leakage["findings"]]
    columns = [Column("severity", False), Column("kind", False), Column("what was found", False)]
    return Section("leakage", "Leak audit", text, tables=[Table("Findings", columns, rows or [Row(["", "none", ""])], [source])])


def _provenance(facts: Facts) -> Section:
    rows = [
        Row(
            [
                name,
                entry["digest"][:12],
                duration(entry["wall_seconds"]),
                f"{count(entry['peak_memory_mib'])} MiB",
                str(entry["seed"]),
                entry["reproducibility"],
            ]
        )
        for name, entry in facts["stages"].items()
    ]
    columns = [
        Column("stage", False),
        Column("digest", False),
        Column("wall time"),
        Column("peak memory"),
        Column("seed"),
        Column("reproducibility", False),
    ]
    packages = list(dict.fromkeys(name for entry in facts["stages"].values() for name in entry["versions"]))
    versions = [
        Row([name, ", ".join(sorted({entry["versions"].get(name, MISSING) for entry in facts["stages"].values()}))]) for name in packages
    ]
    sources = [source_of(facts, name) for name in facts["stages"]]
    tables = [
        Table("Stages and their artifacts", columns, rows, sources),
        Table("Package versions", [Column("package", False), Column("version", False)], versions, sources),
    ]
    prose = "A digest is the SHA-256 of what is in an artifact; each artifact's manifest.json holds it in full, with config and inputs."
    return Section("provenance", "Where every number comes from", [prose], tables=tables)


def _comparison(facts: Facts, name: str) -> Facts | None:
    return next((entry for entry in facts["scores"]["comparisons"] if entry["name"] == name), None)


def _difference(entry: Facts, measure: str) -> list[str]:
    found = entry[f"{measure}_difference"]
    return [f"{signed(found['value'])} ({signed(found['low'])} to {signed(found['high'])})", decimal(found["p"])]


def _curve(row: Facts, points: Facts) -> Facts:
    """A curve with its features and head apart: the row's title is "features + head", a fine-tuned model's is its features."""
    features, _, head = row["title"].rpartition(" + ")
    return {"title": row["title"], "features": features or row["title"], "head": head if features else "own output layer", **points}
