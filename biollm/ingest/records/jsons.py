"""JSON: an object a line, or one list or object that holds them all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from biollm.core.streams import read_lines
from biollm.ingest.records.config import RecordOptions
from biollm.ingest.records.source import Record, Source


def read_json_lines(source: Source, options: RecordOptions) -> Iterator[Record]:
    """The objects of a JSONL file, their keys as fields. Blank lines are passed over.

    Raises DataError naming the line for what is not JSON, and JSON that is not an object.
    """
    for number, line in read_lines(source.path):
        if not line.strip():
            continue
        value = _parse(source, line, number)
        if not isinstance(value, dict):
            raise source.error(f'JSON, but {_kind(value)}; expected an object a line, {{"text": …}}: mend or remove the line', number)
        yield Record(number, value)


def read_json(source: Source, options: RecordOptions) -> Iterator[Record]:
    """The records of a JSON file: a list of objects, or an object of objects, whose keys are then the ids. Read whole into memory."""
    whole = _parse(source, "\n".join(line for _, line in read_lines(source.path)), None)
    if not isinstance(whole, list | dict):
        raise source.error(f"JSON, but {_kind(whole)}; expected a list of objects, or an object of objects: export it again", 1)
    pairs = [(None, value) for value in whole] if isinstance(whole, list) else list(whole.items())
    for number, (key, value) in enumerate(pairs, start=1):
        if not isinstance(value, dict):
            raise source.error(f"{_kind(value)}; every record should be an object: mend or remove it", number, "record")
        yield Record(number, value, key)


def _parse(source: Source, text: str, number: int | None) -> Any:
    def at(error: json.JSONDecodeError) -> int:
        return number or error.lineno

    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise source.error(f"not JSON: {error.msg} at column {error.colno}; mend or remove it", at(error)) from None
    except RecursionError:
        raise source.error("JSON nested deeper than any record is; mend or remove it", number or 1) from None
    except ValueError as error:  # a whole number of thousands of digits
        raise source.error(f"JSON that cannot be read: {str(error).partition(';')[0]}; mend or remove it", number or 1) from None
    if "\\ud" in text or "\\uD" in text:
        _refuse_half_characters(source, value, number or 1)
    return value


def _refuse_half_characters(source: Source, value: Any, number: int) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        message = "half of a character (a lone \\ud800 … \\udfff); write the character whole, or remove it"
        raise source.error(message, number) from None


def _kind(value: Any) -> str:
    names = {list: "a list", dict: "an object", str: "a text", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "null")
