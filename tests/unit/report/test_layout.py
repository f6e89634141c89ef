"""What a reader's browser makes of the page: every chart, in either colour scheme, on a telephone and on a wide screen."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from biollm.core.job import Job
from biollm.report.charts import forest
from biollm.report.config import Config
from biollm.report.stage import run

ReportJob = Callable[..., Job[Config]]


def _chromium(page: Path, profile: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", "--virtual-time-budget=10000",
        "--enable-logging=stderr", "--v=0", *options, page.as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed: the page's scripts cannot be run")
@pytest.mark.parametrize("colours", ["light", "dark"])
def test_a_browser_draws_every_chart_without_a_complaint(report_job: ReportJob, pictures: list[str], tmp_path: Path, colours: str) -> None:
    job = report_job(pictures=pictures)
    facts = run(job)
    scheme = {"dark": "0", "light": "1"}[colours]
    page = job.out / "report.html"
    done = _chromium(page, tmp_path / "profile", "--dump-dom", f"--blink-settings=preferredColorScheme={scheme}")
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert complaints == []
    charts = dict(re.findall(r'id="chart-([\w-]+)"(.*?)<figcaption>', done.stdout, re.DOTALL))
    assert list(charts) == facts["figures"]
    for name, drawn in charts.items():
        assert "<svg" in drawn, name
        assert len(re.findall(r'<path aria-label="[^"]+" role="graphics-symbol"', drawn)) >= 5, f"{name} has no marks"
    assert done.stdout.count('type="radio"') >= 8, "measures and colours can be chosen by keyboard"
    assert 'fill="#5aaaff"' in done.stdout if colours == "dark" else 'fill="#0b6bcb"' in done.stdout


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed: the page's scripts cannot be run")
@pytest.mark.parametrize("width", [390, 1440])
def test_nothing_is_wider_than_the_screen(report_job: ReportJob, pictures: list[str], tmp_path: Path, width: int) -> None:
    job = report_job(pictures=pictures)
    run(job)
    told = """<script>setTimeout(() => console.log("told", innerWidth, document.documentElement.scrollWidth,
        Math.max(...[...document.querySelectorAll(".chart svg")].map((svg) => svg.getBoundingClientRect().right)),
        Math.max(...[...document.querySelectorAll("table")].filter((t) => innerWidth > 1000 || t.rows[0].cells.length == 2)
            .map((table) => table.getBoundingClientRect().right))), 5000)</script></body>"""  # of narrow screens: names and values
    page = tmp_path / "page.html"
    page.write_text(told.join((job.out / "report.html").read_text().rsplit("</body>", 1)))
    frame = tmp_path / "frame.html"  # chromium has no window narrower than 500
    frame.write_text(f'<iframe src="page.html" style="width: {width}px; height: 2000px; border: 0"></iframe>')
    done = _chromium(frame, tmp_path / "profile", "--dump-dom", "--window-size=1600,2100")
    said = re.search(r'"told ([\d.]+) ([\d.]+) ([\d.]+) ([\d.]+)"', done.stderr)
    inner, scrolled, rightmost, tables = (float(part) for part in said.groups())  # type: ignore[union-attr]
    assert inner == width
    assert scrolled <= width
    assert rightmost <= width
    assert tables <= width


def test_a_long_name_and_its_number_do_not_meet_on_a_narrow_screen() -> None:
    row = {"title": "untouched base model + covariates + logistic", "is_baseline": True, "auroc": 0.5, "auroc_low": 0.4, "auroc_high": 0.6}
    texts = [layer["mark"] for layer in forest([row], {"auroc": "AUROC"}, "out of fold")["layer"] if layer["mark"]["type"] == "text"]
    (name,) = (mark for mark in texts if mark["align"] == "left")
    (number,) = (mark for mark in texts if mark["align"] == "right")
    assert (name["dy"], number["dy"]) == (-13, {"expr": "width < 480 ? 13 : -13"})
    assert "width" in name["limit"]["expr"], "what is longer still is cut off"
