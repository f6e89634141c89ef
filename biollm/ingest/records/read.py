"""Files whose records are examples into one table: checked, with unique ids, and with what was left out and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from biollm.core.alphabets import Modality
from biollm.core.errors import DataError, listed, repeated
from biollm.ingest.records import columns
from biollm.ingest.records.clean import ALTERED, INVALID, Cleaner, cleaner_of
from biollm.ingest.records.config import FormatName, RecordOptions
from biollm.ingest.records.formats import FORMATS, Format, find_format
from biollm.ingest.records.source import Record, Source, open_source
from biollm.ingest.records.tables import find_separator, matching

At = Callable[[str], DataError]  # a message -> the error that says it of the record at hand
_BATCH_ROWS = 1 << 16
_TELLING_RESIDUES = 200  # fewer may be ACGTN by chance, or by design
# Columns that hold the sequence where the options name none, by modality; the case of letters does not count.
_SEQUENCE_COLUMNS = {
    "dna": ("sequence", "seq", "dna"),
    "methylated_dna": ("sequence", "seq", "dna"),
    "rna": ("sequence", "seq", "rna"),
    "protein": ("sequence", "seq", "peptide", "protein"),
    "smiles": ("smiles", "canonical_smiles"),
    "text": ("text", "sentence", "abstract", "sequence"),
}


@dataclass(frozen=True)
class RecordTable:
    """The records of some files.

    frame: id, sequence, and where asked for label_<name>, group, split, covariate_<name>; `messages` (chat) and `tags` (IOB) as JSON.
    counts: how many were read and kept, how many were dropped for each reason, how many lack each label, how many letters were altered.
    dropped: id, file, where ("line 7"), reason; a row for each record that was dropped.
    facts: file -> what was found out about it: its format, its separator.
    """

    frame: pl.DataFrame
    counts: dict[str, int]
    dropped: pl.DataFrame
    facts: dict[str, str]


@dataclass
class _Part:
    """The records of one file, in text, before what needs a look at all files."""

    name: str
    stem: str
    form: Format
    frame: pl.DataFrame
    dropped: list[tuple[str | None, int, str]] = field(default_factory=list)
    altered: int = 0


def read_records(files: Sequence[Path], options: RecordOptions, modality: Modality) -> RecordTable:
    """The records of some files, cleaned for a modality: each file in its order, the files by their first ids, in any order given.

    The id comes from `options.id`, else from the header, accession or key of the record, else it is <file>:<line, row or record>; <file>
    has as many folders before it as tell the files apart. Labels and covariates are whole numbers, numbers or text; null is missing.
    Blank sequences and invalid SMILES are dropped and counted; all else that is wrong raises DataError with file, place and remedy.
    Raises ResourceError for a missing package (SMILES: rdkit; .h5ad: anndata).
    """
    if not files:
        raise DataError("no file of records was given; name at least one")
    if twice := repeated(map(str, files)):
        raise DataError(f"{twice[0]}: listed twice; name each file once")
    clean = cleaner_of(modality, options.smiles)
    parts, facts = [], {}
    for file in files:
        with open_source(file, options.archive) as source:
            name = find_format(source, options, modality)
            parts.append(_read_part(source, name, options, modality, clean))
            facts[source.shown] = _describe(source, name, options)
    return _join(parts, options, modality, facts)


def _describe(source: Source, name: FormatName, options: RecordOptions) -> str:
    return f"table, {find_separator(source, options)}-separated" if name == "table" else name


def _read_part(source: Source, name: FormatName, options: RecordOptions, modality: Modality, clean: Cleaner) -> _Part:
    form, wanted = FORMATS[name], options.columns()
    schema = {"number": pl.Int64, "id": pl.String, "sequence": pl.String} | dict.fromkeys((*wanted, *form.extra), pl.String)
    part = _Part(source.shown, source.stem, form, pl.DataFrame(schema=schema))
    batches, rows, seen = [part.frame], list[tuple[Any, ...]](), dict[str, None]()
    read, number, begun = 0, 0, False

    def at(message: str) -> DataError:
        return source.error(message, number, form.unit)

    for record in form.load()(source, options):
        read, number = read + 1, record.number
        if record.drop:
            part.dropped.append((record.id, number, record.drop))
            continue
        if not begun:
            begun, seen = True, dict.fromkeys(record.fields)
            parts = _sequence_columns(record, form, options, modality, at)
            if form.fixed:
                _refuse_missing_columns([*wanted.items()], seen, form, at)
        elif not form.fixed:
            seen |= dict.fromkeys(record.fields)
        values = {target: columns.as_text(record.fields.get(column), column, at) for target, column in wanted.items()}
        values["id"] = identity = values.get("id", record.id)
        cleaned = clean((record.sequence if parts is None else _joined(record, parts, modality, at)) or "")
        if cleaned.wrong:
            raise at(f"record '{identity}' {cleaned.wrong}" if identity else cleaned.wrong)
        if cleaned.drop:
            part.dropped.append((identity, number, cleaned.drop))
            continue
        part.altered += cleaned.altered
        held = {"number": number, "sequence": cleaned.sequence} | values | {extra: record.fields.get(extra) for extra in form.extra}
        rows.append(tuple(held[column] for column in schema))
        if len(rows) >= _BATCH_ROWS:
            batches.append(pl.DataFrame(rows, schema=schema, orient="row"))
            rows = []
    number = max(number, 1)
    if read == 0:
        raise at(f"the file holds no record of the format {name} (a header and nothing more?); fetch or export it again")
    if begun and not form.fixed:  # only the last record tells that none has the column
        _refuse_missing_columns([*wanted.items(), *(("sequence", column) for column in parts or [])], seen, form, at)
    _refuse_many_invalid(source, part, read, options.smiles.max_invalid_fraction)
    batches.append(pl.DataFrame(rows, schema=schema, orient="row"))
    part.frame = pl.concat(batches)
    if modality == "protein":
        _refuse_nucleotides(source, part)
    return part


def _refuse_nucleotides(source: Source, part: _Part) -> None:
    """The letters of DNA and RNA are amino acids too; but of real proteins, one in four residues is of them, and not all."""
    sequences = part.frame["sequence"]
    residues = int(sequences.str.len_bytes().sum())
    if residues < _TELLING_RESIDUES or sequences.str.contains("[^ACGTUN]").any():
        return
    if sum(sequences.str.contains(letter).any() for letter in "ACGTU") >= 3:  # not a repeat such as poly-A
        raise source.error(
            f"its {residues:,} letters are all of ACGTUN, so these are nucleotides; ingest.modality is protein: set it to dna or rna, or "
            "give the translated sequences",
            int(part.frame["number"][0]),
            part.form.unit,
        )


def _refuse_many_invalid(source: Source, part: _Part, read: int, most: float) -> None:
    invalid = [(number, reason) for _, number, reason in part.dropped if reason.startswith(INVALID)]
    if len(invalid) > most * read:
        number, reason = invalid[0]
        raise source.error(
            f"{reason}; {len(invalid)} of {read} records of the file are invalid SMILES, more than smiles.max_invalid_fraction = {most:g}: "
            "is it the right column? Mend the file, or raise the limit",
            number,
            part.form.unit,
        )


def _sequence_columns(first: Record, form: Format, options: RecordOptions, modality: Modality, at: At) -> list[str] | None:
    """The columns that the sequence is taken from, in order; None where the reader gives it itself."""
    if options.sequence is None and first.sequence is not None:
        return None
    names = list(first.fields)
    if options.sequence is None:
        known = _SEQUENCE_COLUMNS[modality]
        found = [name for name in names if name.lower() in known]
        if len(found) != 1:
            which = f"several columns may hold the sequence ({listed(found)})" if found else f"no column is called {' or '.join(known)}"
            raise at(f"{which}; say which as sequence: {_there_are(names, form)}")
        return found
    chosen: list[str] = []
    for pattern in [options.sequence] if isinstance(options.sequence, str) else options.sequence:
        late = [] if form.fixed or "*" in pattern else [pattern]  # a later record may have it
        if not (found := matching(pattern, names) or late):
            raise at(f"no column '{pattern}' (sequence); {_there_are(names, form)}")
        chosen += found
    return chosen


def _joined(record: Record, parts: list[str], modality: Modality, at: At) -> str | None:
    """The sequence from its columns. Residues need all of them; a text does without those that are blank."""
    values = [columns.as_text(record.fields.get(name), name, at, lists=True) for name in parts]
    present = [value for value in values if value]
    return "\n".join(present) if modality == "text" else "".join(present) if len(present) == len(values) else None


def _refuse_missing_columns(wanted: list[tuple[str, str]], seen: dict[str, None], form: Format, at: At) -> None:
    for target, column in wanted:
        if column not in seen:
            raise at(f"no column '{column}' ({target.replace('_', ' ', 1)}); {_there_are(list(seen), form)}")


def _there_are(names: list[str], form: Format) -> str:
    if not names:
        return "records of this format have no columns: leave the setting out"
    headless = " (if the first line is a record, set table.header: false)" if form.reader == "tables.read_table" else ""
    return f"the columns are {listed(names)}: write one of them{headless}"


def _in_order(parts: list[_Part]) -> tuple[list[_Part], list[str]]:
    """The files in the order of the ids of their first records, and what each is called in ids."""

    def first_id(named: tuple[_Part, str]) -> str:
        part, name = named
        return next((identity or f"{name}:{number}" for identity, number in part.frame.select("id", "number").head(1).iter_rows()), name)

    ordered = sorted(zip(parts, _short_names([part.stem for part in parts]), strict=True), key=first_id)
    return [part for part, _ in ordered], [name for _, name in ordered]


def _join(parts: list[_Part], options: RecordOptions, modality: Modality, facts: dict[str, str]) -> RecordTable:
    parts, names = _in_order(parts)
    frame = pl.concat([part.frame.with_columns(pl.lit(i, pl.Int32).alias("part")) for i, part in enumerate(parts)], how="diagonal")
    read = frame.height + sum(len(part.dropped) for part in parts)
    dropped = pl.DataFrame(
        [
            (f"{name}:{number}" if identity is None else identity, part.name, f"{part.form.unit} {number}", reason)
            for part, name in zip(parts, names, strict=True)
            for identity, number, reason in part.dropped
        ],
        schema={"id": pl.String, "file": pl.String, "where": pl.String, "reason": pl.String},
        orient="row",
    )
    reasons = Counter(reason.partition(":")[0] for reason in dropped["reason"])
    counts = {"read": read, "kept": frame.height} | {f"dropped, {reason}": number for reason, number in sorted(reasons.items())}
    if altered := sum(part.altered for part in parts):
        counts[ALTERED[modality]] = altered
    if frame.height == 0:
        why = ", ".join(f"{number} {reason}" for reason, number in reasons.items())
        raise DataError(
            f"{parts[0].name} {dropped['where'][0]}: none of {read} records is left ({why}); mend the files or choose other columns"
        )

    def place(row: int) -> str:
        part = parts[frame["part"][row]]
        return f"{part.name} {part.form.unit} {frame['number'][row]}"

    frame = columns.with_ids(frame, names, options.id, place)
    for name, column in options.labels.items():
        frame = columns.with_values(frame, f"label_{name}", column, options.missing, place, strict=True)
        if missing := frame[f"label_{name}"].null_count():
            counts[f"missing, label_{name}"] = missing
    for name, column in options.covariates.items():
        frame = columns.with_values(frame, f"covariate_{name}", column, options.missing, place, strict=False)
    if options.group:
        frame = columns.with_missing(frame, "group", options.missing)
        if missing := frame["group"].null_count():
            counts["missing, group"] = missing
    if options.split_from_name:
        frame = columns.with_splits_of_files(frame, [part.name for part in parts], [Path(part.stem).name for part in parts])
    elif options.split:
        frame = columns.with_splits(frame, options, place)
    labels = [f"label_{name}" for name in options.labels]
    rest = [name for name in ("group", "split") if name in frame.columns] + [f"covariate_{name}" for name in options.covariates]
    extra = [name for name in ("messages", "tags") if name in frame.columns and frame[name].null_count() < frame.height]
    return RecordTable(frame.select("id", "sequence", *labels, *rest, *extra), counts, dropped, facts)


def _short_names(stems: list[str]) -> list[str]:
    """The last part of each path, with as many folders before it as tell them apart.

    >>> _short_names(["gue/mouse/train", "gue/human/train", "x/test"])
    ['mouse/train', 'human/train', 'x/test']
    """
    paths = [Path(stem).parts for stem in stems]
    for depth in range(1, max(map(len, paths)) + 1):
        names = ["/".join(path[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [f"{stem}-{number}" for number, stem in enumerate(stems, start=1)]  # x.csv and x.tsv in one folder
