"""The first things a reader asks: what was adapted to what, did it help (where no head was scored), and what it cost."""

from __future__ import annotations

from biollm.report.content import Column, Note, Row, Section, Source, Table
from biollm.report.facts import Facts, domain_of, facts_of, source_of
from biollm.report.numbers import MISSING, changed, count, decimal, percent
from biollm.report.outcome import measurements, score_title

_HOW_TO_MEASURE = (
    "What the adaptation cost on general text was not measured. To know it, give pretrain some of that text, of which a part is held out: "
    "pretrain: {general: {text: [notes/*.txt]}}."
)
_TASKS = {
    "classification": "classes",
    "multilabel": "several yes/no labels",
    "regression": "values",
    "token_classification": "classes of residues or words",
    "pair_classification": "pairs",
    "instruction": "instructions and answers",
}


def adapted(facts: Facts) -> Section:
    """The base, the domain, and what each stage did, a line each."""
    rows: list[Row] = []
    sources: list[Source] = []

    def line(stage: str, what: str, value: str) -> None:
        rows.append(Row([what, value]))
        sources.append(source_of(facts, stage))

    if (ingest := facts_of(facts, "ingest")) is not None:
        line(
            "ingest", "domain", f"{count(sum(ingest['records'].values()))} records ({ingest.get('modality', 'dna')}) of {domain_of(facts)}"
        )
    if (merge := facts_of(facts, "merge")) is not None:
        line("merge", "vocabulary", f"{count(merge['base_vocab_size'])} tokens, and {count(merge['new_tokens'])} new ones")
    elif (tokenizer := facts_of(facts, "tokenizer")) is not None:
        line("tokenizer", "vocabulary", f"{count(tokenizer['vocab_size'])} tokens, not merged into a base")
    if (expand := facts_of(facts, "expand")) is not None:
        line("expand", "model", f"{count(expand['new_rows'])} new rows, {count(expand['parameters_added'])} new parameters")
        if expand.get("fusion"):
            line("expand", "tracks", ", ".join(expand["fusion"]["channels"]))
    if (pretrain := facts_of(facts, "pretrain")) is not None:
        how = pretrain.get("objective", "masked").replace("_", " ")
        line("pretrain", "continued pretraining", f"{count(pretrain['steps'])} steps, {count(pretrain['tokens'])} tokens, {how}")
    if (finetune := facts_of(facts, "finetune")) is not None:
        methods = ", ".join(method.replace("_", " ") for method in finetune["methods"])
        line("finetune", "fine-tuning", f"{_TASKS[finetune.get('task', 'classification')]}: {methods}")
    if facts["scores"] is not None:
        line("classify", "question", facts["scores"]["label"])
    table = Table(
        "The base, the domain, and what each stage did",
        [Column("", False), Column("", False)],
        [Row(["base model", facts["base_model"] or "none"]), *rows],
        list(dict.fromkeys(sources)),
    )
    return Section("adapted", "What was adapted to what", [], tables=[table])


def measured(facts: Facts) -> Section | None:
    """Did it help, where no head was scored: each measurement against what it is compared with. None if nothing was measured."""
    found = measurements(facts)
    if facts["scores"] is not None or not found:
        return None
    rows = [
        Row(
            [
                entry.what.rstrip(","),
                MISSING if entry.before is None else decimal(entry.before),
                entry.text,
                {True: "better", False: "worse", None: "not clear"}[entry.improved],
            ]
        )
        for entry in found
    ]
    columns = [Column("measured", False), Column("compared with"), Column("found"), Column("outcome", False)]
    prose = [
        "No head was scored (the recipe has no section classify), so this tells what the stages measured themselves.",
        *(
            f"The interval of {entry.what.rstrip(',')} holds 95 % of 1,000 bootstrap resamples of {entry.over}; records of one "
            "group are drawn together."
            for entry in found
            if entry.over
        ),
    ]
    tables = [Table("Measurements of the domain", columns, rows, [entry.source for entry in found]), *_finetune_scores(facts)]
    return Section("help", "Did it help?", prose, tables=tables)


def _finetune_scores(facts: Facts) -> list[Table]:
    """Every score of every method on the test split, beside the trivial model's."""
    finetune = facts_of(facts, "finetune")
    if finetune is None or not all("scores" in entry for entry in finetune["methods"].values()):
        return []
    baseline = finetune.get("baseline")
    named = {method.replace("_", " "): entry["scores"] for method, entry in finetune["methods"].items()}
    if baseline:
        named = {baseline["what"]: baseline["scores"]} | named
    split = "test" if all("test" in scores for scores in named.values()) else "validation"
    names = list(dict.fromkeys(name for scores in named.values() for name in scores[split]))
    rows = [
        Row(
            [title, *(decimal(scores[split][name]) if name in scores[split] else MISSING for name in names)],
            badge="baseline" if baseline and title == baseline["what"] else None,
        )
        for title, scores in named.items()
    ]
    columns = [Column("", False), *(Column(score_title(name)) for name in names)]
    return [Table(f"Fine-tuning on the {split} split", columns, rows, [source_of(facts, "finetune")])]


def cost(facts: Facts) -> Section | None:
    """What the adaptation cost in general ability; None if the model was not touched."""
    rows: list[Row] = []
    sources: list[Source] = []
    if (merge := facts_of(facts, "merge")) is not None:
        rows += _unchanged_text(merge)
        sources.append(source_of(facts, "merge"))
    if (expand := facts_of(facts, "expand")) is not None:
        equal = "bit-equal to the base's" if expand["old_rows_bit_equal"] else "NOT equal to the base's"
        rows.append(Row(["embedding rows of the base's tokens, before training", equal]))
        sources.append(source_of(facts, "expand"))
    pretrain = facts_of(facts, "pretrain")
    general = pretrain.get("bits_per_byte_general") if pretrain is not None else None
    if general is not None:
        rows += _forgetting(general)
        sources.append(source_of(facts, "pretrain"))
    if not rows and pretrain is None:
        return None
    notes = [Note(_HOW_TO_MEASURE, [source_of(facts, "pretrain")])] if pretrain is not None and general is None else []
    table = Table("General ability, before and after", [Column("", False), Column("", False)], rows, sources)
    prose = (
        "An adapted model may forget what it knew. Text without domain sequences keeps its tokens; what training changed shows in the loss "
        "on held-out general text, in bits per byte, which can be compared between vocabularies."
    )
    return Section("cost", "What it cost", [prose], tables=[table] if rows else [], notes=notes)


def _unchanged_text(merge: Facts) -> list[Row]:
    rows = [Row(["base tokens whose id changed", f"{count(merge['base_tokens_moved'])} of {count(merge['base_vocab_size'])}"])]
    for domain in merge["domains"]:
        if domain["strategy"] == "isolate":
            said = f"{count(domain['plain_lines_changed'])} of {count(domain['plain_lines'])}"
            rows.append(Row([f"general lines whose tokens changed ({domain['name']})", said]))
    return rows


def _forgetting(general: Facts) -> list[Row]:
    """Held-out text outside the domain, before and after."""
    share, change = general["after"] / general["before"] - 1, general["change"]
    said = f"{'+' if share > 0 else '−'}{percent(abs(share))}"
    if change is not None:
        said = f"{changed(change['value'], change['low'], change['high'])}; {said}"
    if share > 0 and (change is None or change["low"] > 0):
        said += ": forgotten"
    return [
        Row(["general text, bits per byte before", decimal(general["before"])]),
        Row(["general text, bits per byte after", f"{decimal(general['after'])} ({said})"]),
    ]
