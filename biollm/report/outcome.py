"""The one sentence that a reader takes away, and what it rests on.

With `classify` it is that stage's verdict. Without, it says what was measured, with its interval where there is one, and what was not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from biollm.report.content import Source
from biollm.report.facts import Facts, facts_of, source_of, unit_of
from biollm.report.numbers import changed, count, decimal

# The scores of fine-tuning by the name that finetune gives them: what people call it, and whether more is better. The first that a
# method has is the one it is judged by.
_SCORES: dict[str, tuple[str, bool]] = {
    "auroc": ("AUROC", True),
    "macro_auroc": ("mean AUROC of the labels", True),
    "macro_f1": ("macro F1", True),
    "r2": ("R²", True),
    "perplexity": ("perplexity of answers", False),
    "bits_per_byte": ("bits per byte of answers", False),
    "nats_per_token": ("nats per token of answers", False),
    "accuracy": ("accuracy", True),
    "rmse": ("root mean square error", False),
    "spearman": ("Spearman correlation", True),
}


@dataclass(frozen=True)
class Measured:
    """A number before and after (or without and with) a step of the adaptation. interval: 95 %, of `after`; change: 95 %, of after − before
    in the same records."""

    what: str
    before_is: str
    before: float | None
    after: float
    more_is_better: bool
    source: Source
    interval: tuple[float, float] | None = None
    over: str = ""  # what the interval was taken over
    change: tuple[float, float] | None = None

    @property
    def text(self) -> str:
        if self.change is not None and self.before is not None:
            return f"{decimal(self.after)} ({changed(self.after - self.before, *self.change)})"
        if self.interval is None:
            return decimal(self.after)
        return f"{decimal(self.after)} (95 % interval {decimal(self.interval[0])} to {decimal(self.interval[1])})"

    @property
    def improved(self) -> bool | None:
        """None if there is nothing to compare with, or if the interval holds what it is compared with."""
        if self.before is None or (self.interval is not None and self.interval[0] <= self.before <= self.interval[1]):
            return None
        if self.change is not None and self.change[0] <= 0 <= self.change[1]:
            return None
        return (self.after > self.before) == self.more_is_better


def score_title(name: str) -> str:
    return _SCORES[name][0] if name in _SCORES else name.replace("_", " ")


def best_method(finetune: Facts) -> str | None:
    """The method with the best score on the validation split, never on the test split."""
    scored = {name: entry["scores"]["validation"] for name, entry in finetune["methods"].items() if "validation" in entry.get("scores", {})}
    name = next((name for name in _SCORES if any(name in scores for scores in scored.values())), None)
    if name is None:
        return None
    sign = 1 if _SCORES[name][1] else -1
    methods: list[str] = [method for method in scored if name in scored[method]]
    return max(methods, key=lambda method: sign * scored[method][name])


def measurements(facts: Facts) -> list[Measured]:
    """What the stages measured of the domain, in the order of the work: loss after expansion, after pretraining, scores of fine-tuning."""
    return [*_expanded(facts), *_pretrained(facts), *_finetuned(facts)]


def verdict(facts: Facts) -> str:
    """One honest sentence. Of several measurements the last stage's leads."""
    if facts["scores"] is not None:
        return str(facts["scores"]["verdict"])
    if (finetune := facts_of(facts, "finetune")) is not None and best_method(finetune) is not None:
        return f"{_said(_finetuned(facts)[0])}."
    if found := _pretrained(facts):
        return f"{_said(found[0])}; no labelled question was asked, so this says nothing about a use of the model."
    if found := _expanded(facts):
        return f"Nothing has been trained yet: right after expansion {found[0].what} is {_against(found[0])}."
    if (merge := facts_of(facts, "merge")) is not None:
        tokens = f"{count(merge['new_tokens'])} tokens were added and no token of the base moved"
        return f"{tokens}; no model has been trained with them, so whether they help is not known."
    if facts_of(facts, "expand") is not None:
        return "The model was expanded and nothing was measured on it, so whether that helped is not known."
    if (tokenizer := facts_of(facts, "tokenizer")) is not None:
        return f"A tokenizer of {count(tokenizer['vocab_size'])} tokens was trained; no model has used it yet."
    records = sum(facts["stages"]["ingest"]["facts"]["records"].values()) if "ingest" in facts["stages"] else 0
    return f"A corpus of {count(records)} records was made; no model has been adapted to it yet."


def _said(measured: Measured) -> str:
    """A measurement as a clause that begins a sentence."""
    helped = {True: "it helped", False: "it did not help", None: "no clear effect"}[measured.improved]
    if measured.before is None:
        return f"{_upper_first(measured.what)} is {measured.text}, and there is nothing to compare it with"
    if measured.interval is None and measured.change is None:
        helped = f"by one measurement, which has no interval, {helped}"
    return f"{_upper_first(helped)}: {measured.what} is {_against(measured)}"


def _upper_first(text: str) -> str:
    return text[:1].upper() + text[1:]


def _against(measured: Measured) -> str:
    return measured.text if measured.before is None else f"{measured.text}, against {decimal(measured.before)} of {measured.before_is}"


def _expanded(facts: Facts) -> list[Measured]:
    expand = facts_of(facts, "expand")
    if expand is None or expand["init"] not in expand["held_out_bits_per_base"]:
        return []
    bits = expand["held_out_bits_per_base"]
    what = f"the loss on held-out records of the domain, in bits per {unit_of(facts)},"
    base = bits.get("no new tokens")
    return [Measured(what, "the base without new tokens", base, bits[expand["init"]], False, source_of(facts, "expand"))]


def _pretrained(facts: Facts) -> list[Measured]:
    pretrain = facts_of(facts, "pretrain")
    if pretrain is None:
        return []
    bits = pretrain["bits_per_base"]
    what = f"the loss on held-out records of the domain after continued pretraining, in bits per {unit_of(facts)},"
    measured = Measured(what, "the model before it", bits["before"], bits["after"], False, source_of(facts, "pretrain"))
    if (change := bits["change"]) is None:
        return [measured]
    over = f"{count(change['documents'])} documents in {count(change['groups'])} groups"
    return [replace(measured, change=(change["low"], change["high"]), over=over)]


def _finetuned(facts: Facts) -> list[Measured]:
    """The best method's main score on the test split, or on the validation split if there is no test split."""
    finetune = facts_of(facts, "finetune")
    method = None if finetune is None else best_method(finetune)
    if finetune is None or method is None:
        return []
    scores = finetune["methods"][method]["scores"]
    split = "test" if "test" in scores else "validation"
    interval = facts["finetune_intervals"].get(method)
    name = next(name for name in _SCORES if name in scores[split])
    if interval is not None and interval["score"] in scores[split] and split == "test":
        name = interval["score"]  # the one that an interval is known of
    else:
        interval = None
    title, more_is_better = _SCORES[name]
    baseline = finetune.get("baseline")
    return [
        Measured(
            f"the {title} of fine-tuning ({method.replace('_', ' ')}) on the {split} split",
            baseline["what"] if baseline else "",
            baseline["scores"].get(split, {}).get(name) if baseline else None,
            scores[split][name],
            more_is_better,
            source_of(facts, "finetune"),
            (interval["low"], interval["high"]) if interval else None,
            f"{count(interval['records'])} records in {count(interval['groups'])} groups" if interval else "",
        )
    ]
