"""How a label stands on a Lambda instance, whose name may have 64 letters.

A label that fits is the name. A longer one is the value of a tag, and the name a
short form of it, which is still found where no tags come back. Pure.
"""

from __future__ import annotations

import hashlib
from typing import Any

from launcher.errors import ProviderError
from launcher.providers.fields import Fields

MOST_LETTERS = 64
MOST_TAG_LETTERS = 128
"""Of a name and of a tag's value (Lambda Cloud API 1.10, InstanceLaunchRequest)."""
TAG = "gptops-label"


def name_fields(label: str) -> dict[str, Any]:
    """What a launch is told. Raises ProviderError for a label that fits nowhere."""
    if len(label) > MOST_TAG_LETTERS:
        raise ProviderError(
            f"the label {label[:40]!r}… is too long for Lambda",
            why=f"it has {len(label)} letters, and {MOST_TAG_LETTERS} are allowed",
            hint="give the project's folder a shorter name",
        )
    if len(label) <= MOST_LETTERS:
        return {"name": label}
    return {"name": short_name(label), "tags": [{"key": TAG, "value": label}]}


def short_name(label: str) -> str:
    """The label itself, or its beginning and a hash of it all: two labels never share one."""
    if len(label) <= MOST_LETTERS:
        return label
    unique = hashlib.sha256(label.encode()).hexdigest()[:16]
    return f"{label[: MOST_LETTERS - 1 - len(unique)]}~{unique}"


def label_of(instance: Fields, asked_for: str = "") -> str:
    """The label of an instance. `asked_for`: the one that is looked for, to be known by its short form."""
    for row in instance.row.get("tags") or []:
        tag = Fields.of(row, "lambda's tag")
        if tag.text("key", "") == TAG:
            return tag.text("value", "")
    name = instance.text("name", "")
    return asked_for if asked_for and name == short_name(asked_for) else name
