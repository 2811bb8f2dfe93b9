"""The one base class of every configuration section, and how its complaints read.

Sections are frozen, refuse unknown keys and do not coerce: `"3"` is not 3.
Docstrings under fields become the descriptions of the JSON Schema.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from trainer.config.problems import ConfigError, Problem, Unfit, did_you_mean

Strings = Annotated[tuple[str, ...], Field(strict=False)]
"""A YAML list of texts, kept as a tuple."""


class Model(BaseModel):
    """A section of a configuration: frozen, strict, self-describing."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


M = TypeVar("M", bound=BaseModel)


def validated(model: type[M], value: Any, *, source: str, at: str = "") -> M:
    """`value` as a `model`. Raises ConfigError that names `source`, the path below `at`, and each value."""
    if not isinstance(value, Mapping):
        raise ConfigError([Problem(source, at, f"must be a mapping of keys to values, not {_shown(value)}")])
    try:
        return model.model_validate(value)
    except ValidationError as error:
        details = error.errors()
        causes = (detail.get("ctx", {}).get("error") for detail in details)
        unfit = next((cause for cause in causes if isinstance(cause, Unfit)), None)
        said = {"why": unfit.why, "hint": unfit.hint} if unfit else {}
        raise ConfigError((_problem(model, detail, source, at) for detail in details), **said) from error


def _problem(model: type[BaseModel], detail: ErrorDetails, source: str, at: str) -> Problem:
    path = _without_union_tags(detail["loc"])
    dotted = ".".join([part for part in [at] if part] + [str(part) for part in path])
    return Problem(source, dotted, _message(model, detail, path))


def _message(model: type[BaseModel], detail: ErrorDetails, path: list[str | int]) -> str:
    kind, seen, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        known = list(_fields_at(model, path[:-1]))
        return f"unknown key{did_you_mean(str(path[-1]), known) or '; known here: ' + ', '.join(known)}"
    if kind == "missing":
        return f"is required and missing{_choices(model, path)}"
    if kind in ("literal_error", "enum"):
        allowed = context["expected"]
        words = allowed.replace("'", "").replace(" or ", ", ").split(", ")
        return f"{_shown(seen)} is not one of {allowed}{did_you_mean(str(seen), words)}"
    if kind in _WANTED and seen is None:
        return f"is empty; leave the key out, or give it {_WANTED[kind]}"
    if kind in _WANTED:
        return f"{_shown(seen)} is not {_WANTED[kind]}{_quoted_number(seen)}"
    if kind in ("value_error", "assertion_error"):
        return str(context.get("error", detail["msg"]))
    message = detail["msg"].removeprefix("Input ").removeprefix("should ")
    return f"{_shown(seen)} is not allowed: should {message}"


_WANTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text (quote it)",
    "bool_type": "`true` or `false`",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
}


def _quoted_number(seen: Any) -> str:
    if isinstance(seen, str):
        try:
            float(seen)
        except ValueError:
            return ""
        return ": it is text, write it without quotes and leading zeros"
    return ""


def _choices(model: type[BaseModel], path: list[str | int]) -> str:
    for part in path[:-1]:
        model = _inner_model(model, part) or model
    field = model.model_fields.get(str(path[-1]))
    words = typing.get_args(field.annotation) if field and typing.get_origin(field.annotation) is typing.Literal else ()
    return f"; one of: {', '.join(str(word) for word in words)}" if words else ""


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "`true`", False: "`false`"}[value]
    text = repr(value) if isinstance(value, str) else str(value)
    return f"`{text if len(text) <= 80 else text[:77] + '...'}`"


def _without_union_tags(loc: tuple[int | str, ...]) -> list[str | int]:
    return [part for part in loc if not (isinstance(part, str) and ("[" in part or part in ("str", "int", "float")))]


def _fields_at(model: type[BaseModel], path: list[str | int]) -> Iterator[str]:
    current: Any = model
    for part in path:
        current = _inner_model(current, part)
        if current is None:
            return
    yield from current.model_fields


def _inner_model(model: type[BaseModel], part: str | int) -> type[BaseModel] | None:
    field = model.model_fields.get(str(part))
    if field is None:  # a key of a mapping of models: the annotation above already led to the model
        return model
    candidates = [field.annotation, *typing.get_args(field.annotation)]
    for candidate in candidates:
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None
