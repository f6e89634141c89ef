"""Suites: what is shipped can be read, and what contradicts itself is refused with file and key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from biollm.benchmark.suite import Suite, SuiteTable, load_suite
from biollm.benchmark.tables import prepare
from biollm.core.errors import ConfigError
from biollm.core.resources import resolve_files

SUITES = sorted((Path(__file__).parents[3] / "pipelines" / "suites").glob("*.yaml"))


def test_the_suites_that_the_documentation_names_are_shipped() -> None:
    assert {path.stem for path in SUITES} == {"peptides", "genomes", "biomedical_text", "shared_data"}


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_every_shipped_suite_reads_and_finds_its_files(path: Path) -> None:
    suite = load_suite(path)
    assert suite.name == path.stem
    for table in suite.tables:
        assert table.title, table.name
        assert table.cite, table.name
        assert all(figure.source for figure in table.published)
        if path.stem != "shared_data":  # it is not everywhere
            for source in table.corpus().sources:
                assert all(resolve_files(name, path.parent) for name in source.resources()), table.name


def test_a_published_figure_needs_its_source(tmp_path: Path) -> None:
    table = {"name": "one", "path": "x.csv", "published": [{"model": "a", "value": 0.9}]}
    _refused(tmp_path, table, "tables.0.published.0.source")


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"name": "one"}, "has neither path nor ingest"),
        ({"name": "one", "path": "x", "ingest": {"sources": [{"name": "a", "records": "x"}]}}, "has both path and ingest"),
        ({"name": "one", "ingest": {"sources": [{"name": "a", "records": "x"}]}, "split": "given"}, "and beside it split; write these"),
        ({"name": "one", "path": "x", "split": "grouped"}, "split is grouped, columns.group is None"),
        ({"name": "one", "path": "x", "columns": {"group": "g"}}, "a group is for split grouped"),
        ({"name": "one", "path": "x", "metric": "AUC"}, "expected one of accuracy, auprc, auroc"),
        ({"name": "one", "path": "x", "colums": {}}, "colums"),
    ],
)
def test_what_contradicts_itself_is_refused(tmp_path: Path, table: dict[str, Any], expected: str) -> None:
    _refused(tmp_path, table, expected)


def _refused(folder: Path, table: dict[str, Any], expected: str) -> None:
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump({"name": "s", "tables": [table]}))
    with pytest.raises(ConfigError) as caught:
        load_suite(path)
    assert str(path) in str(caught.value)
    assert expected in str(caught.value)


def test_tables_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="names must differ"):
        Suite(name="s", tables=[SuiteTable(name="a", path="x"), SuiteTable(name="a", path="y")])


def test_given_splits_stay_as_they_are_and_others_lose_their_copies() -> None:
    given = SuiteTable(name="a", path="x", split="given").corpus()
    assert (given.duplicates.exact, given.split.by) == ("keep", "given")
    assert given.sources[0].read.split_from_name, "without a column the file names say the split"
    drawn = SuiteTable(name="a", path="x").corpus()
    assert (drawn.duplicates.exact, drawn.duplicates.conflicting, drawn.split.by) == ("drop", "drop", "similarity")
    assert drawn.audit.leakage != "refuse", "a leak is marked beside the score"


def test_the_shared_tables_hold_variants_molecules_and_abstracts() -> None:
    tables = {table.name: table for table in _shared().tables}
    assert {"gb1-one-vs-rest", "gb1-two-vs-rest", "gb1-three-vs-rest", "gb1-low-vs-high", "esol", "clintox", "hiv", "pubmedqa"} <= set(
        tables
    )
    assert {table.metric for name, table in tables.items() if name.startswith("gb1")} == {"spearman"}


@pytest.mark.parametrize(
    ("name", "task", "classes"),
    [
        ("gb1-one-vs-rest", "regression", ()),
        ("esol", "regression", ()),
        ("clintox", "binary", ("0", "1")),
        ("sider-hepatobiliary", "binary", ("0", "1")),
        ("pubmedqa", "multiclass", ("maybe", "no", "yes")),
    ],
)
def test_a_shared_table_opens_and_passes_the_audit(name: str, task: str, classes: tuple[str, ...]) -> None:
    (table,) = [table for table in _shared().tables if table.name == name]
    folder = SUITES[0].parent
    for source in table.corpus().sources:
        for resource in source.resources():
            if not (folder / resource).exists():
                pytest.skip(f"{resource} is not here")
    prepared = prepare(table, folder, [0], None)
    assert prepared.draws[0].dataset.targets.task == task
    assert prepared.draws[0].dataset.targets.classes == classes
    assert prepared.verdict != "leaks", prepared.sentences()


def _shared() -> Suite:
    return load_suite(next(path for path in SUITES if path.stem == "shared_data"))
