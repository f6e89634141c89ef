from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from biollm.core.job import Job
from biollm.report.config import Config
from biollm.report.stage import run

ReportJob = Callable[..., Job[Config]]
_MAX_BYTES = 5_000_000
_OPTIONAL = ("tokenizer", "merge", "expand", "pretrain", "finetune", "embed")
_FIGURES = ["forest", "roc", "map-base", "map-pretrain", "pretraining", "finetuning"]


class _Page(HTMLParser):
    """The parts of a page that a promise is about."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.headings: list[str] = []
        self.captions: list[str] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in {"meta", "link", "img", "br"}:
            self._open.append(tag)
        if tag in {"h1", "h2", "h3"}:
            self.headings.append(tag)
        if tag in {"figcaption", "caption"}:
            self.captions.append("")
        for name, value in attrs:
            if name in {"src", "href", "srcset", "data", "action"}:
                self.links.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in {"script", "style"}:
            self.text.append(data)
        if {"figcaption", "caption"} & set(self._open):
            self.captions[-1] += data


def _write(job: Job[Config]) -> tuple[str, _Page]:
    run(job)
    html = (job.out / "report.html").read_text(encoding="utf-8")
    return html, _Page(html)


def test_the_page_is_whole_small_and_loads_nothing(report_job: ReportJob) -> None:
    html, page = _write(report_job())
    assert len(html.encode()) < _MAX_BYTES
    assert page.links
    assert all(link.startswith("#") for link in page.links)
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "default-src 'none'" in html, "the page forbids the browser every request"


def test_the_verdict_and_every_section_are_in_the_page(report_job: ReportJob) -> None:
    job = report_job(title="Fly & yeast")
    facts = run(job)
    html = (job.out / "report.html").read_text()
    text = " ".join(_Page(html).text)
    assert job.facts_of("classify")["verdict"] in text
    assert "Fly & yeast" in text
    assert facts["figures"] == _FIGURES
    assert len(facts["sections"]) == 11
    for shown in (
        "4.31",
        "25,000",
        "##TTAGG",
        "9.540",
        "cpg_oe",
        "0 (bit-equal)",
        "1.930",
        "148,000",
        "1,348,131",
        "too near to a record",
        "12",
    ):
        assert shown in text, shown


def test_every_caption_names_the_artifact_it_comes_from(report_job: ReportJob) -> None:
    job = report_job()
    _, page = _write(job)
    known = {(name, artifact.digest[:12]) for name, artifact in job.inputs.items()}
    assert len(page.captions) > 15
    for caption in page.captions:
        named = re.findall(r"(\w+) ([0-9a-f]{12})", caption)
        assert named, caption
        assert set(named) <= known


def test_hostile_names_stay_text(report_job: ReportJob, hostile: str) -> None:
    html, page = _write(report_job(title="<img src=x onerror=alert(1)>"))
    assert "<script>alert" not in html
    assert "<img src=x" not in html
    assert hostile in "".join(page.text)
    specs = json.loads(re.search(r'id="chart-specs">(.*?)</script>', html, re.DOTALL)[1])  # type: ignore[index]
    assert specs["map-base"]["data"]["values"][0]["source"] == hostile


def test_headings_descend_without_a_gap(report_job: ReportJob) -> None:
    _, page = _write(report_job())
    levels = [int(heading[1]) for heading in page.headings]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


@pytest.mark.parametrize("missing", [*((stage,) for stage in _OPTIONAL), _OPTIONAL])
def test_stages_that_did_not_run_are_left_out(report_job: ReportJob, missing: tuple[str, ...]) -> None:
    job = report_job(without=missing)
    facts = run(job)
    left_out = {
        "merge": {"vocabulary"}, "expand": {"new-rows", "fusion"}, "pretrain": {"training"}, "finetune": {"finetuning"}, "embed": {"maps"},
    }  # fmt: skip
    for stage, sections in left_out.items():
        assert (stage in missing) == sections.isdisjoint(facts["sections"])
    _Page((job.out / "report.html").read_text())


def test_two_reports_of_the_same_artifacts_are_byte_equal(report_job: ReportJob) -> None:
    jobs = [report_job(max_points=50) for _ in range(2)]
    for job in jobs:
        run(job)
    for name in ("report.html", "report.json"):
        assert (jobs[0].out / name).read_bytes() == (jobs[1].out / name).read_bytes()


def test_report_json_holds_what_the_page_says(report_job: ReportJob) -> None:
    job = report_job()
    run(job)
    facts = json.loads((job.out / "report.json").read_text())
    assert facts["scores"]["verdict"] == job.facts_of("classify")["verdict"]
    assert facts["stages"]["merge"]["digest"] == job.inputs["merge"].digest
    assert facts["histories"].keys() == {"pretrain", "finetune"}


def _chromium(page: Path, profile: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", "--virtual-time-budget=10000",
        "--enable-logging=stderr", "--v=0", *options, page.as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed: the page's scripts cannot be run")
@pytest.mark.parametrize("colours", ["light", "dark"])
def test_a_browser_draws_every_chart_without_a_complaint(report_job: ReportJob, tmp_path: Path, colours: str) -> None:
    job = report_job()
    run(job)
    scheme = {"dark": "0", "light": "1"}[colours]
    page = job.out / "report.html"
    done = _chromium(page, tmp_path / "profile", "--dump-dom", f"--blink-settings=preferredColorScheme={scheme}")
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert complaints == []
    charts = dict(re.findall(r'id="chart-([\w-]+)"(.*?)<figcaption>', done.stdout, re.DOTALL))
    assert list(charts) == _FIGURES
    for name, drawn in charts.items():
        assert "<svg" in drawn, name
        assert len(re.findall(r'<path aria-label="[^"]+" role="graphics-symbol"', drawn)) >= 5, f"{name} has no marks"
    assert 'fill="#5aaaff"' in done.stdout if colours == "dark" else 'fill="#0b6bcb"' in done.stdout
