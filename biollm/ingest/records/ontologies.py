"""Ontologies in OBO: terms as text, with their place in the is_a hierarchy.

Read by hand, for the seven tags that we need: fastobo panics on some damaged files (a Rust trace on the screen, and no exception that a
caller may catch), and does not say at which line a term stands.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from biollm.core.streams import read_lines
from biollm.ingest.records.config import RecordOptions
from biollm.ingest.records.source import Record, Source

_FRAME = re.compile(r"\[\w+\](\s*!.*)?")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_COMMENT = re.compile(r"(?:(?<=\s)|^)!")  # to the end of the line, as the name behind an id
_MODIFIER = re.compile(r"\s*\{[^{}]*\}$")


@dataclass
class Term:
    """One term of an ontology; `number` is the line it begins at."""

    number: int
    id: str = ""
    name: str = ""
    namespace: str | None = None
    definition: str = ""
    synonyms: list[str] = field(default_factory=list)
    parents: list[str] = field(default_factory=list)
    obsolete: bool = False


def read_obo(source: Source, options: RecordOptions) -> Iterator[Record]:
    """Terms of an OBO file as "name: definition Synonyms: …"; the number is the line of [Term], the id the term's. Obsolete
    terms are dropped.

    Fields: name, definition, synonyms, namespace, parents, and where `ontology.level` is set `ancestor`: the name of the one ancestor at
    that level, missing where a term has several or none there; where `ontology.question` is set `messages`: it and the definition.
    Raises DataError for a line that is no OBO, a term without id or name or with two of one id, and a root that is no term.
    """
    terms: dict[str, Term] = {}
    for term in _terms(source):
        if term.id in terms:
            raise source.error(f"the term {term.id} stands twice (first at line {terms[term.id].number}); remove one", term.number)
        terms[term.id] = term
    if not terms:
        raise source.error("the file holds no [Term]; fetch it again, or say its format", 1)
    settings = options.ontology
    if settings.root is not None and settings.root not in terms:
        raise source.error(f"ontology.root is {settings.root}, which is no term of the file; write an id as in {next(iter(terms))}", 1)
    parents = {term.id: [parent for parent in term.parents if parent in terms] for term in terms.values() if not term.obsolete}
    levels = find_levels(parents, settings.root)
    tops = find_ancestors(parents, levels, settings.level) if settings.level is not None else {}
    for term in terms.values():
        if term.obsolete:
            yield Record(term.number, {}, term.id, drop="obsolete term")
        elif term.id not in levels:
            yield Record(term.number, {}, term.id, drop="term not below the root")
        else:
            if not term.name:
                raise source.error(f"the term {term.id} has no name; restore it", term.number)
            fields: dict[str, Any] = {
                "name": term.name,
                "definition": term.definition or None,
                "synonyms": "; ".join(term.synonyms) or None,
                "namespace": term.namespace,
                "parents": "; ".join(term.parents) or None,
            }
            if settings.level is not None:
                above = tops[term.id]
                fields["ancestor"] = terms[next(iter(above))].name if len(above) == 1 else None
            if settings.question is not None:
                if not term.definition:
                    yield Record(term.number, {}, term.id, drop="term without a definition")
                    continue
                turns = [("user", settings.question.replace("{name}", term.name)), ("assistant", term.definition)]
                fields["messages"] = json.dumps([{"role": role, "content": said} for role, said in turns], ensure_ascii=False)
            yield Record(term.number, fields, term.id, _as_text(term, settings.synonyms))


def find_levels(parents: Mapping[str, list[str]], root: str | None) -> dict[str, int]:
    """Each term's distance in is_a steps from the root (or from the terms without a parent), the shortest way. Only terms below it.

    >>> find_levels({"a": [], "b": ["a"], "c": ["a", "b"]}, None)
    {'a': 0, 'b': 1, 'c': 1}
    """
    children = defaultdict(list)
    for term, above in parents.items():
        for parent in above:
            children[parent].append(term)
    levels = {root: 0} if root is not None else {term: 0 for term, above in parents.items() if not above}
    queue = deque(levels)
    while queue:
        term = queue.popleft()
        for child in children[term]:
            if child not in levels:
                levels[child] = levels[term] + 1
                queue.append(child)
    return levels


def find_ancestors(parents: Mapping[str, list[str]], levels: Mapping[str, int], level: int) -> dict[str, set[str]]:
    """The terms at one level that lie above each term (or are it), over all ways up.

    >>> parents = {"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c"]}
    >>> sorted(find_ancestors(parents, find_levels(parents, None), 1)["d"])
    ['b', 'c']
    """
    found: dict[str, set[str]] = {term: set() for term in levels}
    children = defaultdict(list)
    for term in levels:
        for parent in parents[term]:
            children[parent].append(term)
    for top in (term for term, at in levels.items() if at == level):
        stack = [top]
        while stack:
            term = stack.pop()
            if term in found and top not in found[term]:
                found[term].add(top)
                stack += children[term]
    return found


def _terms(source: Source) -> Iterator[Term]:
    term: Term | None = None
    for number, line in read_lines(source.path):
        text = line.strip()
        if not text or text.startswith("!"):
            continue
        if text.startswith("["):
            if not _FRAME.fullmatch(text):
                raise source.error(f"found {text[:30]!r}; a frame begins with [Term] or another name in brackets: mend the line", number)
            yield from _whole(source, term)
            term = Term(number) if text.startswith("[Term]") else None
            continue
        tag, colon, value = text.partition(":")
        if not colon or " " in tag:
            raise source.error(f"found {text[:30]!r}; expected 'tag: value': mend the line, or fetch the file again", number)
        if term is not None:
            _take(source, term, tag, value.strip(), number)
    yield from _whole(source, term)


def _whole(source: Source, term: Term | None) -> Iterator[Term]:
    if term is not None:
        if not term.id:
            raise source.error("the term has no id; restore it", term.number)
        yield term


def _take(source: Source, term: Term, tag: str, value: str, number: int) -> None:
    if tag in ("def", "synonym"):
        if not (quoted := _QUOTED.match(value)):
            raise source.error(f"the {tag} is not in double quotes (cut off?); mend the line, or fetch the file again", number)
        words = " ".join(_unescape(quoted.group(1)).split())
        if tag == "def":
            term.definition = words
        else:
            term.synonyms.append(words)
    elif tag in ("id", "is_a", "namespace", "is_obsolete", "name"):
        bare = _COMMENT.split(" ".join(value.split()), maxsplit=1)[0].strip()
        if not bare:
            raise source.error(f"the {tag} is blank; restore it", number)
        if tag == "name":
            term.name = _unescape(_MODIFIER.sub("", bare))
        elif tag == "id":
            term.id = bare.split()[0]
        elif tag == "is_a":
            term.parents.append(bare.split()[0])
        elif tag == "namespace":
            term.namespace = bare.split()[0]
        else:
            term.obsolete = bare.split()[0] == "true"


def _unescape(value: str) -> str:
    return re.sub(r"\\(.)", lambda found: {"n": "\n", "W": " ", "t": "\t"}.get(found.group(1), found.group(1)), value)


def _as_text(term: Term, with_synonyms: bool) -> str:
    text = f"{term.name}: {term.definition}" if term.definition else term.name
    if with_synonyms and term.synonyms:
        text += f"{'' if text.endswith('.') else '.'} Synonyms: {'; '.join(term.synonyms)}."
    return text
