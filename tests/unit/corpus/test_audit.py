"""What the audit says of small tables made by hand, and how it is enforced."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from biollm.cli import app
from biollm.core.errors import DataError
from biollm.corpus.audit import AllowLeakage, Audit, AuditOptions, Finding, audit, enforce, order_splits
from biollm.corpus.audit_table import render_audit

TRAIN, VALIDATION, TEST = 120, 40, 40
ROWS = TRAIN + VALIDATION + TEST


def table(seed: int = 0, **columns: Any) -> pl.DataFrame:
    """A clean table of 200 random windows with balanced random labels, and further columns."""
    rng = np.random.default_rng(seed)
    own = {
        "id": [f"{rng.choice(list('abcdefgh'))}{rng.integers(10**9)}" for _ in range(ROWS)],
        "sequence": ["".join(rng.choice(list("ACGT"), 100)) for _ in range(ROWS)],
        "split": ["train"] * TRAIN + ["validation"] * VALIDATION + ["test"] * TEST,
    }
    return pl.DataFrame(own | columns)


def put(values: list[Any], **rows: Any) -> list[Any]:
    """The list with some values replaced: put(values, r5="x")."""
    changed = list(values)
    for row, value in rows.items():
        changed[int(row[1:])] = value
    return changed


def of_kind(found: Audit, kind: str) -> Finding:
    return next(finding for finding in found.findings if finding.kind == kind)


def copied(rows: int) -> pl.DataFrame:
    """The clean table with that many test rows copied from train."""
    clean = table()
    sequences = clean["sequence"].to_list()
    sequences[-rows:] = sequences[:rows]
    return clean.with_columns(sequence=pl.Series(sequences))


def test_a_clean_table_has_no_finding() -> None:
    found = audit(table(), AuditOptions())
    assert found.verdict == "clean"
    assert found.findings == ()
    assert found.rows == {"train": TRAIN, "validation": VALIDATION, "test": TEST}


def test_a_finding_counts_rows_shares_and_names_both_sides() -> None:
    rows = copied(3)
    found = audit(rows, AuditOptions())
    finding = of_kind(found, "exact_duplicates")
    assert (finding.severity, finding.count, finding.shares) == ("leak", 3, {"validation": 0.0, "test": 3 / TEST})
    assert finding.sentence == "3 of 40 test rows (7.5 %) are equal to a row of an earlier split"
    ids = rows["id"].to_list()
    assert {(one, other) for one, _, other, _, _ in finding.examples} == {(ids[ROWS - 3 + i], ids[i]) for i in range(3)}
    assert found.examples.columns == ["kind", "id", "split", "other_id", "other_split", "similarity"]


def test_no_more_than_ten_examples_are_given() -> None:
    assert len(of_kind(audit(copied(30), AuditOptions()), "exact_duplicates").examples) == 10


def test_the_findings_do_not_depend_on_the_order_of_the_rows() -> None:
    rng = np.random.default_rng(1)
    rows = copied(12).with_columns(
        label=pl.Series(rng.integers(0, 2, ROWS)), group=pl.Series([f"g{i % 150}" for i in range(ROWS)]), contig=pl.lit("c"),
        start_0based=pl.Series(rng.integers(0, 20_000, ROWS)),
    ).with_columns(end=pl.col("start_0based") + 100)  # fmt: skip
    facts = [audit(rows.sample(fraction=1, shuffle=True, seed=seed), AuditOptions()).to_facts() for seed in range(3)]
    assert facts[0] == facts[1] == facts[2]
    assert len(facts[0]["findings"]) >= 4


def test_within_the_tolerance_a_leak_is_a_warning() -> None:
    found = audit(copied(2), AuditOptions(duplicates_tolerance=0.05))
    finding = of_kind(found, "exact_duplicates")
    assert (finding.severity, finding.tolerance) == ("warning", 0.05)
    assert finding.sentence.endswith("within the tolerance of 5 %")
    assert found.verdict == "warnings"
    assert audit(copied(3), AuditOptions(duplicates_tolerance=0.05)).verdict == "leaks"


def test_enforce_names_finding_example_remedy_and_the_way_on() -> None:
    rows = copied(1)
    found = audit(rows, AuditOptions())
    with pytest.raises(DataError) as raised:
        enforce(found, AuditOptions())
    message = str(raised.value)
    assert "1 of 40 test rows (2.5 %) are equal to a row of an earlier split" in message
    assert f"(for example {rows['id'][-1]} and {rows['id'][0]})" in message
    assert "drop the copies from one side" in message
    assert 'leakage: {allow: "<the reason>"}' in message


def test_enforce_lets_pass_what_is_allowed_with_a_reason_and_what_does_not_leak() -> None:
    enforce(audit(copied(1), AuditOptions()), AuditOptions(leakage=AllowLeakage(allow="replicates on purpose")))
    enforce(audit(table(), AuditOptions()), AuditOptions())
    with pytest.raises(ValidationError):
        AuditOptions.model_validate({"leakage": {"allow": ""}})
    with pytest.raises(ValidationError):
        AuditOptions.model_validate({"leakage": "allow"})


def test_facts_are_json_without_sequences_and_names_of_groups() -> None:
    rows = copied(3).with_columns(group=pl.Series(["patient Doe"] * 3 + [f"p{i}" for i in range(ROWS - 6)] + ["patient Doe"] * 3))
    found = audit(rows, AuditOptions())
    text = json.dumps(found.to_facts(), allow_nan=False)
    assert found.verdict == "leaks"
    assert not any(sequence in text for sequence in rows["sequence"])
    assert "Doe" not in text


def test_groups_that_are_not_known_are_in_no_split() -> None:
    values = [None, "", " "] * 66 + [None, None]
    assert audit(table(group=values), AuditOptions()).verdict == "clean"
    found = audit(table(donor=["d"] * ROWS, lab=put(list(range(ROWS)), r199=0)), AuditOptions(groups=("donor", "lab")))
    assert [(f.count, f.measures["column"]) for f in found.findings] == [(80, "donor"), (1, "lab")]


@pytest.mark.parametrize(
    ("start", "end", "kind"),
    [
        (99, 110, "overlapping_windows"),
        (100, 110, "adjacent_windows"),
        (109, 111, "adjacent_windows"),
        (110, 120, None),
        (0, 0, "adjacent_windows"),
        (40, 40, "overlapping_windows"),
    ],
)
def test_windows_overlap_from_one_base_and_neighbour_within_the_gap(start: int, end: int, kind: str | None) -> None:
    starts, ends = [10_000 * i for i in range(ROWS)], [10_000 * i + 100 for i in range(ROWS)]
    rows = table(contig=["c"] * ROWS, start_0based=put(starts, r199=start), end=put(ends, r199=end))
    found = audit(rows, AuditOptions(gap_bases=9))
    assert [finding.kind for finding in found.findings] == ([kind] if kind else [])
    if kind:
        one, split, other, other_split, _ = found.findings[0].examples[0]
        assert (one, split, other, other_split) == (rows["id"][199], "test", rows["id"][0], "train")


def test_a_long_window_far_to_the_left_still_overlaps() -> None:
    starts = [0, 5, *[10_000 * i for i in range(2, ROWS - 1)], 9000]
    rows = table(contig=["c"] * ROWS, start_0based=starts, end=put([s + 50 for s in starts], r0=9500))
    assert of_kind(audit(rows, AuditOptions()), "overlapping_windows").examples[0][2] == rows["id"][0]


def test_windows_of_two_contigs_or_two_sources_are_apart() -> None:
    starts, ends = [0] * ROWS, [100] * ROWS
    contigs = [f"c{i}" for i in range(ROWS)]
    assert audit(table(contig=contigs, start_0based=starts, end=ends), AuditOptions()).verdict == "clean"
    assert audit(table(contig=["c"] * ROWS, source=contigs, start_0based=starts, end=ends), AuditOptions()).verdict == "clean"
    assert audit(table(contig=[None] * ROWS, start_0based=starts, end=ends), AuditOptions()).verdict == "clean"


def test_overlaps_are_those_of_a_plain_double_loop() -> None:
    rng = np.random.default_rng(2)
    start = rng.integers(0, 3000, ROWS)
    end = start + rng.integers(1, 60, ROWS)
    contig = rng.integers(0, 3, ROWS)
    rows = table(contig=[f"c{c}" for c in contig], start_0based=start, end=end)
    part = np.repeat([0, 1, 2], [TRAIN, VALIDATION, TEST])
    wanted = {
        rows["id"][i]
        for i in range(ROWS)
        for j in range(ROWS)
        if part[j] < part[i] and contig[i] == contig[j] and start[i] < end[j] and start[j] < end[i]
    }
    assert 10 < len(wanted) < 80
    assert of_kind(audit(rows, AuditOptions()), "overlapping_windows").count == len(wanted)


def test_conflicting_labels_of_equal_sequences_are_told() -> None:
    rows = copied(2).with_columns(label_x=pl.Series([i % 2 for i in range(ROWS)]))  # rows 0 and 198 agree, 1 and 199 too
    assert "conflicting_labels" not in {finding.kind for finding in audit(rows, AuditOptions()).findings}
    changed = rows.with_columns(label_x=pl.Series(put(rows["label_x"].to_list(), r199=0)))
    assert (
        of_kind(audit(changed, AuditOptions()), "conflicting_labels").sentence
        == "1 sequences stand more than once with different 'label_x'"
    )


def test_missing_labels_are_counted_and_a_split_without_any_is_a_warning() -> None:
    found = of_kind(audit(table(label=[None, "", "a", "b"] * 50), AuditOptions()), "missing_labels")
    assert (found.severity, found.sentence) == ("info", "100 of 200 rows have no 'label'")
    bare = of_kind(audit(table(label=["a", "b"] * 80 + [None] * TEST), AuditOptions()), "missing_labels")
    assert (bare.severity, bare.sentence) == ("warning", "40 of 200 rows have no 'label'; the whole test split is without")


def test_labels_of_every_type_are_read() -> None:
    for values in (
        [True, False] * 100,
        ["a", "b"] * 100,
        [0, 1] * 100,
        [0.0, float("nan")] * 100,
        [{"a": 1}] * ROWS,
        [i / 7 for i in range(ROWS)],
    ):
        assert audit(table(label=values), AuditOptions()).verdict in ("clean", "warnings")


def test_class_balance_is_told_and_a_missing_class_is_a_warning() -> None:
    even = of_kind(audit(table(label=["a", "b"] * 100), AuditOptions()), "class_balance")
    assert (even.severity, even.sentence) == (
        "info",
        "classes of 'label': train a 50 %, b 50 %; validation a 50 %, b 50 %; test a 50 %, b 50 %",
    )
    unseen = of_kind(audit(table(label=["a", "b"] * 80 + ["a", "c"] * 20), AuditOptions()), "class_balance")
    assert unseen.severity == "warning"
    assert "test holds classes that train lacks: c" in unseen.sentence
    single = of_kind(audit(table(label=["a", "b"] * 80 + ["a"] * 40), AuditOptions()), "class_balance")
    assert "test holds one class only" in single.sentence
    shifted = of_kind(audit(table(label=["a", "b"] * 80 + ["a"] * 35 + ["b"] * 5), AuditOptions()), "class_balance")
    assert "test is balanced otherwise than train" in shifted.sentence


def test_composition_that_tells_the_label_is_a_warning_and_says_what() -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, ROWS)
    sequences = ["".join(rng.choice(list("ACGT"), 100, p=[0.15, 0.35, 0.35, 0.15] if label else [0.25] * 4)) for label in labels]
    found = audit(table(label=labels).with_columns(sequence=pl.Series(sequences)), AuditOptions())
    finding = of_kind(found, "composition_predicts_label")
    assert finding.severity == "warning"
    assert float(finding.measures["low"]) > 0.9
    assert str(finding.measures["by"]).startswith("the share of ")


def test_random_labels_are_told_by_nothing() -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        rows = table(seed, label=rng.integers(0, 2, ROWS))
        rows = rows.with_columns(pl.col("sequence").str.slice(0, pl.Series(rng.integers(40, 100, ROWS))))
        assert {finding.kind for finding in audit(rows, AuditOptions()).findings} == {"class_balance"}


def test_a_header_that_tells_half_is_a_warning_and_one_that_tells_all_a_leak() -> None:
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 2, ROWS)
    half = [f"{'lab1' if label ^ (rng.random() < 0.12) else 'lab2'} {i}" for i, label in enumerate(labels)]
    for headers, severity in ((half, "warning"), ([f"lab{label} x" for label in labels], "leak")):
        finding = of_kind(audit(table(label=labels, header=headers), AuditOptions(headers=("header",))), "header_predicts_label")
        assert finding.severity == severity
        assert "the column 'header' alone predicts 'label'" in finding.sentence


def test_ids_that_spell_out_the_window_are_no_header() -> None:
    starts = [1000 * i for i in range(ROWS)]
    columns = {
        "label": [int(i >= 100) for i in range(ROWS)],
        "contig": ["c"] * ROWS,
        "start_0based": starts,
        "end": [s + 100 for s in starts],
    }
    rows = table(**columns).with_columns(id=pl.format("c:{}", "start_0based"))
    kinds = {finding.kind for finding in audit(rows, AuditOptions()).findings}
    assert "header_predicts_label" not in kinds
    bare = rows.drop("contig", "start_0based", "end").with_columns(pl.col("id").str.replace(":", "_"))
    assert "header_predicts_label" in {f.kind for f in audit(bare, AuditOptions()).findings}


def test_ids_that_are_row_numbers_of_a_sorted_file_are_no_header_but_their_file_is() -> None:
    labels = [int(i >= 100) for i in range(ROWS)]
    sorted_file = table(label=labels).with_columns(id=pl.Series([f"all:{i + 2}" for i in range(ROWS)]))
    two_files = table(label=labels).with_columns(id=pl.Series([f"{'neg' if i < 100 else 'pos'}:{i}" for i in range(ROWS)]))
    assert "header_predicts_label" not in {finding.kind for finding in audit(sorted_file, AuditOptions()).findings}
    assert "header_predicts_label" in {finding.kind for finding in audit(two_files, AuditOptions()).findings}


def test_an_id_in_two_splits_is_a_warning() -> None:
    rows = table().with_columns(id=pl.Series(put(table()["id"].to_list(), r199=table()["id"][0])))
    assert of_kind(audit(rows, AuditOptions()), "id_in_two_splits").severity == "warning"


def test_empty_sequences_are_counted_and_equal_to_nothing() -> None:
    sequences = put(table()["sequence"].to_list(), r0=None, r1="", r2="NNNN", r197="", r198=None, r199="NNNN")
    found = audit(table().with_columns(sequence=pl.Series(sequences)), AuditOptions())
    assert [(finding.kind, finding.count) for finding in found.findings] == [("empty_sequences", 6)]


def test_near_molecules_are_never_a_leak_by_their_spelling_alone() -> None:
    rng = np.random.default_rng(5)
    spelled = ["".join(rng.choice(list("CNOScno"), 40)) for _ in range(TRAIN)]
    spelled += [one[:20] + "F" + one[20:] for one in spelled[: VALIDATION + TEST]]
    found = audit(table().with_columns(sequence=pl.Series(spelled)), AuditOptions(modality="smiles"))
    assert [(finding.kind, finding.severity) for finding in found.findings] == [("near_copies", "warning")]
    assert "spelling is not structure" in found.findings[0].sentence


def test_a_table_without_splits_is_looked_at_within() -> None:
    found = audit(copied(2).drop("split"), AuditOptions())
    assert found.rows == {"all": ROWS}
    assert [finding.kind for finding in found.findings] == ["duplicates_within_split"]
    assert found.findings[0].sentence == "2 of 200 all rows repeat a row of their own split (198 unique)"


@pytest.mark.parametrize(
    ("names", "declared", "ordered"),
    [
        (["test", "dev", "train"], (), ["train", "dev", "test"]),
        (["test_seq", "train_seq"], (), ["train_seq", "test_seq"]),
        (["holdout", "Training", "chr9", "validation"], (), ["Training", "validation", "holdout", "chr9"]),
        (["b", "a"], ("b", "a", "c"), ["b", "a"]),
        (["only"], (), ["only"]),
    ],
)
def test_splits_leak_from_training_on(names: list[str], declared: tuple[str, ...], ordered: list[str]) -> None:
    assert order_splits(names, declared) == ordered


def test_splits_of_which_none_is_for_training_are_refused() -> None:
    with pytest.raises(DataError, match="none of the splits a, b is named train"):
        order_splits(["b", "a"])
    with pytest.raises(DataError, match="splits c are in the table but not among those declared: a, b"):
        order_splits(["a", "c"], ("a", "b"))


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (table().drop("sequence"), {}, "no column 'sequence'; it has id, split"),
        (table(), {"groups": ("donor",)}, "no column 'donor'"),
        (table().clear(), {}, "no rows"),
        (table().with_columns(sequence=pl.lit(1)), {}, "holds Int32, not text"),
        (table().with_columns(sequence=pl.lit(" ")), {}, "is empty in every row"),
        (table().with_columns(sequence=pl.lit("ACGTE"), id=pl.lit("x")), {}, "x: 'E' at position 5 .* modality"),
        (table(contig="c", start_0based="1", end=5), {}, "'start_0based' holds String, not whole numbers"),
        (table(contig="c", start_0based=-1, end=5), {}, "window -1-5 ends before it starts"),
    ],
)
def test_bad_tables_are_refused(rows: pl.DataFrame, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        audit(rows, AuditOptions(**options))


def test_the_rendered_table_has_severity_sentence_example_and_verdict() -> None:
    rows = copied(1)
    text = " ".join(render_audit(audit(rows, AuditOptions()), width=200).split())
    assert "LEAK 1 of 40 test rows (2.5 %) are equal to a row of an earlier split" in text
    assert f"{rows['id'][-1]} (test) ~ {rows['id'][0]} (train)" in text
    assert "LEAKS: scores on these splits would be too good" in text
    assert "clean" in render_audit(audit(table(), AuditOptions()), width=100)


def command(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["audit", *arguments], env={"COLUMNS": "200"})
    return done.exit_code, " ".join(f"{done.output}{getattr(done, 'stderr', '')}".split())


def test_a_table_without_splits_is_not_called_clean(tmp_path: Path) -> None:
    table().rename({"split": "fold"}).write_csv(tmp_path / "t.csv")
    code, text = command(str(tmp_path / "t.csv"))
    assert code == 0
    assert "NO SPLITS WERE COMPARED, because all rows are of one: name the column of the splits with --split" in text
    assert "clean:" not in text
    code, text = command(str(tmp_path / "t.csv"), "--split", "fold")
    assert "clean: nothing found" in text
    assert "NO SPLITS" not in text
    code, text = command(str(tmp_path / "t.csv"), "--splits", "train,test")
    assert code == 2
    assert "splits are declared (train, test), but the table has no column 'split'; name the column with --split" in text


def test_splits_of_other_names_are_put_in_order_by_the_user(tmp_path: Path) -> None:
    names = {"train": "fold1", "validation": "fold2", "test": "fold0"}
    copied(3).with_columns(pl.col("split").replace(names)).write_csv(tmp_path / "t.csv")
    code, text = command(str(tmp_path / "t.csv"))
    assert code == 2
    assert "none of the splits fold0, fold1, fold2 is named train; name them with --splits, training first" in text
    code, text = command(str(tmp_path / "t.csv"), "--splits", "fold1, fold2,fold0")
    assert code == 1
    assert "3 of 40 fold0 rows (7.5 %) are equal to a row of an earlier split" in text


def test_files_are_put_in_order_by_the_user_too(tmp_path: Path) -> None:
    for (name,), rows in copied(3).group_by("split"):
        rows.drop("split").write_csv(tmp_path / f"{name}.csv")
    files = [str(tmp_path / f"{name}.csv") for name in ("train", "validation", "test")]
    code, text = command(*files, "--splits", "test,validation,train")
    assert code == 1
    assert "3 of 120 train rows (2.5 %) are equal" in text
    code, text = command(*files, "--splits", "train,test")
    assert code == 2
    assert "splits validation are in the table but not among those declared" in text
