"""What the page says about the vocabulary: what was added to it, what that changed, and how the new rows start.

Reads the facts of the stages `tokenizer`, `merge` and `expand`.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import SequenceMatcher
from itertools import chain

from biollm.report import charts
from biollm.report.content import Column, Cut, Examples, Figure, Note, Piece, Row, Section, Source, Table, Tile
from biollm.report.facts import Facts, facts_of, source_of, unit_of
from biollm.report.numbers import MISSING, count, decimal, percent

# What a token is counted against. Of text, words are: the base knows its letters.
_UNITS = {"dna": "base", "methylated_dna": "base", "rna": "base", "protein": "residue", "smiles": "letter", "text": "word"}
_STRATEGIES = {"isolate": "isolate: residues as private letters", "continue": "continue: words in the base's letters"}
_KINDS = {"bpe": "BPE", "wordpiece": "WordPiece", "unigram": "Unigram", "kmer": "k-mers", "char": "single letters"}
_OBJECTIVES = {
    "masked": "predicting hidden tokens from both sides",
    "causal": "predicting each token from those before it",
    "seq2seq": "predicting the second half of each sequence from the first",
}
# Equal cuts around a change are shown up to here, so that the change keeps its surroundings and a long line stays short.
_SURROUNDINGS = 4
_SHOWN_LETTERS = 160


def vocabulary_tiles(facts: Facts) -> list[Tile]:
    """One number per domain: how much a token holds, or how few tokens a word needs."""
    merge = facts_of(facts, "merge")
    return [] if merge is None else [_tile(domain) for domain in merge["domains"]]


def vocabulary(facts: Facts) -> Section | None:
    """Growth, compression, guarantees and examples; None if nothing was merged."""
    merge = facts_of(facts, "merge")
    if merge is None:
        return None
    domains, source = merge["domains"], source_of(facts, "merge")
    return Section(
        "vocabulary",
        "The vocabulary",
        _prose(merge),
        notes=_base_notes(facts),
        tables=[
            _growth(facts, merge),
            Table(
                "Tokens before and after, on each domain",
                [Column("", False), Column("before"), Column("after")],
                list(chain.from_iterable(map(_compression, domains))),
                [source],
            ),
            _added(facts, domains),
            _checks(merge, source),
        ],
        examples=[shown for domain in domains for shown in _examples(domain, source)],
    )


def new_rows(facts: Facts) -> Section | None:
    """How the rows of the new tokens start, and what that costs; None if the model was not expanded."""
    expand = facts_of(facts, "expand")
    if expand is None:
        return None
    source, unit, comparison = source_of(facts, "expand"), unit_of(facts), expand["comparison"]
    return Section(
        "new-rows",
        "The new rows",
        [_rows_prose(expand), _loss_prose(expand, unit)],
        figures=[_comparison_figure(comparison, unit, source)] if comparison else [],
        tables=[
            *([_held_out_table(expand, unit, source)] if expand["held_out_bits_per_base"] else []),
            *([_comparison_table(comparison, expand["init"], unit, source)] if comparison else []),
        ],
    )


# --- the vocabulary ----------------------------------------------------------------------------------------------------------


def _prose(merge: Facts) -> list[str]:
    domains, strategies = merge["domains"], {domain["strategy"] for domain in merge["domains"]}
    prose = [
        f"{count(merge['new_tokens'])} tokens were added behind those of the base, for {', '.join(domain['name'] for domain in domains)}. "
        "Text that holds none of them keeps exactly the tokens that it had; a merge that breaks a guarantee stops the run."
    ]
    if any(domain.get("unknown_share_before") for domain in domains):
        prose.append(
            "An unknown token may swallow a whole sequence: where the base reads unknown tokens, few tokens before are no good sign."
        )
    if "isolate" in strategies:
        prose.append(
            "A plain line is a line of general text without anything that reads as a domain sequence; it counts as changed if its tokens, "
            "their places or its decoded text differ. Sequences are held out, and tried alone, in prose and between tags, as far as the "
            "domain allows each."
        )
    if "continue" in strategies:
        prose.append(
            "Tokens per word are counted on the text that the words were learnt from. Lines of general text that hold such words get fewer "
            "tokens, which is the purpose; a line counts as cut anew if its new tokens do not stand exactly where tokens of the base "
            "stood, which a BPE base rules out and other bases do not."
        )
    return prose


def _tile(domain: Facts) -> Tile:
    unit = _UNITS[domain["modality"]]
    if domain["strategy"] == "continue":
        before, after = _tokens_per_word(domain)
        return Tile(f"Tokens per {unit} ({domain['name']})", decimal(after, 2), f"{decimal(before, 2)} before")
    note = f"{decimal(domain['residues_per_token_before'], 2)} before"
    if unknown := domain["unknown_share_before"]:
        note += f", {percent(unknown)} of them unknown"
    return Tile(f"{unit.capitalize()}s per token ({domain['name']})", decimal(domain["residues_per_token_after"], 2), note)


def _base_notes(facts: Facts) -> list[Note]:
    """What was changed about the base before anything was added, once each, with every stage that says so."""
    said: dict[str, list[Source]] = {}
    for stage in ("merge", "expand"):
        for note in (facts_of(facts, stage) or {}).get("base_notes", []):
            said.setdefault(note, []).append(source_of(facts, stage))
    notes = [Note(f"Base model: {text.rstrip('.')}.", sources) for text, sources in said.items()]
    merge = facts["stages"]["merge"]["facts"]
    switched_off = [what for what in ("truncation", "padding") if merge[f"{what}_switched_off"]]
    if switched_off:
        why = " Long texts would have been cut in silence." if "truncation" in switched_off else ""
        text = f"The base's tokenizer.json has {' and '.join(switched_off)} switched on; the merged one has not.{why}"
        notes.append(Note(text, [source_of(facts, "merge")]))
    return notes


def _growth(facts: Facts, merge: Facts) -> Table:
    rows = [
        Row(["tokens of the base", count(merge["base_vocab_size"])]),
        Row(["tokens added", count(merge["new_tokens"])]),
        Row(["tokens together", count(merge["merged_vocab_size"])]),
    ]
    sources = [source_of(facts, "merge")]
    if (expand := facts_of(facts, "expand")) is not None:
        sources.append(source_of(facts, "expand"))
        rows += [
            Row(["embedding rows that are no token", count(expand["rows"] - expand["old_rows"] - expand["new_rows"])]),
            Row(["parameters added", count(expand["parameters_added"])]),
            Row(["megabytes added", decimal(expand["megabytes_added"], 2)]),
        ]
    return Table("Growth of the vocabulary and of the model", [Column("", False), Column("number")], rows, sources)


def _compression(domain: Facts) -> list[Row]:
    name, unit = domain["name"], _UNITS[domain["modality"]]
    if domain["strategy"] == "continue":
        before, after = _tokens_per_word(domain)
        lines = domain["lines"]
        general = [decimal(domain[f"tokens_{when}"] / lines, 2) for when in ("before", "after")] if lines else [MISSING, MISSING]
        return [
            Row([f"{name}: tokens per {unit}", decimal(before), decimal(after)]),
            Row([f"{name}: tokens per line of general text", *general]),
        ]
    per_token = [domain[f"residues_per_token_{when}"] for when in ("before", "after")]
    # A token for "unknown" cannot give its sequence back, so sequences that all come back hold none.
    unknown_after = MISSING if domain["round_trip_failures"] else percent(0)
    return [
        Row([f"{name}: tokens per {unit}", *(decimal(1 / value) for value in per_token)]),
        Row([f"{name}: {unit}s per token", *(decimal(value, 2) for value in per_token)]),
        Row([f"{name}: tokens that are unknown", percent(domain["unknown_share_before"]), unknown_after]),
    ]


def _tokens_per_word(domain: Facts) -> tuple[float, float]:
    return domain["text_tokens_before"] / domain["text_words"], domain["text_tokens_after"] / domain["text_words"]


def _added(facts: Facts, domains: list[Facts]) -> Table:
    """A column per domain: what it is, and which of its tokens are in use."""
    configs = facts["stages"]["merge"]["config"]["domains"]
    own = [config["strategy"] == "isolate" and config["tokenizer"] is None for config in configs]
    tokenizers = [facts_of(facts, "tokenizer") if mine else None for mine in own]
    origins = [_origin(*each) for each in zip(domains, configs, tokenizers, strict=True)]
    scaffolds = [domain["scaffold_tokens"] for domain in domains]
    rows = [
        Row(["strategy", *(_STRATEGIES[domain["strategy"]] for domain in domains)]),
        Row(["tokens", *(_KINDS[domain["kind"]] for domain in domains)]),
        Row(["learnt from", *origins]),
        Row(["new tokens", *(_of_requested(domain) for domain in domains)]),
        Row(["ids", *(_ids(domain) for domain in domains)]),
        *([Row(["of them only to spell private letters", *map(count, scaffolds)])] if any(scaffolds) else []),
        Row(["unused where they were learnt", *(_unused(*each) for each in zip(domains, tokenizers, strict=True))]),
    ]
    if any(domain["strategy"] == "continue" for domain in domains):
        rows.append(Row(["left out as unused or unreachable", *(_optional(domain, "text_pruned_tokens") for domain in domains)]))
    sources = [source_of(facts, "merge"), *([source_of(facts, "tokenizer")] if any(tokenizers) else [])]
    return Table("What was added", _per_domain("", domains, is_number=False), rows, sources)


def _per_domain(first: str, domains: list[Facts], is_number: bool) -> list[Column]:
    return [Column(first, False), *(Column(domain["name"], is_number) for domain in domains)]


def _origin(domain: Facts, config: Facts, tokenizer: Facts | None) -> str:
    if domain["strategy"] == "continue":
        return ", ".join(config["text"])
    if config["tokenizer"] is not None:
        return f"ready: {config['tokenizer']}"
    return "own files" if tokenizer is not None and tokenizer["source"] == "files" else "this run's train split"


def _of_requested(domain: Facts) -> str:
    made, wanted = domain["new_tokens"], domain.get("text_requested_tokens")
    return count(made) if wanted in (None, made) else f"{count(made)} of {count(wanted)} asked for"


def _ids(domain: Facts) -> str:
    if not domain["new_tokens"]:
        return MISSING
    # Without thousands separators: an id is a name.
    return f"{domain['first_id']} to {domain['first_id'] + domain['new_tokens'] - 1}"


def _unused(domain: Facts, tokenizer: Facts | None) -> str:
    if domain["strategy"] == "continue":
        steps = domain["text_unused_kept_as_parts"]
        unused = f"{count(domain['text_unused_tokens'] + steps)} of {count(domain['new_tokens'])}"
        return f"{unused} (steps to longer ones)" if steps else unused
    if tokenizer is not None:
        return f"{count(tokenizer['tokens_unused_in_train'])} of {count(tokenizer['vocab_size'])}"
    if domain.get("unused_in_training") is None or domain.get("learnt_tokens") is None:  # a folder without a manifest
        return MISSING
    return f"{count(domain['unused_in_training'])} of {count(domain['learnt_tokens'])}"


def _optional(domain: Facts, fact: str) -> str:
    return count(domain[fact]) if fact in domain else MISSING


def _checks(merge: Facts, source: Source) -> Table:
    """A column per domain: how many fail, of how many compared. Plain and general lines are against the tokenizer as it was before that
    domain; sequences and random strings are tried with all domains together, on the tokenizer as it was written."""

    def ids(domain: Facts) -> str:
        return _share(merge["base_tokens_moved"], merge["base_vocab_size"])

    def fact(failures: str, compared: str, strategy: str) -> Callable[[Facts], str]:
        return lambda domain: _share(domain[failures], domain[compared]) if domain["strategy"] == strategy else MISSING

    def random_strings(domain: Facts) -> str:
        return _share(domain["random_strings_failed"], domain["random_strings"]) if "random_strings" in domain else MISSING

    def unreachable(domain: Facts) -> str:
        found = domain["unreachable_tokens" if domain["strategy"] == "isolate" else "text_unreachable_tokens"]
        return _share(found, domain["new_tokens"] - domain["scaffold_tokens"])

    checks: dict[str, Callable[[Facts], str]] = {
        "base tokens whose id changed": ids,
        "new tokens out of reach of any text": unreachable,
        "plain lines changed": fact("plain_lines_changed", "plain_lines", "isolate"),
        "sequences cut unlike the domain tokenizer": fact("sequences_changed", "sequences", "isolate"),
        "sequences that do not decode to themselves": fact("round_trip_failures", "sequences", "isolate"),
        "random strings that do not come back, all domains together": random_strings,
        "general lines that hold a new token": fact("lines_changed", "lines", "continue"),
        "general lines cut anew": fact("violations", "lines", "continue"),
        "general lines that decode otherwise": fact("round_trip_failures", "lines", "continue"),
    }
    left_out = [_optional(domain, "lines_with_domain_sequences") for domain in merge["domains"]]
    rows = [
        *(Row([check, *(value(domain) for domain in merge["domains"])]) for check, value in checks.items()),
        Row(["lines with a sequence, not compared", *left_out]),
    ]
    shown = [row for row in rows if any(cell != MISSING for cell in row.cells[1:])]
    caption = "What differs, of all that was compared on this run's data"
    return Table(caption, _per_domain("check", merge["domains"], is_number=True), shown, [source])


def _share(found: int, compared: int) -> str:
    return f"{count(found)} of {count(compared)}"


# --- examples ----------------------------------------------------------------------------------------------------------------


def _examples(domain: Facts, source: Source) -> list[Examples]:
    shown = []
    if examples := domain["examples"]:
        continued = domain["strategy"] == "continue"
        what = (
            "lines of the text that the words were learnt from; cuts that stay are grey, and long stretches of them are left out"
            if continued
            else "the first letters of held-out sequences"
        )
        if unknown := domain.get("unknown_share_before"):  # so short a stretch may be readable where the whole is not
            what += f" (of whole ones, {percent(unknown)} of the base's tokens are unknown)"
        items = [("", *_cuts(example["before"], example["after"], ("before", "after"), continued)) for example in examples]
        shown.append(Examples(f"Examples, {domain['name']}: {what}. Each box is a token.", items, [source]))
    if anew := domain.get("violation_examples"):
        titles = ("by the base", "by the merged tokenizer, new tokens taken apart")
        items = [(_shortened(line), *_cuts(base, merged, titles, False)) for line, base, merged in anew]
        caption = (
            f"General lines cut anew, {domain['name']}: {len(anew)} of {count(domain['violations'])}, each from the first difference to "
            "the last, in tokens as the model spells them."
        )
        shown.append(Examples(caption, items, [source]))
    return shown


def _cuts(before: list[str], after: list[str], titles: tuple[str, str], show_changes: bool) -> tuple[Cut, Cut]:
    """Two cuts of one text. With show_changes, what is the same in both is told apart, and shortened far from any change."""
    if not show_changes:
        first, second = ([Piece(token) for token in tokens] for tokens in (before, after))
    else:
        first, second = _compared(before, after)
    return Cut(titles[0], len(before), first), Cut(titles[1], len(after), second)


def _compared(before: list[str], after: list[str]) -> tuple[list[Piece], list[Piece]]:
    """Both cuts with their equal stretches marked.

    >>> _compared(["a", "b", "c"], ["a", "bc"])[1]
    [Piece(text='a', role='unchanged'), Piece(text='bc', role='token')]
    """
    first: list[Piece] = []
    second: list[Piece] = []
    blocks = SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    for number, (kind, i1, i2, j1, j2) in enumerate(blocks):
        if kind == "equal":
            kept = _shortened_stretch(before[i1:i2], is_first=number == 0, is_last=number == len(blocks) - 1)
            first += kept
            second += kept
        else:
            first += [Piece(token) for token in before[i1:i2]]
            second += [Piece(token) for token in after[j1:j2]]
    return first, second


def _shortened_stretch(tokens: list[str], is_first: bool, is_last: bool) -> list[Piece]:
    """Tokens that stay, without those far from any change: those of a line's first stretch stand before one, those of its last after."""
    head = 0 if is_first else _SURROUNDINGS
    tail = 0 if is_last else _SURROUNDINGS
    hidden = len(tokens) - head - tail
    if hidden < _SURROUNDINGS:
        return [Piece(token, "unchanged") for token in tokens]
    return [
        *(Piece(token, "unchanged") for token in tokens[:head]),
        Piece(f"… {hidden} the same …", "left out"),
        *(Piece(token, "unchanged") for token in tokens[len(tokens) - tail :]),
    ]


