"""The page: one HTML file that loads nothing from anywhere."""

from __future__ import annotations

from functools import cache
from typing import Any

import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from biollm.report.content import Section
from biollm.report.facts import Facts, domain_of, judged_by
from biollm.report.outcome import verdict
from biollm.report.sections import tiles


def render_page(facts: Facts, content: list[Section]) -> str:
    """HTML of the facts and sections. Every text is escaped; chart data is JSON in which `<` is written as an escape."""
    environment = Environment(
        loader=PackageLoader("biollm.report", "."),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    specs: dict[str, dict[str, Any]] = {
        figure.id: {**figure.spec, "description": figure.alt} for section in content for figure in section.figures
    }
    return environment.get_template("page.html.j2").render(
        facts=facts,
        verdict=verdict(facts),
        adapted_to=domain_of(facts),
        judged_by=judged_by(facts),
        version=next(iter(facts["stages"].values()))["versions"]["biollm"],
        tiles=tiles(facts),
        sections=content,
        specs=specs,
        vega=Markup(_vega_bundle()),
    )


@cache
def _vega_bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one JavaScript module, as shipped with vl-convert."""
    bundle: str = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # the stub makes the optional snippet a must
    assert "</script" not in bundle.lower(), "the bundle would end its own script element"
    return bundle
