"""What the page says about the data, its leaks, and where every number comes from."""

from __future__ import annotations

from biollm.report.content import Column, Row, Section, Source, Table
from biollm.report.facts import Facts, facts_of, is_given, source_of, two_classes
from biollm.report.numbers import MISSING, count, duration

_DROP_REASONS = {"near_another_split": "too near to a record of another split"}
_SPLITS = ("train", "validation", "test")
_SHOWN_FOLDS = 30  # leave-one-group-out has as many as there are groups


def data(facts: Facts) -> Section | None:
    """Records by split, sources, what was left out; None without a corpus."""
    ingest = facts_of(facts, "ingest")
    if ingest is None:
        return None
    source = source_of(facts, "ingest")
    dropped = [Row([_DROP_REASONS.get(reason, reason.replace("_", " ")), count(number)]) for reason, number in ingest["dropped"].items()]
    in_folds = facts["scores"] is not None and not is_given(facts)
    tables = [
        _folds(facts) if in_folds else _splits(facts, ingest),
        _origins(ingest, source),
        Table("Dropped records", [Column("reason", False), Column("records")], dropped or [Row(["none", count(0)])], [source]),
    ]
    if ingest.get("site_tracks"):
        columns = [Column("track", False), Column("on", False), Column("sites"), Column("on another base")]
        rows = [
            Row([track["name"], track["source"], count(track["sites"]), count(track["sites_on_another_base"])])
            for track in ingest["site_tracks"]
        ]
        tables.append(Table("Measured tracks", columns, rows, [source]))
    disjoint = f"Folds are disjoint by '{facts['scores']['scheme']['by']}'." if in_folds else "Splits are disjoint by group."
    return Section("data", "The data", [f"{disjoint} Every record that was left out is counted with its reason."], tables=tables)


def _splits(facts: Facts, ingest: Facts) -> Table:
    """Of a scored label: the records that have it, and how many say yes where it is a yes/no label. Else: all records."""
    if facts["scores"] is None:
        groups = ingest.get("groups", {})
        rows = [Row([name, count(ingest["records"][name]), count(groups[name]) if name in groups else MISSING]) for name in _SPLITS]
        return Table("Records per split", [Column("split", False), Column("records"), Column("groups")], rows, [source_of(facts, "ingest")])
    splits = facts["scores"]["splits"]
    yes_no = all("positives" in splits[name] for name in _SPLITS)
    rows = [
        Row(
            [
                name,
                count(splits[name]["records"]),
                *([count(splits[name]["positives"])] if yes_no else []),
                count(splits[name]["groups"]) if "groups" in splits[name] else MISSING,
            ]
        )
        for name in _SPLITS
    ]
    columns = [Column("split", False), Column("records"), *([Column(_positive(facts))] if yes_no else []), Column("groups")]
    return Table("Records per split", columns, rows, [source_of(facts, "ingest"), source_of(facts, "classify")])


def _folds(facts: Facts) -> Table:
    """The sizes of the folds that scores are of, whose records are those that have the label."""
    folds = facts["scores"]["scheme"]["folds"]
    shown, others = folds[:_SHOWN_FOLDS], folds[_SHOWN_FOLDS:]
    scored = ["records", "positives"] if all("positives" in fold for fold in folds) else ["records"]
    rows = [
        Row([fold["name"], count(fold["train_records"]), *(count(fold[name]) for name in scored), count(fold["groups"])]) for fold in shown
    ]
    if others:
        sums = [count(sum(fold[name] for fold in others)) for name in scored]
        rows.append(Row([f"{count(len(others))} more folds, in report.json", MISSING, *sums, MISSING]))
    positive = [Column(_positive(facts))] if len(scored) > 1 else []
    columns = [Column("fold", False), Column("fitted on"), Column("scored"), *positive, Column("groups scored")]
    return Table("Records per fold", columns, rows, [source_of(facts, "classify")])


def _positive(facts: Facts) -> str:
    """What a record counts as positive for."""
    named = two_classes(facts)
    return str(facts["scores"]["label"]) + (f" = {named[0]}" if named else "")


def _origins(ingest: Facts, source: Source) -> Table:
    counted = [name for name in ("contigs", "bases", "records", "residues") if any(name in entry for entry in ingest["sources"].values())]
    rows = [Row([name, *(count(entry[key]) if key in entry else MISSING for key in counted)]) for name, entry in ingest["sources"].items()]
    return Table("Sources", [Column("source", False), *map(Column, counted)], rows, [source])


def leakage(facts: Facts) -> Section | None:
    """What the audit found among the records that the heads were fitted and scored on, or else among all of the corpus."""
    stage = "classify" if facts["scores"] is not None else "ingest"
    found = facts["scores"]["leakage"] if facts["scores"] is not None else (facts_of(facts, "ingest") or {}).get("audit")
    if found is None:
        return None
    sentence = {
        "clean": "The leak audit found nothing that would flatter the scores.",
        "warnings": "The leak audit found no leak beyond the declared tolerances; what it noticed is listed.",
        "leaks": "The splits leak: read the scores as too good.",
    }[found["verdict"]]
    text = [sentence]
    if "allowed" in found:
        text.append(f"Leaks were allowed by the recipe, for this reason: {found['allowed']}")
    if found["rows_audited"] < found["rows_of_corpus"]:
        text.append(f"A sample of {count(found['rows_audited'])} of {count(found['rows_of_corpus'])} records was looked at.")
    rows = [Row([finding["severity"], finding["kind"].replace("_", " "), finding["sentence"]]) for finding in found["findings"]]
    columns = [Column("severity", False), Column("kind", False), Column("what was found", False)]
    table = Table("Findings", columns, rows or [Row(["", "none", ""])], [source_of(facts, stage)])
    return Section("leakage", "Leak audit", text, tables=[table])


def provenance(facts: Facts) -> Section:
    """Digest, cost, seed and versions of every stage."""
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
    machine = [
        Row(
            [
                name.replace("_", " "),
                ", ".join(sorted({str(entry["machine"][name]) for entry in facts["stages"].values() if name in entry["machine"]})),
            ]
        )
        for name in dict.fromkeys(name for entry in facts["stages"].values() for name in entry["machine"])
    ]
    tables = [
        Table("Stages and their artifacts", columns, rows, sources),
        Table("Machine", [Column("", False), Column("", False)], machine, sources),
        Table("Package versions", [Column("package", False), Column("version", False)], versions, sources),
    ]
    prose = "A digest is the SHA-256 of what is in an artifact; each artifact's manifest.json holds it in full, with config and inputs."
    return Section("provenance", "Where every number comes from", [prose], tables=tables)
