"""Do the splits of a table leak into each other, or the labels into what stands beside the sequence?

`audit` looks and says what it found, `enforce` refuses a table whose findings exceed the declared tolerance. Nothing is changed.
A split leaks into those that come after it: train into validation and test, validation into test. Shares are of the rows of the later one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import polars as pl

from biollm.core.errors import DataError
from biollm.corpus import findings as look
from biollm.corpus.label_findings import find_in_label, label_columns
from biollm.corpus.options import AllowLeakage, AuditOptions
from biollm.corpus.sides import Finding, Sides, check_table, order_splits, read_sides
from biollm.corpus.similarity import Encoded, encode, identical_rows

__all__ = ["AllowLeakage", "Audit", "AuditOptions", "Finding", "audit", "enforce", "order_splits"]

Verdict = Literal["clean", "warnings", "leaks"]

EXAMPLE_SCHEMA = {
    "kind": pl.String,
    "id": pl.String,
    "split": pl.String,
    "other_id": pl.String,
    "other_split": pl.String,
    "similarity": pl.Float64,
}


@dataclass(frozen=True)
class Audit:
    """All findings, leaks first, with the number of rows of each split in the order in which they may leak."""

    rows: dict[str, int]
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> Verdict:
        severities = {finding.severity for finding in self.findings}
        return "leaks" if "leak" in severities else "warnings" if "warning" in severities else "clean"

    @property
    def examples(self) -> pl.DataFrame:
        """The pairs of rows behind the findings, up to ten each: kind, id, split, other_id, other_split, similarity (null = no number)."""
        rows = [(finding.kind, *example) for finding in self.findings for example in finding.examples]
        return pl.DataFrame(rows, schema=EXAMPLE_SCHEMA, orient="row").with_columns(pl.col("similarity").fill_nan(None))

    def to_facts(self) -> dict[str, Any]:
        """The audit as JSON: counts, shares and ids; no sequence, no label, no name of a group."""
        findings = [asdict(finding) for finding in self.findings]
        for facts in findings:
            facts["examples"] = [[*example[:4], None if np.isnan(example[4]) else example[4]] for example in facts["examples"]]
        return {"verdict": self.verdict, "rows": dict(self.rows), "findings": findings}


def audit(table: pl.DataFrame, options: AuditOptions) -> Audit:
    """Look for leaks between the splits of a table, and for labels that something else than the sequence tells.

    table: one row a sequence, columns as `options` name them; a column named there by hand must exist. null and blank: not known.
    The findings do not depend on the order of the rows if the ids differ. Memory: about 3 KB a row of 256 residues.
    Raises DataError for a missing column, a letter that the modality does not have (with id and position), a window that ends before it
    starts, an empty table, splits of which none is for training.
    """
    table = check_table(table, options)
    sides = read_sides(table, options)
    encoded = encode(table[options.sequence], options.modality)
    findings = [finding for finding in _findings(table, encoded, sides, options) if finding.count]
    rank = {"leak": 0, "warning": 1, "info": 2}
    rows = {name: int((sides.number == i).sum()) for i, name in enumerate(sides.names)}
    return Audit(rows, tuple(sorted(findings, key=lambda finding: rank[finding.severity])))


def enforce(found: Audit, options: AuditOptions) -> None:
    """Raise DataError if the audit found leaks and the options do not allow them. It names each, an example, the remedy, the way on."""
    leaks = [finding for finding in found.findings if finding.severity == "leak"]
    if not leaks or options.leakage != "refuse":
        return
    lines = ["the splits leak, so scores on them would be too good:"]
    for finding in leaks:
        pair = next((f" (for example {one} and {other})" for one, _, other, _, _ in finding.examples), "")
        lines.append(f"  {finding.sentence}{pair}; {finding.remedy}")
    lines.append('Mend the splits; or, if this is meant, say why: leakage: {allow: "<the reason>"}; the reason goes into the report')
    raise DataError("\n".join(lines))


def _findings(table: pl.DataFrame, encoded: Encoded, sides: Sides, options: AuditOptions) -> Iterator[Finding]:
    same, either = identical_rows(encoded, strands=False), identical_rows(encoded)
    yield from look.find_empty(encoded, sides)
    yield from look.find_duplicates(same, either, sides, options)
    copied = look.is_copied(either, sides)
    yield from look.find_near_copies(encoded, either, copied, sides, options)
    yield from look.find_stretches(encoded, copied, sides, options)
    yield from look.find_windows(table, sides, options)
    yield from look.find_groups(table, sides, options)
    yield from look.find_repeats(either, sides)
    yield from look.find_shared_ids(table, sides, options)
    heads = np.flatnonzero(either == np.arange(len(either)))
    for name in label_columns(table, options):
        yield from find_in_label(table, name, encoded, same, heads, sides, options)
