"""The documentation is built with warnings as errors, its commands and recipes exist, and its tutorial runs."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from pkgutil import resolve_name
from typing import Any
from urllib.parse import unquote, urlparse

import pytest
import yaml
from typer.main import get_command

from biollm.benchmark.suite import Suite
from biollm.cli import app
from biollm.core.recipe import RecipeHeader
from biollm.stages import BY_NAME, STAGES, Run

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


def blocks(page: Path, *languages: str) -> list[tuple[str, str]]:
    """(language, text) of the fenced blocks of a page, in order; "" is a block without a language."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    return [(language, text) for language, text in found if language in languages]


# --- the built pages -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built documentation. `--strict` makes an error of each warning: a broken link, a page outside the navigation, a missing file."""
    folder = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Building documentation" in done.stderr, "--quiet would hide warnings from --strict too"
    return folder


class _Loaded(HTMLParser):
    """What a browser would fetch for a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "link" and "stylesheet" in (given.get("rel") or ""):
            self.found.append(given["href"] or "")
        if tag in {"script", "img", "iframe"} and given.get("src"):
            self.found.append(given["src"] or "")


class _Text(HTMLParser):
    """The text of a page, with single spaces."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self._parts: list[str] = []
        self.feed(html)

    def handle_data(self, data: str) -> None:
        self._parts.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self._parts).split())


def test_no_page_loads_anything_from_the_network(site: Path) -> None:
    pages = [page for page in site.rglob("*.html") if page.name != "404.html"]
    assert len(pages) == len(PAGES)
    for page in pages:
        for resource in _Loaded(page.read_text()).found:
            assert not urlparse(resource).netloc, (page.name, resource)
            assert (page.parent / unquote(urlparse(resource).path)).is_file(), (page.name, resource)


def test_every_stage_has_a_page_with_all_its_settings(site: Path) -> None:
    for stage in STAGES:
        html = (site / "stages" / f"{stage.name}.html").read_text()
        for name in stage.config_class().model_fields:
            assert f"<td><code>{name}</code></td>" in html, (stage.name, name)
        assert "&lt;!-- " not in html


def test_public_names_have_their_docstrings_in_the_reference(site: Path) -> None:
    text = _Text((site / "api.html").read_text()).text
    for name in re.findall(r"^::: ([\w.]+)$", (DOCS / "api.md").read_text(), re.MULTILINE):
        shown = resolve_name(name.replace("biollm.", "biollm:", 1) if name.count(".") == 1 else name)
        first = " ".join((shown.__doc__ or "").strip().split("\n\n")[0].split())
        assert first
        assert first.replace("`", "") in text, name


def test_every_command_is_in_the_reference(site: Path) -> None:
    html = (site / "commands.html").read_text()
    for name in get_command(app).commands:  # type: ignore[attr-defined]
        assert f"Usage: biollm {name}" in html


def test_a_marker_that_nothing_makes_stops_the_build() -> None:
    sys.path.insert(0, str(DOCS / "hooks"))
    try:
        import generated
    finally:
        sys.path.pop(0)
    from mkdocs.exceptions import PluginError

    class _Page:
        class file:
            src_path = "x.md"

    with pytest.raises(PluginError, match="nothing makes"):
        generated.on_page_markdown("<!-- optoins: pretrain -->", page=_Page)
    with pytest.raises(PluginError, match="is no stage"):
        generated.on_page_markdown("<!-- options: pretrian -->", page=_Page)


# --- what the pages claim --------------------------------------------------------------------------------------------------------


