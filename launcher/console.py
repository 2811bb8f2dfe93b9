"""What the user sees: stdout is data, stderr is talk, and both make sense without colour.

The only module that speaks, but for launcher.screen, whose lines change in place.
It never decides what is said.
"""

from __future__ import annotations

import os
import re
import sys
import unicodedata
from collections.abc import Sequence
from typing import Any, TextIO

from launcher.errors import GptopsError


class OutputClosed(Exception):
    """Whoever read our stdout went away (`gptops ps | head -1`); there is nobody left to talk to."""


def say(text: str) -> None:
    """One line of talk on stderr."""
    talk(printable(text))


def warn(text: str) -> None:
    """Something the user should know that stops nothing."""
    talk(f"{styled('warning:', 'yellow', sys.stderr)} {printable(text)}")


def emit(text: str) -> None:
    """One line of data on stdout."""
    _data(printable(text))


def emit_bytes(data: bytes) -> None:
    """Data on stdout exactly as it is: a log, for example. Raises OutputClosed when nobody reads."""
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError as error:
        # The interpreter flushes stdout once more when it ends; that must not complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OutputClosed from error


def emit_json(value: Any) -> None:
    """One JSON value on stdout: for machines, but indented for the person who looks too."""
    import json  # late, like rich: most calls of gptops print none

    emit(json.dumps(value, indent=2))


def show_error(error: GptopsError) -> None:
    """What happened, why, and what to type, one under the other on stderr."""
    for name, text, colour in (("error", error.what, "red"), ("why", error.why, "bold"), ("hint", error.hint, "green")):
        if text:
            label = styled(f"{name}:", colour, sys.stderr) + " " * (7 - len(name) - 1)
            talk(label + printable(_hanging(text, 7)))


def error_json(error: GptopsError) -> dict[str, Any]:
    """The same, for `--json`."""
    fields = {"what": error.what, "why": error.why, "hint": error.hint, "exit_code": int(error.exit_code)}
    return {"error": fields}


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> None:
    """Aligned columns on stdout, numbers to the right. No colour but the bold heading on a terminal."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(_width(line[i]) for line in [list(columns), *cells]) for i in range(len(columns))]
    right = [bool(rows) and all(_is_number(row[i]) for row in rows) for i in range(len(columns))]
    if title:
        _data(styled(printable(title), "bold", sys.stdout))
    _data(styled(_row(columns, widths, right), "bold", sys.stdout))
    for row in cells:
        emit(_row(row, widths, right))


def printable(text: str) -> str:
    """`text` without what would move a terminal's cursor: a file name may hold anything. Newlines and tabs stay."""
    return "".join(c if c in "\n\t" or not unicodedata.category(c).startswith("C") else _escaped(c) for c in text)


def styled(text: str, style: str, stream: TextIO) -> str:
    """`text` in a style, where `stream` is a terminal and nobody objects (https://no-color.org)."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not stream.isatty():
        return text
    return f"\033[{_STYLES[style]}m{text}\033[0m"


_STYLES = {"bold": "1", "red": "1;31", "green": "32", "yellow": "33"}


def talk(line: str) -> None:
    """One line on stderr as it is, styles and all."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _data(line: str) -> None:
    emit_bytes((line + "\n").encode(sys.stdout.encoding or "utf-8", "backslashreplace"))


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def _hanging(text: str, indent: int) -> str:
    lines = [line.removeprefix(" " * indent) for line in text.splitlines()]
    return ("\n" + " " * indent).join(lines)


def _cell(value: object) -> str:
    return "-" if value is None or value == "" else str(value).replace("\n", "\\n").replace("\t", " ")


def _is_number(value: object) -> bool:
    """A figure, however it was written; a blank in a column of figures is one that is not known."""
    return isinstance(value, (int, float)) or value == "" or bool(re.fullmatch(r"-?[\d,]+(\.\d+)?%?", str(value)))


def _row(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    padded = [
        " " * (width - _width(cell)) + cell if to_right else cell + " " * (width - _width(cell))
        for cell, width, to_right in zip(cells, widths, right, strict=True)
    ]
    return "  ".join(padded).rstrip()


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)
