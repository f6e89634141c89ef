"""What the page says about training: its curves, and what each run saw."""

from __future__ import annotations

from biollm.report import charts
from biollm.report.content import Column, Figure, Row, Section, Table
from biollm.report.facts import Facts, facts_of, source_of, unit_of
from biollm.report.numbers import changed, count, decimal, percent

# What a figure in bits per unit means, by what the model is asked.
_MEANING = {
    "masked": "how surprising what stands behind hidden tokens is, given both sides. A hidden token hides its length and borders too, "
    "so more than guessing each {unit} at random costs is possible; compare with token frequencies alone.",
    "causal": "how surprising each token is, given those before it, shared out over what it stands for.",
}
_CHANCE = {"base": "Guessing each base at random costs 2.", "residue": "Guessing each of 20 residues at random costs 4.3."}


def pretraining(facts: Facts) -> Section | None:
    """The curve of continued pretraining, and what it saw; None without it."""
    pretrain = facts_of(facts, "pretrain")
    if pretrain is None:
        return None
    source, bits, unit = source_of(facts, "pretrain"), pretrain["bits_per_base"], unit_of(facts)
    history = facts["histories"]["pretrain"]
    points = [{**point, "series": "pretraining"} for point in history]
    caption = "Training loss of continued pretraining."
    if labels := [{**point, "loss_nats": point["label_loss_nats"]} for point in history if "label_loss_nats" in point]:
        points += [{**point, "series": "language modelling alone"} for point in labels]
        caption += " Hidden track values or tokens further on are predicted too: language modelling alone is the lower line."
    figures = (
        [Figure("pretraining", "Training curve", caption, _curve_in_words(points), charts.training_curve(points), [source])]
        if points
        else []
    )
    objective = pretrain.get("objective", "masked")
    rows = [
        Row(["steps", count(pretrain["steps"])]),
        Row(["tokens seen", count(pretrain["tokens"])]),
        Row([f"bits per {unit} before", decimal(bits["before"])]),
        Row([f"bits per {unit} after", decimal(bits["after"])]),
        *([Row(["change", changed(*(bits["change"][name] for name in ("value", "low", "high")))])] if bits["change"] else []),
        *(
            [Row([f"bits per {unit} of token frequencies alone", decimal(bits["token_frequencies"])])]
            if "token_frequencies" in bits
            else []
        ),
        Row(["objective", objective.replace("_", " ")]),
        *([Row(["rows filled", percent(pretrain["packing"]["fill"])])] if "packing" in pretrain else []),
        Row(["precision", pretrain["precision"]]),
    ]
    table = Table("Continued pretraining, measured on the validation split", [Column("", False), Column("value")], rows, [source])
    meaning = _MEANING.get(objective, "how surprising held-out records are, under the objective that was trained.").format(unit=unit)
    prose = f"Bits per {unit}: {meaning} {_CHANCE.get(unit, '')}".rstrip()
    return Section("training", "Pretraining", [prose], figures, [table])


def _curve_in_words(points: list[Facts]) -> str:
    """What a screen reader says instead of a curve: where each line begins and ends."""
    ends = []
    for series in dict.fromkeys(point["series"] for point in points):
        line = [point for point in points if point["series"] == series]
        first, last = (f"{decimal(point['loss_nats'])} at step {point['step']}" for point in (line[0], line[-1]))
        ends.append(f"{series} from {first} to {last}")
    return f"Line chart, loss against step: {'; '.join(ends)}."


def finetuning(facts: Facts) -> Section | None:
    """The curves of fine-tuning, and what each method trained; None without it."""
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
    figures = (
        [Figure("finetuning", "Fine-tuning curves", caption, _curve_in_words(points), charts.training_curve(points), [source])]
        if points
        else []
    )
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
