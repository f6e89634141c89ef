"""What the documentation takes from the code while it is built, so that it cannot go stale.

<!-- options: pretrain -->     the settings of a stage, one table for its section and one for each section in it
<!-- stages -->                the table of stages
<!-- commands -->              every command with its help
<!-- fmt: off -->              nothing: it keeps ruff, which formats Python on pages, from taking the marker of a snippet for Python
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from mkdocs.exceptions import PluginError
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from typer.main import get_command

from biollm.cli import app
from biollm.core.recipe import RecipeHeader
from biollm.stages import BY_NAME, STAGES

_MARKER = re.compile(r"^<!-- (\w+)(?:: (\w+))? -->$", re.MULTILINE)


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """mkdocs calls this with the text of each page before it is rendered. Raises PluginError for a marker that nothing makes."""

    def made(found: re.Match[str]) -> str:
        kind, name = found.groups()
        if kind not in _MAKERS:
            raise PluginError(f"{page.file.src_path}: nothing makes '{found[0]}'; known: {', '.join(_MAKERS)}")
        return _MAKERS[kind](name)

    return _MARKER.sub(made, markdown)


def options(name: str) -> str:
    """Tables of the settings of a stage, or of the recipe's own keys (`recipe`)."""
    if name != "recipe" and name not in BY_NAME:
        raise PluginError(f"options: {name} is no stage; there are {', '.join(BY_NAME)}")
    model = RecipeHeader if name == "recipe" else BY_NAME[name].config_class()
    return "\n\n".join(_tables(model, "" if name == "recipe" else name, set()))


def _tables(model: type[BaseModel], key: str, seen: set[type[BaseModel]]) -> Iterator[str]:
    """A table for a section, then those of the sections that its settings hold, each once."""
    seen.add(model)
    heading = f"`{key}`" if key else "The recipe"
    told = " ".join((model.__doc__ or "").split()).partition(". ")[0].rstrip(".")
    rows = [_row(name, field) for name, field in model.model_fields.items()]
    yield f"**{heading}**: {told}\n\n| key | type | default | meaning |\n|---|---|---|---|\n" + "\n".join(rows)
    for name, field in model.model_fields.items():
        for inner in _sections(field.annotation):
            if inner not in seen:
                yield from _tables(inner, f"{key}.{name}" if key else name, seen)


def _row(name: str, field: FieldInfo) -> str:
    told = field.description or _first_line(next(_sections(field.annotation), None)) or ""
    return f"| `{field.alias or name}` | {_cell(type_name(field.annotation))} | {_cell(_default(field))} | {_cell(told)} |"


def _first_line(model: type[BaseModel] | None) -> str | None:
    return (model.__doc__ or "").strip().splitlines()[0].rstrip(".") if model is not None else None


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined or value is None or value == "":
        return ""
    if isinstance(value, BaseModel):
        return "see below"
    if isinstance(value, list) and any(isinstance(item, BaseModel) for item in value):
        return "see below"
    return f"`{'true' if value is True else 'false' if value is False else value}`"


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _sections(argument)


def type_name(annotation: Any) -> str:
    """A type as people write it in a recipe: int, list of str, one of a, b."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is NoneType:
        return "nothing"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    if origin is Literal:
        return "one of " + ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, UnionType):
        words = [word for a in arguments if get_origin(a) is Literal for word in get_args(a)]
        others = [type_name(a) for a in arguments if a is not NoneType and get_origin(a) is not Literal]
        return " or ".join(dict.fromkeys([*([type_name(Literal[tuple(words)])] if words else []), *others]))
    if origin is list:
        return f"list of {type_name(arguments[0])}"
    if origin is tuple:
        return "list of " + ", ".join(dict.fromkeys(type_name(a) for a in arguments if a is not ...))
    if origin is dict:
        return f"{type_name(arguments[0])} to {type_name(arguments[1])}"
    if hasattr(annotation, "__metadata__"):  # Annotated
        return type_name(arguments[0])
    return {"str": "text", "int": "whole number", "float": "number", "bool": "true or false"}.get(annotation.__name__, annotation.__name__)


def stages(_: str | None) -> str:
    lines = [f"| [`{stage.name}`]({stage.name}.md) | {stage.reads} | {stage.writes} | {_upstream(stage)} |" for stage in STAGES]
    return "| stage | reads | writes | of the stages |\n|---|---|---|---|\n" + "\n".join(lines)


def _upstream(stage: Any) -> str:
    return ", ".join([*stage.needs, *(f"({name})" for name in stage.uses)])


def commands(_: str | None) -> str:
    """The help of each command, as the terminal shows it."""
    group: Any = get_command(app)
    made = []
    for name, command in group.commands.items():
        context = command.make_context(f"biollm {name}", [], resilient_parsing=True, terminal_width=100, max_content_width=100)
        made.append(f"## biollm {name}\n\n```text\n{command.get_help(context)}\n```")
    return "\n\n".join(made)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


_MAKERS: dict[str, Callable[[Any], str]] = {
    "options": options,
    "stages": stages,
    "commands": commands,
    "fmt": lambda _: "",
}