def _shortened(line: str) -> str:
    return line if len(line) <= _SHOWN_LETTERS else line[:_SHOWN_LETTERS] + " …"


# --- the new rows ------------------------------------------------------------------------------------------------------------


def _rows_prose(expand: Facts) -> str:
    tables = "the embedding table, which is the output table too" if expand["tied"] else "the embedding table and to the output table"
    equal = "bit-equal to the base model's" if expand["old_rows_bit_equal"] else "NOT equal to the base model's"
    return (
        f"{count(expand['new_rows'])} rows ({count(expand['parameters_added'])} parameters, {decimal(expand['megabytes_added'], 2)} MB) "
        f"were added to {tables}, started by '{expand['init']}'; old rows are {equal}."
    )


def _loss_prose(expand: Facts, unit: str) -> str:
    if not expand["held_out_bits_per_base"]:
        why = "the tables were edited on disk and the model was never loaded" if "shards" in expand else "no corpus was at hand"
        return f"The loss right after was not measured: {why}."
    prose = (
        f"The loss on {count(expand['held_out_records'])} held-out records before any training, {_OBJECTIVES[expand['objective']]}; lower "
        f"is better. Bits per {unit} can be compared between vocabularies, nats per token cannot."
    )
    if expand["objective"] == "masked":
        prose += " Where the base brings no masked-language head, as sentence encoders do not, a random one dominates these figures."
    return prose


