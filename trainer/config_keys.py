"""Every key of a training configuration with its default and what it means, from the models themselves.

Text in, text out; no torch.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from trainer.config import RunConfig


@dataclass(frozen=True)
class Key:
    """One key as it is written on a command line."""

    path: str
    default: Any
    allowed: str
    """`auto | fp32 | bf16 | fp16`, or a bound; "" where any value of the type will do."""
    description: str


def keys(section: type[BaseModel] = RunConfig, at: str = "") -> Iterator[Key]:
    """All keys, in the order in which they are defined."""
    for name, field in section.model_fields.items():
        path = f"{at}.{name}" if at else name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from keys(field.annotation, path)
        else:
            yield Key(path, field.default, _allowed(field), " ".join((field.description or "").split()))


def keys_text(width: int = 100) -> str:
    """A page to read: `key=default`, what is allowed, what it does."""
    lines = []
    for key in keys():
        allowed = f"   ({key.allowed})" if key.allowed else ""
        lines.append(f"{key.path}={_shown(key.default)}{allowed}")
        lines += textwrap.wrap(key.description, width, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines)


def _allowed(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return " | ".join(str(word) for word in get_args(field.annotation))
    bounds = [
        f"{sign} {getattr(bound, name)}"
        for bound in field.metadata
        for kind, name, sign in _BOUNDS
        if isinstance(bound, kind)
    ]
    return " and ".join(bounds)


_BOUNDS = ((Ge, "ge", ">="), (Gt, "gt", ">"), (Le, "le", "<="), (Lt, "lt", "<"))


def _shown(value: Any) -> str:
    return value if isinstance(value, str) and value.isprintable() else json.dumps(value)
