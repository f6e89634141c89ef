"""What the audit looks for between and within splits: copies, near copies, overlaps, groups, ids."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from biollm.corpus.options import AuditOptions
from biollm.corpus.sides import BoolArray, Finding, Severity, Sides, blank_is_null, id_column, percent
from biollm.corpus.similarity import PLANS, Encoded, IntArray, near_pairs, shared_stretch


def find_empty(encoded: Encoded, sides: Sides) -> Iterator[Finding]:
    empty = np.ones(len(encoded), dtype=bool)
    long = np.flatnonzero(encoded.offsets[1:] > encoded.offsets[:-1])
    if len(long):
        empty[long] = ~np.logical_or.reduceat(encoded.symbols != encoded.unknown, encoded.offsets[long])
    if empty.any():
        sentence = f"{int(empty.sum()):,} of {len(empty):,} rows have no sequence (blank, or nothing but unknown residues)"
        yield Finding("empty_sequences", "warning", int(empty.sum()), sentence, "drop them", sides.shares(empty))


def _across(kind: str, what: str, remedy: str, tolerance: float, sides: Sides, touched: BoolArray, **more: Any) -> Finding:
    """A finding of rows that another split gives away. Beyond the tolerance, on any split, a leak; else a warning."""
    shares = sides.shares(touched)
    severity: Severity = "leak" if any(share > tolerance for share in shares.values()) else "warning"
    sentence = f"{sides.most(touched)} {what}" + (f", within the tolerance of {percent(tolerance)}" if severity == "warning" else "")
    return Finding(kind, severity, int(touched.sum()), sentence, remedy, shares, tolerance, **more)


def _first_holder(keys: IntArray, sides: Sides) -> IntArray:
    """For each row, the first row of the earliest split that has the same key (a row number below the number of rows)."""
    order = np.lexsort((np.arange(len(keys)), sides.number))
    first = np.full(len(keys), -1, dtype=np.int64)
    first[keys[order[::-1]]] = order[::-1]  # the last to write is the first in order
    return first[keys]


def is_copied(either: IntArray, sides: Sides) -> BoolArray:
    """Whether each row equals a row of an earlier split, on either strand."""
    return sides.number[_first_holder(either, sides)] < sides.number


def find_duplicates(same: IntArray, either: IntArray, sides: Sides, options: AuditOptions) -> Iterator[Finding]:
    remedy = "drop the copies from one side, or split so that equal sequences stay together"
    equal, turned = _first_holder(same, sides), _first_holder(either, sides)
    exact = sides.number[equal] < sides.number
    for kind, touched, holder, what in (
        ("exact_duplicates", exact, equal, "are equal to a row of an earlier split"),
        ("reverse_complements", is_copied(either, sides) & ~exact, turned, "are the reverse complement of a row of an earlier split"),
    ):
        if touched.any():
            yield _across(kind, what, remedy, options.duplicates_tolerance, sides, touched, examples=sides.examples(touched, holder))


def find_near_copies(encoded: Encoded, either: IntArray, copied: BoolArray, sides: Sides, options: AuditOptions) -> Iterator[Finding]:
    """Rows with a near copy in an earlier split, without those that are equal to one. One row stands for its copies in the same split."""
    if len(sides.names) < 2:
        return
    cells, head, cell = np.unique(either * len(sides.names) + sides.number, return_index=True, return_inverse=True)
    order = np.argsort(head)  # rows in table order, so that examples are the first ones
    pairs = near_pairs(encoded.take(head[order]), options.near_similarity, sides.number[head[order]])
    best, partner = np.zeros(len(cells)), np.full(len(cells), -1, dtype=np.int64)
    first, second = order[pairs.first], order[pairs.second]
    later = np.where(sides.number[head[first]] > sides.number[head[second]], first, second)
    earlier = np.where(later == first, second, first)
    ranked = np.lexsort((-head[earlier], pairs.similarity))
    best[later[ranked]], partner[later[ranked]] = pairs.similarity[ranked], head[earlier[ranked]]  # the last to write is the most alike
    touched = (partner[cell] >= 0) & ~copied
    if not touched.any():
        return
    plan = PLANS[options.modality]
    unit = "word" if options.modality == "text" else "residue"
    what = f"have a near copy in an earlier split (at least {options.near_similarity:g} of the {plan.short}-{unit} pieces are shared)"
    remedy = "split by cluster of similar sequences, or drop the near copies from one side"
    found = _across(
        "near_copies", what, remedy, options.near_tolerance, sides, touched, examples=sides.examples(touched, partner[cell], best[cell])
    )
    if options.modality == "smiles" and found.severity == "leak":
        # Two spellings may share most of their letters and be other molecules, as the chlorobiphenyls of ESOL; so this alone is no proof.
        sentence = f"{found.sentence}; spelling is not structure, so this is no proof"
        found = replace(found, severity="warning", sentence=sentence, remedy="split by scaffold")
    yield found


def find_stretches(encoded: Encoded, copied: BoolArray, sides: Sides, options: AuditOptions) -> Iterator[Finding]:
    plan = PLANS[options.modality]
    touched, partner, share = np.zeros(len(copied), dtype=bool), np.full(len(copied), -1, dtype=np.int64), np.zeros(len(copied))
    for number in sides.evaluation:
        asked, others = np.flatnonzero((sides.number == number) & ~copied), np.flatnonzero(sides.number < number)
        found = shared_stretch(encoded, asked, others, plan)
        share[asked], partner[asked] = found.share, found.partner
        touched[asked] = found.share >= plan.stretch
    if touched.any():
        unit = "words" if options.modality == "text" else "residues"
        what = f"hold stretches of {plan.long} or more {unit} of earlier splits ({percent(plan.stretch)} of the row or more)"
        remedy = "split by cluster of similar sequences or by chromosome, and keep homologous species, isoforms and repeats in one split"
        examples = sides.examples(touched, partner, share)
        yield _across("shared_stretches", what, remedy, options.stretch_tolerance, sides, touched, examples=examples)


def find_windows(table: pl.DataFrame, sides: Sides, options: AuditOptions) -> Iterator[Finding]:
    columns = [options.contig, options.start_0based, options.end]
    if any(name not in table.columns for name in columns):
        return
    known = table.select(pl.all_horizontal(pl.col(columns).is_not_null())).to_series().to_numpy()
    names = [options.contig] + (["source"] if "source" in table.columns else [])
    contig = table.select(pl.struct(names).rank("dense")).to_series().to_numpy().astype(np.int64)
    start, end = (table[name].fill_null(0).to_numpy().astype(np.int64) for name in columns[1:])
    # All contigs on one axis, further apart than any gap that is asked about.
    shift = contig * (int(end.max()) + options.gap_bases + 2)
    remedy = "split by whole blocks of a contig, with a gap between blocks of different splits"
    apart, partner = _distance(start + shift, end + shift, known, sides)
    overlapping = apart < 0
    if overlapping.any():
        examples = sides.examples(overlapping, partner)
        what = "overlap a window of an earlier split"
        yield _across("overlapping_windows", what, remedy, options.overlap_tolerance, sides, overlapping, examples=examples)
    beside = (apart >= 0) & (apart <= options.gap_bases)
    if beside.any():
        examples = sides.examples(beside, partner)
        sentence = f"{sides.most(beside)} lie beside a window of an earlier split (no more than {options.gap_bases:,} bases between them)"
        yield Finding("adjacent_windows", "warning", int(beside.sum()), sentence, remedy, sides.shares(beside), examples=examples)


def _distance(start: IntArray, end: IntArray, known: BoolArray, sides: Sides) -> tuple[IntArray, IntArray]:
    """Bases between each window and the nearest one of an earlier split (-1 = they overlap), and which that is."""
    far = np.iinfo(np.int64).max
    apart, partner = np.full(len(start), far, dtype=np.int64), np.full(len(start), -1, dtype=np.int64)
    for number in sides.evaluation:
        asked, others = np.flatnonzero(known & (sides.number == number)), np.flatnonzero(known & (sides.number < number))
        if not len(others):
            continue
        others = others[np.argsort(start[others], kind="stable")]
        reach = np.maximum.accumulate(end[others])  # how far the windows up to here reach, and which of them
        furthest = np.maximum.accumulate(np.where(end[others] == reach, np.arange(len(others)), 0))
        before = np.searchsorted(start[others], end[asked], side="left") - 1  # the last that starts before this one ends
        left, right = np.maximum(before, 0), np.minimum(before + 1, len(others) - 1)
        to_left = np.where(before >= 0, start[asked] - reach[left], far)
        to_right = np.where(before + 1 < len(others), start[others[right]] - end[asked], far)
        apart[asked] = np.maximum(np.minimum(to_left, to_right), -1)
        partner[asked] = others[np.where(to_left <= to_right, furthest[left], right)]
    return apart, partner


def find_groups(table: pl.DataFrame, sides: Sides, options: AuditOptions) -> Iterator[Finding]:
    columns = options.groups if options.groups is not None else tuple(name for name in ("group",) if name in table.columns)
    for name in columns:
        values = blank_is_null(table[name])
        keys = values.rank("dense").fill_null(0).to_numpy().astype(np.int64)
        known = keys > 0
        keys = np.where(known, keys - 1, 0)
        holder = np.arange(len(keys))
        inside = np.flatnonzero(known)
        if not len(inside):
            continue
        part = Sides([], sides.number[inside], sides.names)
        holder[inside] = inside[_first_holder(keys[inside], part)]
        touched = sides.number[holder] < sides.number
        if touched.any():
            groups = int(values.filter(pl.Series(touched)).n_unique())
            what = f"are of a {name} that an earlier split holds too ({groups:,} of them)"
            remedy = f"split by '{name}': all rows of one in the same split"
            examples = sides.examples(touched, holder)
            more: dict[str, Any] = {"examples": examples, "measures": {"column": name, "groups": float(groups)}}
            yield _across("group_in_two_splits", what, remedy, options.groups_tolerance, sides, touched, **more)


def find_repeats(either: IntArray, sides: Sides) -> Iterator[Finding]:
    repeated = np.zeros(len(either), dtype=bool)
    for number in range(len(sides.names)):
        rows = np.flatnonzero(sides.number == number)
        _, first = np.unique(either[rows], return_index=True)
        again = np.ones(len(rows), dtype=bool)
        again[first] = False
        repeated[rows] = again
    if repeated.any():
        parts = [
            f"{int(repeated[inside].sum()):,} of {int(inside.sum()):,} {name} rows"
            for i, name in enumerate(sides.names)
            if repeated[inside := sides.number == i].any()
        ]
        unique = len(repeated) - int(repeated.sum())
        sentence = f"{' and '.join(parts)} repeat a row of their own split" + (f" ({unique:,} unique)" if len(sides.names) == 1 else "")
        remedy = "keep one of each if rows should count once; repeats in a test split make its scores look surer than they are"
        yield Finding("duplicates_within_split", "info", int(repeated.sum()), sentence, remedy, sides.shares(repeated))


def find_shared_ids(table: pl.DataFrame, sides: Sides, options: AuditOptions) -> Iterator[Finding]:
    column = id_column(table, options)
    if column is None:
        return
    keys = pl.Series(sides.ids).rank("dense").to_numpy().astype(np.int64) - 1
    holder = _first_holder(keys, sides)
    touched = sides.number[holder] < sides.number
    if touched.any():
        sentence = f"{sides.most(touched)} have an id that an earlier split holds too"
        remedy = "if an id means one molecule, read or person, split by it (give the column as a group); else number the rows through"
        examples = sides.examples(touched, holder)
        yield Finding("id_in_two_splits", "warning", int(touched.sum()), sentence, remedy, sides.shares(touched), examples=examples)
