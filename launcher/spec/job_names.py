"""The names under `jobs`, `hosts` and `groups` in a jobs.yaml, without reading it as YAML.

For shell completion, which must answer within a keystroke: the real reader brings
pydantic and PyYAML along. Only names on lines of their own are seen; whatever else
stands there, broken files included, yields fewer names, never an error.
"""

from __future__ import annotations

import re
from pathlib import Path

_SECTION = re.compile(r"(?P<name>[A-Za-z]+):\s*(#.*)?")
_ENTRY = re.compile(r"(?P<indent> +)(?P<quote>[\"']?)(?P<name>[A-Za-z0-9][A-Za-z0-9_-]{0,39})(?P=quote):(\s.*)?")
_MOST_BYTES = 1_000_000


def names_in(path: Path | None, section: str) -> list[str]:
    """In the order of the file; none where there is no such file."""
    try:
        if path is None or path.stat().st_size > _MOST_BYTES:
            return []
        return _names(path.read_text(encoding="utf-8", errors="replace"), section)
    except OSError:
        return []


def _names(text: str, section: str) -> list[str]:
    found: list[str] = []
    inside, indent = False, ""
    for line in text.splitlines():
        if line and not line[0].isspace() and not line.startswith("#"):
            begins = _SECTION.fullmatch(line)
            inside, indent = begins is not None and begins["name"] == section, ""
        elif inside and (entry := _ENTRY.fullmatch(line)):
            indent = indent or entry["indent"]
            if entry["indent"] == indent:
                found.append(entry["name"])
    return found
