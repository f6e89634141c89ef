"""XML of the biomedical literature and of ICD-10-CM, read record by record.

The parser fetches nothing and expands no entity: a file that declares entities of its own is refused, names such as &alpha; that an
outer DTD would declare are read as HTML has them, and libxml2's limits on depth and size stay in force.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator
from typing import Any

from lxml import etree

from biollm.core.streams import check_head, damage_named, open_binary
from biollm.ingest.records.config import RecordOptions
from biollm.ingest.records.source import Record, Source

ROOTS = {
    "PubmedArticleSet": "pubmed", "MedlineCitationSet": "pubmed", "PubmedArticle": "pubmed",
    "article": "jats", "pmc-articleset": "jats", "OAI-PMH": "jats",
    "ICD10CM.tabular": "icd10cm",
}  # fmt: skip
# What of a JATS article is no running text: tables, figures, references, formulas as LaTeX programs, letters printed with the article.
_NO_TEXT = {
    "table-wrap", "table-wrap-group", "fig", "fig-group", "ref-list", "tex-math", "fn-group", "fn", "supplementary-material",
    "sub-article", "response", "graphic", "media", "object-id", "label",
}  # fmt: skip
# Marks of citations, which \x01 stands for, with what is between them, and the brackets around them. XML cannot hold that letter.
_CITED = re.compile("\x01(?:[\\s,;–—-]*\x01)*")
_BRACKETED = re.compile(rf" ?[\[(]\s*{_CITED.pattern}\s*[\])]")
_BLOCKS = {"p", "title", "sec", "list", "list-item", "disp-quote", "boxed-text", "def-list", "def-item", "AbstractText", "disp-formula"}


def root_of(source: Source) -> str:
    """The name of the outermost element, or "" if there is none. Reads no further than it."""
    for event, element in _events(source, ("start",)):
        del event
        return _name(element)
    return ""


def read_pubmed(source: Source, options: RecordOptions) -> Iterator[Record]:
    """Articles of PubMed or MEDLINE XML: title and abstract, each section behind its label; the id is the PMID.

    Fields: title, abstract, journal, year, language, mesh. An article without an abstract is its title.
    """
    for number, citation in enumerate(_elements(source, ("MedlineCitation", "BookDocument"), "pubmed"), start=1):
        pmid = _text(citation.find("PMID"))
        if not pmid:
            raise source.error("the article has no PMID; fetch it again", number, "record")
        article = citation if _name(citation) == "BookDocument" else citation.find("Article")
        if article is None:
            raise source.error("the citation has no Article; fetch it again", number, "record")
        title = _text(article.find("ArticleTitle")) or _text(article.find("Book/BookTitle"))
        sections = []
        for part in article.iterfind("Abstract/AbstractText"):
            label = part.get("Label")
            if words := _text(part):
                sections.append(f"{label}: {words}" if label and label != "UNLABELLED" else words)
        year = re.search(r"\d{4}", _text(article.find("Journal/JournalIssue/PubDate")) or "")
        fields = {
            "title": title,
            "abstract": "\n".join(sections),
            "journal": _text(article.find("Journal/Title")),
            "year": year.group() if year else None,
            "language": _text(article.find("Language")),
            "mesh": "; ".join(_text(name) for name in citation.iterfind("MeshHeadingList/MeshHeading/DescriptorName")) or None,
        }
        yield Record(number, fields, pmid, "\n".join(part for part in [title, *sections] if part))


def read_jats(source: Source, options: RecordOptions) -> Iterator[Record]:
    """Articles of PMC (JATS XML): title, abstract and the paragraphs of the body, a line each; the id is that of PMC, PubMed or the DOI.

    Tables, figures, references, footnotes, citation marks and formulas in LaTeX are left out. Fields: title, abstract, body, journal, year.
    """
    for number, article in enumerate(_elements(source, ("article",), "jats"), start=1):
        meta = article.find("{*}front/{*}article-meta")
        if meta is None:
            raise source.error("the article has no front/article-meta; fetch it again", number, "record")
        ids = {element.get("pub-id-type"): _text(element) for element in meta.iterfind("{*}article-id")}
        found = next((ids[kind] for kind in ("pmcid", "pmc", "pmid", "doi") if ids.get(kind)), None)
        if found and ids.get("pmc") == found and found.isdigit():
            found = f"PMC{found}"
        title = _text(meta.find("{*}title-group/{*}article-title"))
        abstracts = [
            part for part in meta.iterfind("{*}abstract") if not part.get("abstract-type")
        ]  # not the graphical one, the highlights
        abstract = "\n".join(paragraph for part in abstracts for paragraph in _paragraphs(part))
        body = "\n".join(_paragraphs(article.find("{*}body")))
        years = [_text(element) for element in meta.iterfind("{*}pub-date/{*}year")]
        fields = {
            "title": title,
            "abstract": abstract,
            "body": body,
            "journal": _text(article.find("{*}front/{*}journal-meta/{*}journal-title-group/{*}journal-title")),
            "year": min(filter(None, years), default=None),
        }
        yield Record(number, fields, found, "\n".join(part for part in (title, abstract, body) if part))


def read_icd(source: Source, options: RecordOptions) -> Iterator[Record]:
    """Diagnoses of the tabular list of ICD-10-CM (XML of CDC/CMS): "description. Includes: terms"; the id is the code, A00.0.

    Fields: name, terms, category (the three-character code), section and chapter (their titles).
    """
    number = 0
    for chapter in _elements(source, ("chapter",), "icd10cm"):
        chapter_title = _text(chapter.find("desc"))
        for section in chapter.iterfind("section"):
            section_title = _text(section.find("desc"))
            for diagnosis in section.iter("diag"):
                number += 1
                code, name = _text(diagnosis.find("name")), _text(diagnosis.find("desc"))
                if not code or not name:
                    raise source.error("the diagnosis has no name (code) or desc; fetch the file again", number, "record")
                terms = list(dict.fromkeys(_text(note) for note in diagnosis.iterfind("inclusionTerm/note")))
                fields = {
                    "name": name,
                    "terms": "; ".join(terms) or None,
                    "category": code.partition(".")[0],
                    "section": section_title,
                    "chapter": chapter_title,
                }
                text = f"{name}. Includes: {'; '.join(terms)}." if terms and options.ontology.synonyms else name
                yield Record(number, fields, code, text)


def _elements(source: Source, tags: tuple[str, ...], kind: str) -> Iterator[Any]:
    """Every element of some names, whole; each is emptied behind us, so that memory stays that of one."""
    first = True
    for event, element in _events(source, ("start", "end"), tags):
        if first:
            first = False
            if ROOTS.get(_name(element)) != kind:
                expected = " or ".join(root for root, of in ROOTS.items() if of == kind)
                raise source.error(f"the outermost element is <{_name(element)}>; expected {expected}: mend its format", 1)
        if event == "end" and _name(element) in tags:
            yield element
            element.clear()
            for place in (element, *element.iterancestors()):
                while place.getprevious() is not None:
                    del place.getparent()[0]


def _events(source: Source, events: tuple[str, ...], tags: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """The root's start and the starts and ends of some tags. Raises DataError for XML that is no XML, cut off, or declares entities."""
    with damage_named(source.path), open_binary(source.path) as head:
        start = head.read(1024)
        if not start.startswith((b"\xff\xfe<\0", b"\xfe\xff\0<")):  # UTF-16 is well-formed XML
            check_head(source.path, start)
    seen_root = False
    with damage_named(source.path), open_binary(source.path) as stream:
        try:
            parser = etree.iterparse(
                stream, events=events, resolve_entities=False, load_dtd=False, no_network=True, dtd_validation=False,
                attribute_defaults=False, remove_comments=True, remove_pis=True, huge_tree=False, recover=False,
            )  # fmt: skip
            for event, element in parser:
                if not seen_root:
                    seen_root = True
                    _refuse_entities(source, element)
                    yield event, element
                elif _name(element) in tags:
                    yield event, element
        except etree.XMLSyntaxError as error:
            line = error.lineno or 1
            what = "cut off" if "Premature end" in str(error) or not seen_root else "not well-formed XML"
            reason = str(error).partition(", line ")[0].strip()
            raise source.error(f"{what}: {reason}; fetch or export the file again", line) from None


