"""What the audit asks of labels: missing, contradictory, unbalanced, or told by something that is no biology."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl

from biollm.corpus import shortcuts
from biollm.corpus.options import AuditOptions
from biollm.corpus.sides import ID, Finding, Severity, Sides, blank_is_null, id_column, percent
from biollm.corpus.similarity import Encoded, IntArray

# Lower ends of the AUROC interval from which a shortcut is told, and from which it is a leak. Composition is biology too: CpG islands,
# the charge of antimicrobial peptides (0.95 on AMP against UniProt); it never is a leak.
_FAR_ABOVE_CHANCE = {"header": 0.75, "length": 0.75, "composition": 0.85}
_NEAR_PERFECT = 0.97
_BALANCE_SHIFT = 0.2
_FEW_ROWS = 20


def find_in_label(
    table: pl.DataFrame, name: str, encoded: Encoded, same: IntArray, heads: IntArray, sides: Sides, options: AuditOptions
) -> Iterator[Finding]:
    labels = blank_is_null(table[name])
    if labels.dtype.is_nested():
        return
    labels = _as_numbers(labels) if labels.dtype == pl.String else labels
    missing = labels.is_null().to_numpy()
    if missing.any():
        bare = [split for i, split in enumerate(sides.names) if missing[sides.number == i].all()]
        sentence = f"{int(missing.sum()):,} of {len(missing):,} rows have no '{name}'"
        if bare:
            sentence += f"; the whole {' and '.join(bare)} split is without"
        yield Finding("missing_labels", "warning" if bare else "info", int(missing.sum()), sentence, shares=sides.shares(missing))
    if missing.all():
        return
    numbers = (labels.rank("dense").fill_null(0)).to_numpy().astype(np.int64)
    yield from _conflicts(name, numbers, same, sides)
    classes, names = shortcuts.classes_of(labels)
    if len(names) <= shortcuts.MOST_CLASSES:
        yield from _balance(name, classes, names, sides)
        yield from _shortcuts(table, name, classes, encoded, heads, options)


def _conflicts(name: str, numbers: IntArray, same: IntArray, sides: Sides) -> Iterator[Finding]:
    """Rows whose sequence has another label elsewhere."""
    order = np.flatnonzero(numbers > 0)
    first = np.full(len(same), -1, dtype=np.int64)
    first[same[order[::-1]]] = order[::-1]
    holder = first[same]
    other = (numbers > 0) & (holder >= 0) & (numbers != numbers[holder])
    if other.any():
        families = len(np.unique(same[other]))
        sentence = f"{families:,} sequences stand more than once with different '{name}'"
        remedy = "decide which label is right, or drop these rows: no model can get both right"
        examples = sides.examples(other, holder)
        yield Finding("conflicting_labels", "warning", int(other.sum()), sentence, remedy, sides.shares(other), examples=examples)


def _balance(name: str, classes: IntArray, names: list[str], sides: Sides) -> Iterator[Finding]:
    parts = {split: np.bincount(classes[(sides.number == i) & (classes >= 0)], minlength=len(names)) for i, split in enumerate(sides.names)}
    shares = {split: counts / max(1, counts.sum()) for split, counts in parts.items() if counts.sum()}
    described = "; ".join(
        f"{split} {', '.join(f'{n} {percent(s)}' for n, s in zip(names, found, strict=True))}" for split, found in shares.items()
    )
    severity: Severity = "info"
    sentence = f"classes of '{name}': {described}"
    train = parts[sides.names[0]]
    for split in list(parts)[1:]:
        counts = parts[split]
        if counts.sum() < _FEW_ROWS or train.sum() < _FEW_ROWS:
            continue
        unseen = [n for n, here, there in zip(names, counts, train, strict=True) if here and not there]
        if unseen or (counts > 0).sum() == 1:
            severity = "warning"
            sentence += f"; {split} holds " + (f"classes that {sides.names[0]} lacks: {', '.join(unseen)}" if unseen else "one class only")
        elif np.abs(shares[split] - shares[sides.names[0]]).sum() / 2 > _BALANCE_SHIFT:
            severity = "warning"
            sentence += f"; {split} is balanced otherwise than {sides.names[0]}"
    remedy = "split so that every class is in every split (stratify)" if severity == "warning" else ""
    yield Finding("class_balance", severity, int((classes >= 0).sum()), sentence, remedy)


def _shortcuts(
    table: pl.DataFrame, name: str, classes: IntArray, encoded: Encoded, heads: IntArray, options: AuditOptions
) -> Iterator[Finding]:
    for column in _header_columns(table, options):
        headers = _without_row_numbers(table[column].cast(pl.String).fill_null("")).to_list()
        yield from _shortcut(
            "header", f"the column '{column}'", shortcuts.predict(shortcuts.header_features(headers), classes, False), name
        )
    unique = encoded.take(heads)  # a sequence that stands twice would be known from the other fold
    length = shortcuts.predict(shortcuts.length_features(unique), classes[heads], False)
    yield from _shortcut("length", "the length of the sequence", length, name)
    if options.modality != "text":
        letters = {"rna": "ACGU", "methylated_dna": "ACGTMW"}.get(options.modality, "ACGT")
        composition = shortcuts.predict(shortcuts.composition_features(unique, letters), classes[heads], True)
        yield from _shortcut("composition", "the composition of the sequence", composition, name)


def _shortcut(kind: str, what: str, found: shortcuts.Prediction | None, label: str) -> Iterator[Finding]:
    if found is None or found.low < _FAR_ABOVE_CHANCE[kind]:
        return
    severity: Severity = "leak" if kind != "composition" and found.low >= _NEAR_PERFECT else "warning"
    by = "" if kind == "length" else f", most by {found.by}"
    sentence = f"{what} alone predicts '{label}': AUROC {found.auroc:.3f} ({found.low:.3f}-{found.high:.3f}), chance 0.5{by}"
    remedy = {
        "header": "keep the column away from the model, and check that the classes do not come from different sources",
        "length": "cut or choose sequences so that the classes have the same lengths",
        "composition": "compare every model with a composition baseline",
    }[kind]
    measures: dict[str, float | str] = {"auroc": found.auroc, "low": found.low, "high": found.high, "chance": 0.5, "by": found.by}
    yield Finding(f"{kind}_predicts_label", severity, found.rows, sentence, remedy, measures=measures | {"label": label})


def label_columns(table: pl.DataFrame, options: AuditOptions) -> tuple[str, ...]:
    if options.labels is not None:
        return options.labels
    return tuple(name for name in table.columns if name == "label" or name.startswith("label_"))


def _header_columns(table: pl.DataFrame, options: AuditOptions) -> list[str]:
    """Columns that may tell the label without the sequence. Ids that spell out the window say no more than where it lies."""
    column = id_column(table, options)
    headers = [*([column] if column else []), *options.headers]
    if options.start_0based in table.columns and column is not None:
        start = pl.col(options.start_0based).cast(pl.String).fill_null("?")
        spelled = table.select(pl.col(ID).str.contains(start, literal=True)).to_series()
        if spelled.mean() > 0.9:  # type: ignore[operator]  # a table has rows
            headers.remove(column)
    return headers


def _without_row_numbers(headers: pl.Series) -> pl.Series:
    """Ids of the form <file>:<number>, each once, say the place in a file, which may be sorted: what is left of them is the file."""
    files = headers.str.extract(r"^(.*):\d+$")
    return headers if files.null_count() or headers.n_unique() < len(headers) else files


def _as_numbers(labels: pl.Series) -> pl.Series:
    """Text that is a number in every row as numbers, if there are too many to be classes: as a CSV file brings them."""
    numbers = labels.str.strip_chars().cast(pl.Float64, strict=False)
    is_class = numbers.null_count() > labels.null_count() or labels.n_unique() <= shortcuts.MOST_CLASSES
    return labels if is_class else numbers.fill_nan(None)
