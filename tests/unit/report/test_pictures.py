"""Maps of single records that commands made are drawn in the report too."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from biollm.core.errors import ConfigError, DataError, ResourceError
from biollm.core.files import sha256_file
from biollm.core.job import Job
from biollm.report.config import Config
from biollm.report.stage import run

ReportJob = Callable[..., Job[Config]]


def test_each_record_has_its_figure_which_says_what_changes_most_and_where_it_comes_from(
    report_job: ReportJob, pictures: list[str]
) -> None:
    job = report_job(pictures=pictures)
    facts = run(job)
    assert "pictures" in facts["sections"]
    assert facts["figures"][-3:] == ["picture-0", "picture-1", "picture-2"]
    path = job.recipe_folder / pictures[0]
    table = pl.read_parquet(path).filter(id="chr1:5")
    strongest = table.sort("effect").tail(1).row(0, named=True)
    markdown = (job.out / "report.md").read_text()
    assert "Every substitution in chr1:5" in markdown
    assert "Change of the log-odds of coding = 1, which is 0.750 for the sequence itself." in markdown
    assert f"{strongest['reference']}{strongest['position_0based'] + 1}{strongest['letter']} +{strongest['effect']:.3f}" in markdown
    assert f"mutagenesis `{sha256_file(path)[:12]}`" in markdown


def test_they_count_for_whether_the_page_is_up_to_date(pictures: list[str]) -> None:
    assert Config(pictures=pictures).resources() == pictures


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("a.png", "x", ConfigError, "a.png: no picture; name mutagenesis.parquet or attention.json"),
        ("a.parquet", "x", DataError, "a.parquet: not a whole Parquet table; make it again with: biollm mutagenesis"),
        ("a.json", "{}", ConfigError, "a.json: no attention map; make one with: biollm attention"),
        ("a.json", '{"labels": ["A"], "layers": [0], "heads": [0], "weights": [1]}', ConfigError, "a.json: no attention map"),
        ("a.json", '{"labels"', ConfigError, "a.json: not valid JSON"),
    ],
)
def test_what_is_no_picture_is_refused(
    name: str, content: str, error: type[Exception], message: str, report_job: ReportJob, tmp_path: Path
) -> None:
    job = report_job(pictures=[name])
    object.__setattr__(job, "recipe_folder", tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(error, match=message):
        run(job)
    assert not (job.out / "report.html").exists()


def test_a_missing_file_another_table_and_too_many_cells_are_refused(report_job: ReportJob, pictures: list[str], tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"pictures/none.parquet: no such file"):
        run(report_job(pictures=["pictures/none.parquet"]))
    job: Any = report_job(pictures=["predictions.parquet"])
    object.__setattr__(job, "recipe_folder", tmp_path)
    pl.DataFrame({"id": ["a"], "score": [0.5]}).write_parquet(tmp_path / "predictions.parquet")
    with pytest.raises(ConfigError, match=r"predictions.parquet: no table of substitutions, whose columns are id, position_0based"):
        run(job)
    job = report_job(pictures=["wide.json"])
    object.__setattr__(job, "recipe_folder", tmp_path)
    tokens = 150
    weights = [[[[0.1] * tokens] * tokens] * 2]
    (tmp_path / "wide.json").write_text(json.dumps({"labels": ["A"] * tokens, "layers": [0], "heads": [0, 1], "weights": weights}))
    with pytest.raises(
        ConfigError, match=r"wide.json: with it the pictures have 67,500 cells, and a page holds 40,000; name fewer, or make them smaller"
    ):
        run(job)