def _refuse_entities(source: Source, root: Any) -> None:
    dtd = root.getroottree().docinfo.internalDTD
    if dtd is not None and (names := [entity.name for entity in dtd.iterentities()]):
        raise source.error(f"the file declares entities of its own (&{names[0]};), which are not read; write out what they stand for", 1)


def _name(element: Any) -> str:
    return str(element.tag).rpartition("}")[2]


def _text(element: Any) -> str:
    """All words below an element, white space folded; "" for None. Powers of ten keep their sign: 10<sup>6</sup> is 10^6."""
    if element is None:
        return ""
    parts: list[str] = []
    _walk(element, parts.append)
    return " ".join("".join(parts).replace("\x01", "").split())


def _paragraphs(element: Any) -> list[str]:
    if element is None:
        return []
    parts: list[str] = []
    _walk(element, parts.append, "\x00")
    blocks = (" ".join(block.split()) for block in "".join(parts).split("\x00"))
    return [words for block in blocks if (words := _CITED.sub("", _BRACKETED.sub("", block)).strip())]


def _walk(element: Any, add: Callable[[str], None], border: str = " ") -> None:
    """Hand over the text below an element piece by piece, with a border at each end of a block."""
    if element.tag is etree.Entity:
        add(html.unescape(element.text))
        return
    name = _name(element)
    if name == "xref" and element.get("ref-type") in ("bibr", "fn", "table-fn"):
        add("\x01")
        return
    if name in _NO_TEXT:
        return
    if name == "sup" and re.match(r"[-−–+]?\d", element.text or ""):
        before = element.getprevious().tail if element.getprevious() is not None else element.getparent().text
        add("^" if (before or "").endswith("10") else "")
    add(border if name in _BLOCKS else "")
    add(element.text or "")
    for child in element:
        _walk(child, add, border)
        add(child.tail or "")
    add(border if name in _BLOCKS else "")
