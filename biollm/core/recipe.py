"""How a recipe is read: one YAML file into frozen pydantic models, with errors that name file, key, found and expected.

This module knows no stage. The table in `biollm/stages.py` says which sections exist.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from biollm.core.errors import ConfigError, first_line


class Section(BaseModel):
    """A part of a recipe. Frozen; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    def resources(self) -> list[str]:
        """The input files that this section names; their content counts for whether a stage must run again."""
        return []

    def programs(self) -> list[str]:
        """The programs beside Python that these settings call, by their names on the PATH."""
        return []

    def reads_base(self) -> bool:
        """Whether these settings need the base model, where their stage can read it: then its content counts too."""
        return True

    def identity(self) -> dict[str, Any]:
        """The settings that decide the result: all but those that say only how it is come by, which are marked `execution`.

        A run may go on, and its result stays up to date, when the others change.
        """
        return {name: _identity(getattr(self, name)) for name, field in type(self).model_fields.items() if not _is_execution(field)}

    def contradictions(self, recipe: Any) -> list[str]:
        """What in this section does not fit the other sections of its recipe, a sentence each: found before anything runs."""
        return []


# Field(…, json_schema_extra=EXECUTION): the setting changes where, how fast and in how much memory, but no more than the last bits.
EXECUTION: dict[str, Any] = {"execution": True}


def _is_execution(field: FieldInfo) -> bool:
    return isinstance(field.json_schema_extra, dict) and bool(field.json_schema_extra.get("execution"))


def _identity(value: Any) -> Any:
    if isinstance(value, Section):
        return value.identity()
    if isinstance(value, list):
        return [_identity(item) for item in value]
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


class BaseModelConfig(Section):
    """The pretrained model that is adapted."""

    model: str = Field(
        default="",
        description="the base model: a folder (or .gguf file) beside the recipe, package:NAME/path, or hub:org/name; empty: none",
    )

    def resources(self) -> list[str]:
        return [self.model] if self.model else []


class RecipeHeader(Section):
    """What every recipe has beside its stages."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="results go to results/<name>/")
    seed: int = Field(default=0, ge=0, description="all random choices derive from it")
    threads: int | None = Field(default=None, ge=1, description="CPU threads of numerical work; default: all cores at hand")
    base: BaseModelConfig = BaseModelConfig()


R = TypeVar("R", bound=Section)
RECIPE_FOLDER = "recipe_folder"  # what validators are told besides the values


def read_recipe(path: Path, overrides: list[str], model: type[R]) -> R:
    """Read and check a recipe file.

    overrides: `key.sub=value` strings, applied over the file, values in YAML.
    Raises ConfigError naming file, key, what was found and what was expected; all faults of the file in one message.
    """
    values = _read_yaml(path)
    for override in overrides:
        _apply(values, override)
    for key, field in model.model_fields.items():
        if key in values and values[key] is None and _section_type(field.annotation):
            values[key] = {}  # `embed:` with nothing behind it asks for the stage with its defaults
    try:
        return model.model_validate(values, context={RECIPE_FOLDER: path.parent})
    except ValidationError as error:
        problems = [_explain(detail, model, path) for detail in error.errors()]
        raise ConfigError("\n".join(problems)) from None


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML without its worst surprise: a key that stands twice is an error, not a silent override."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: list[Any] = []
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":  # `<<: *anchor`: its keys may be given anew
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"key '{key}' stands twice", problem_mark=key_node.start_mark)
            seen.append(key)
        return super().construct_mapping(node, deep)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such recipe file; recipes lie in pipelines/, for example pipelines/quickstart.yaml") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder; give the recipe file in it") from None
    except PermissionError:
        raise ConfigError(f"{path}: cannot be read: permission was denied; give yourself the right to read it") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    try:
        values = yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise ConfigError(f"{path} line {line}: not valid YAML: {error.problem}; mend that line") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {first_line(error)}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: a recipe is a mapping of keys to values; found {type(values).__name__}")
    return values


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override}: expected key=value, for example --set ingest.window_bases=512")
    *parents, last = key.split(".")
    place = values
    for depth, parent in enumerate(parents):
        place = place.setdefault(parent, {})
        if not isinstance(place, dict):
            raise ConfigError(f"--set {override}: {'.'.join(parents[: depth + 1])} holds a value, not a section")
    try:
        place[last] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"--set {override}: the value is not valid YAML; quote it") from None


def _explain(detail: ErrorDetails, model: type[BaseModel], path: Path) -> str:
    location = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        known = _keys_at(model, detail["loc"][:-1])
        close = difflib.get_close_matches(str(detail["loc"][-1]), known, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"known keys here: {', '.join(known)}"
        return f"{path}: unknown key '{location}'; {hint}"
    if detail["type"] == "missing":
        return f"{path}: key '{location}' is missing; add it"
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if detail["type"] == "model_type":
        message = f"should be a section with keys of its own: {', '.join(_keys_at(model, detail['loc']))}"
    shown = repr(detail["input"])
    shown = shown if len(shown) <= 60 else shown[:57] + "…"
    return (
        f"{path}: {location or 'recipe'} is {shown}; it {message}"
        if message.startswith("should")
        else f"{path}: {f'{location}: ' if location else ''}{message}"
    )


def _keys_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys that a section may hold, found by walking the location of an error through the models."""
    place: Any = model
    for part in location:
        field = place.model_fields.get(str(part)) if isinstance(place, type) and issubclass(place, BaseModel) else None
        if field is not None:
            place = _section_type(field.annotation) or place
    return list(place.model_fields) if isinstance(place, type) and issubclass(place, BaseModel) else []


def _section_type(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        if found := _section_type(argument):
            return found
    return None
