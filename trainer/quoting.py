"""How a path stands in a message: on one line, whatever is in its name.

`shown` is for eyes, `pasteable` is for a shell. Neither touches a disk. File
names may hold newlines, quotes, `$(…)` and bytes that are no text.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path


def shown(path: Path | str) -> str:
    """The path between backticks, with what cannot be printed escaped."""
    return f"`{_escaped(str(path))}`"


def pasteable(path: Path | str) -> str:
    """The path as one word of a shell command, on one line."""
    text = str(path)
    if text.isprintable():
        return shlex.quote(text)
    return "$'" + "".join(_escaped(c) if c not in "\\'" else f"\\{c}" for c in text) + "'"


def _escaped(text: str) -> str:
    return "".join(c if c.isprintable() else _escaped_character(c) for c in text)


def _escaped_character(character: str) -> str:
    return "".join(f"\\x{byte:02x}" if byte != 10 else "\\n" for byte in os.fsencode(character))
