"""Text whose records are documents, conversations or tagged sentences: plain text, chat JSONL, IOB columns."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from biollm.core.errors import listed
from biollm.core.streams import read_lines
from biollm.ingest.records.config import RecordOptions
from biollm.ingest.records.jsons import read_json_lines
from biollm.ingest.records.source import Record, Source

_ROLES = ("system", "user", "assistant", "tool")
# Keys of a question and its answer, as data sets of instructions name them; the third adds to the question.
_PAIRS = (
    ("prompt", "response", None),
    ("prompt", "completion", None),
    ("instruction", "output", "input"),
    ("instruction", "response", "context"),
    ("question", "answer", None),
)
IOB_TAG = re.compile(r"O|[BIESLU]|[BIESLU]-\S+")


def read_plain(source: Source, options: RecordOptions) -> Iterator[Record]:
    """Documents of a text file, one a line or one a paragraph (`text.documents`); the number is that of the first line."""
    if options.text.documents == "lines":
        for number, line in read_lines(source.path):
            if line.strip():
                yield Record(number, {}, None, line)
        return
    start, held = 0, list[str]()
    for number, line in read_lines(source.path):
        if line.strip():
            start = start or number
            held.append(line.rstrip())
        elif held:
            yield Record(start, {}, None, "\n".join(held))
            start, held = 0, []
    if held:
        yield Record(start, {}, None, "\n".join(held))


def read_chat(source: Source, options: RecordOptions) -> Iterator[Record]:
    """Instruction pairs or conversations, a JSON object a line; the field `messages` is their JSON: [{"role": …, "content": …}, …].

    Reads {"messages": […]}, or two keys such as prompt and response. The sequence is the contents in order, a blank line between.
    Raises DataError naming the line for another form, a role or content that is none, and a conversation without an answer.
    """
    for record in read_json_lines(source, options):
        messages = _messages(source, record)
        text = "\n\n".join(message["content"] for message in messages)
        fields = dict(record.fields) | {"messages": json.dumps(messages, ensure_ascii=False)}
        yield Record(record.number, fields, None, text)


def is_chat(keys: set[str]) -> bool:
    """Whether an object with these keys is an instruction pair or a conversation."""
    return "messages" in keys or any(question in keys and answer in keys for question, answer, _ in _PAIRS)


def _messages(source: Source, record: Record) -> list[dict[str, str]]:
    fields = record.fields
    if "messages" not in fields:
        for question, answer, more in _PAIRS:
            if question in fields and answer in fields:
                asked = _content(source, record, question, fields[question])
                if more and fields.get(more):
                    asked += "\n\n" + _content(source, record, more, fields[more])
                answered = _content(source, record, answer, fields[answer])
                return [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
        raise source.error(
            f"an object with the keys {listed(sorted(fields))}; expected 'messages', or 'prompt' and 'response': rename the keys",
            record.number,
        )
    raw = fields["messages"]
    if not isinstance(raw, list) or not raw:
        raise source.error('\'messages\' should be a list of {"role": …, "content": …}, and not an empty one; mend it', record.number)
    messages = []
    for place, message in enumerate(raw, start=1):
        role = message.get("role") if isinstance(message, dict) else None
        if role not in _ROLES:
            raise source.error(f"message {place} has the role {role!r:.40}; expected one of {', '.join(_ROLES)}: mend it", record.number)
        if role == "system" and place > 1:
            raise source.error(f"message {place} is a system message; only the first may be one: move it there", record.number)
        messages.append({"role": role, "content": _content(source, record, f"content of message {place}", message.get("content"))})
    if messages[-1]["role"] != "assistant":
        raise source.error("the conversation does not end with an answer (role assistant); add it, or cut the rest", record.number)
    if messages[0]["role"] == "assistant":
        raise source.error("the conversation begins with an answer (role assistant); put the question before it", record.number)
    return messages


def _content(source: Source, record: Record, name: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        found = "is blank" if isinstance(value, str) else f"is {type(value).__name__}, not text"
        raise source.error(f"{name} {found}; give the text, or remove the record", record.number)
    return value


def read_conll(source: Source, options: RecordOptions) -> Iterator[Record]:
    """Sentences of tokens with IOB tags (a token a line, its tag last, blank lines between); the number is that of the first line.

    The sequence is the tokens joined by spaces; the field `tags` is the JSON list of their tags, in the same order.
    Raises DataError naming the line for a row of one column, and a tag that is none.
    """
    start, tokens, tags = 0, list[str](), list[str]()
    for number, line in read_lines(source.path):
        columns = line.split("\t") if "\t" in line else line.split()
        if not line.strip() or columns[0] == "-DOCSTART-":
            if tokens:
                yield _sentence(start, tokens, tags)
                start, tokens, tags = 0, [], []
            continue
        token, tag = columns[0].strip(), columns[-1].strip()
        if len(columns) < 2 or not token:
            raise source.error(f"{len(columns)} column; a row is a token and its tag, with a tab or space between: add the other", number)
        if len(token.split()) > 1:
            raise source.error(f"the token of the row holds white space; write its {len(token.split())} parts as rows of their own", number)
        if not IOB_TAG.fullmatch(tag):
            raise source.error(f"the tag {tag[:20]!r} is none of IOB (O, B-Disease, I-Disease, …); mend it", number)
        start = start or number
        tokens.append(token)
        tags.append(tag)
    if tokens:
        yield _sentence(start, tokens, tags)


def _sentence(start: int, tokens: list[str], tags: list[str]) -> Record:
    return Record(start, {"tags": json.dumps(tags, ensure_ascii=False)}, None, " ".join(tokens))