def _held_out_table(expand: Facts, unit: str, source: Source) -> Table:
    nats, bits = expand["held_out_loss_nats"], expand["held_out_bits_per_base"]
    rows = [Row([name, decimal(nats[name]), decimal(bits[name])], badge=_badge(name, expand["init"])) for name in bits]
    if charts.NO_NEW_TOKENS not in bits:
        unread = f"{charts.NO_NEW_TOKENS}: no loss, as the base reads the sequences as unknown tokens"
        rows.insert(0, Row([unread, MISSING, MISSING], badge=_badge(charts.NO_NEW_TOKENS, expand["init"])))
    columns = [Column("initialiser", False), Column("nats per token"), Column(f"bits per {unit}")]
    return Table("Held-out loss right after expansion", columns, rows, [source])


def _comparison_table(comparison: Facts, used: str, unit: str, source: Source) -> Table:
    rows = [
        Row(
            [
                row["init"] + (f": no loss, as {row['why']}" if row.get("why") else ""),
                *(MISSING if row[moment] is None else decimal(row[moment]) for moment in ("step0", "after")),
            ],
            badge=_badge(row["init"], used),
        )
        for row in comparison["rows"]
    ]
    columns = [Column("initialiser", False), Column("step 0"), Column(f"after {count(comparison['steps'])} steps")]
    return Table(f"Ways to start the new rows, held-out bits per {unit}", columns, rows, [source])


def _badge(name: str, used: str) -> str | None:
    return {used: "used", charts.NO_NEW_TOKENS: "base as it came"}.get(name)


def _comparison_figure(comparison: Facts, unit: str, source: Source) -> Figure:
    rows, steps = [row for row in comparison["rows"] if row["step0"] is not None], comparison["steps"]
    caption = (
        f"Held-out loss of every initialiser right after expansion and after {count(steps)} training steps, best end first; all start "
        "from the same base and see the same records."
    )
    if any(row["init"] == charts.NO_NEW_TOKENS for row in rows):
        caption += " The dotted line is where the base without new tokens ends: a merge that stays right of it has not paid off yet."
    alt = "Two points per initialiser, at step 0 and after training, joined by a line; the table below holds the same numbers."
    return Figure("initialisers", "Ways to start the new rows", caption, alt, charts.initialisers(rows, steps, unit), [source])