def commands(page: Path) -> Iterator[list[str]]:
    """Every `biollm …` line of a page's shell blocks, split into words."""
    for _, text in blocks(page, "", "bash"):
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if "|" in words:
                words = words[: words.index("|")]
            if words and words[0] == "biollm":
                yield [word for word in words[1:] if word != "2>&1"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_every_command_of_a_page_exists_and_its_recipe_takes_the_values(page: Path) -> None:
    group: Any = get_command(app)
    for name, *arguments in commands(page):
        assert name in group.commands, f"biollm {name}"
        parsed = group.commands[name].make_context(name, arguments).params  # parses as the terminal does, and runs nothing
        recipe = parsed.get("recipe")
        if recipe is not None and str(recipe).startswith("pipelines/"):
            run = Run.load(ROOT / recipe, list(parsed.get("set") or []))
            assert name not in BY_NAME or BY_NAME[name] in run.stages, f"{recipe} has no section {name}"


def test_how_to_answers_the_twenty_likeliest_questions() -> None:
    assert (DOCS / "howto.md").read_text().count("\n## … ") >= 20


_RECIPE_PAGES = ["fusion.md", "heads.md", "howto.md", "scaling.md", "training.md"]
# Of these the blocks are the inside of a section ingest, and suites.
_OTHER_YAML = ["ingest.md", "suites.md"]


def _recipes(page: Path) -> list[dict[str, Any]]:
    return [yaml.safe_load(text) for _, text in blocks(page, "yaml") if "--8<--" not in text]


@pytest.mark.parametrize("name", _RECIPE_PAGES)
def test_every_recipe_of_a_page_is_one(name: str) -> None:
    found = _recipes(DOCS / name)
    assert found
    for recipe in found:
        for key, value in recipe.items():
            model: Any = BY_NAME[key].config_class() if key in BY_NAME else RecipeHeader.model_fields[key].annotation
            model.model_validate(value)


def test_every_section_ingest_of_its_page_is_one() -> None:
    found = _recipes(DOCS / "ingest.md")
    assert found
    for section in found:
        BY_NAME["ingest"].config_class().model_validate({"sources": [{"name": "a", "sequences": "a.fa"}]} | section)


def test_every_suite_of_a_page_is_one() -> None:
    found = _recipes(DOCS / "suites.md")
    assert found
    for suite in found:
        Suite.model_validate(suite)


def test_no_page_has_a_recipe_that_is_not_looked_at() -> None:
    assert sorted(page.relative_to(DOCS).as_posix() for page in PAGES if _recipes(page)) == sorted(_RECIPE_PAGES + _OTHER_YAML)


def test_every_file_that_a_page_names_is_there() -> None:
    for page in PAGES:
        for named in re.findall(r"`((?:pipelines|workflows|tokenizers|benchmarks)/[\w./-]+)`", page.read_text()):
            assert (ROOT / named).exists(), (page.name, named)


# --- the tutorial ----------------------------------------------------------------------------------------------------------------


def test_every_marker_of_a_snippet_is_whole_and_its_file_is_there() -> None:
    """A marker that the builder does not know is shown as it stands, and no build fails of it."""
    lines = [(page.name, line) for page in PAGES for line in page.read_text().splitlines() if re.search(r"-\s*-\s*8\s*<", line)]
    assert len(lines) >= 3
    for page, line in lines:
        found = re.fullmatch(r'\s*--8<-- "([^"]+)"', line)
        assert found, f"{page}: {line}"
        assert (ROOT / found[1]).is_file(), f"{page}: {line}"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_tutorial_runs_as_it_stands(tmp_path: Path) -> None:
    steps = blocks(DOCS / "tutorial.md", "bash", "python")
    assert [language for language, _ in steps].count("python") >= 4
    script = ["set -euo pipefail"]
    for language, text in steps:
        script.append(text if language == "bash" else f"python - <<'END_OF_PYTHON'\n{text}END_OF_PYTHON\n")
    shutil.copytree(ROOT / "pipelines", tmp_path / "pipelines")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, arguments in (("python", ""), ("biollm", "-m biollm ")):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {arguments}"$@"\n')
        program.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
    }
    done = subprocess.run(["bash", "-c", "\n".join(script)], cwd=tmp_path, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "first: to do: report\n" in done.stderr, "a new title makes the report alone again"
    assert "(2, 384) float32" in done.stdout
    assert "AUROC" in done.stdout
    assert (tmp_path / "results" / "first" / "report" / "report.html").is_file()
