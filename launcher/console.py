"""What the user sees: stdout is data, stderr is talk, and both make sense without colour.

The only module that speaks, and the only one that knows rich, which it imports
late: a table of `gptops ps` must not wait for it. It never decides what is said.
"""

from __future__ import annotations

import os
import re
import sys
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from launcher.errors import GptopsError

Update = Callable[[float], None]
"""Tells a progress bar how much is done by now."""


class OutputClosed(Exception):
    """Whoever read our stdout went away (`gptops ps | head -1`); there is nobody left to talk to."""


def say(text: str) -> None:
    """One line of talk on stderr."""
    _talk(printable(text))


def warn(text: str) -> None:
    """Something the user should know that stops nothing."""
    _talk(f"{styled('warning:', 'yellow', sys.stderr)} {printable(text)}")


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
            _talk(label + printable(_hanging(text, 7)))


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


@contextmanager
def progress(description: str, total: float) -> Iterator[Update]:
    """A bar with rate and time left on stderr while the block runs; `update(done)` moves it to `done` bytes.

    Nothing at all where stderr is not a terminal: the caller's summary line says what there is to say.
    """
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    # rich takes longer to import than `gptops ps` may run.
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    name = TextColumn("{task.description}", markup=False)
    columns = (name, BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(printable(description), total=total)
        yield lambda done: bar.update(task, completed=done)


class Checklist:
    """Steps of one long command, as a list on a terminal that lives: launcher.hosts.steps.Steps. See `checklist`."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar  # a rich.progress.Progress; its columns show name, time, detail
        self._current: Any = None

    def begin(self, name: str) -> None:
        """The next line of the list."""
        self._end()
        self._current = self._bar.add_task(printable(name), total=1, detail="", mark="")

    def seen(self, what: str) -> None:
        """What it waits for now, behind its name."""
        if self._current is not None:
            self._bar.update(self._current, detail=printable(what))

    line = seen

    def done(self, what: str, seconds: float) -> None:
        """A tick, and what came of it in place of its name."""
        if self._current is not None:
            self._bar.update(self._current, description=printable(what), detail="", mark="[green]✓[/]")
        self._end()

    def failed(self, what: str) -> None:
        """A cross, and why."""
        if self._current is not None:
            self._bar.update(self._current, detail=printable(what), mark="[red]✗[/]")
        self._end()

    def note(self, text: str) -> None:
        """A line above the list."""
        self._bar.console.print(printable(text), markup=False, highlight=False, soft_wrap=True)

    def _end(self) -> None:
        if self._current is not None:
            self._bar.update(self._current, completed=1)
            self._current = None


@contextmanager
def checklist() -> Iterator[Checklist | None]:
    """A list on stderr of what the block's steps are and how long each has taken; it stays when the block ends.

    None where stderr is not a terminal: the caller says its steps line by line.
    """
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeElapsedColumn
    from rich.table import Column
    from rich.text import Text

    class Mark(ProgressColumn):
        """A spinner, and then how it ended."""

        def __init__(self) -> None:
            super().__init__(Column(width=1))
            self._spinner = SpinnerColumn("dots", finished_text=" ")

        def render(self, task: Task) -> Any:
            return Text.from_markup(task.fields["mark"]) if task.finished else self._spinner.render(task)

    name = TextColumn("{task.description}", markup=False)
    detail = TextColumn("{task.fields[detail]}", markup=False, table_column=Column(ratio=1, no_wrap=True))
    with Progress(Mark(), name, TimeElapsedColumn(), detail, console=Console(stderr=True), expand=True) as bar:
        yield Checklist(bar)


class Live:
    """A few rows on a terminal's stderr that change in place; elsewhere a line whenever something has changed."""

    def __init__(self) -> None:
        self._screen: Any = None  # rich.live.Live while there is a terminal
        self._rows: list[tuple[str, str]] = []
        self._busy = ""
        self._told = ""

    def __enter__(self) -> Live:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live as Screen

            self._screen = Screen(console=Console(stderr=True), auto_refresh=False, transient=True)
            self._screen.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._screen is not None:
            self._screen.stop()
            self._screen = None
        for title, value in self._rows if sys.stderr.isatty() else []:
            _talk(f"{title:<12}{printable(value)}")

    def draw(self, rows: Sequence[tuple[str, str]], line: str) -> None:
        """What is so now: as rows, or in one line."""
        self._rows = list(rows)
        if self._screen is not None:
            self._refresh()
        elif line != self._told:
            self._told = line
            say(line)

    def say(self, text: str) -> None:
        """A line of talk, above the rows."""
        if self._screen is None:
            say(text)
        else:
            from rich.text import Text

            self._screen.console.print(Text(printable(text)))

    @contextmanager
    def progress(self, description: str, total: float) -> Iterator[Update]:
        """A transfer, as one more row."""

        def update(done: float) -> None:
            self._busy = f"{description}: {done / max(total, 1):.0%}"
            self._refresh()

        try:
            yield update
        finally:
            self._busy = ""
            self._refresh()

    def _refresh(self) -> None:
        if self._screen is None:
            return
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 2))
        for title, value in [*self._rows, *([("transfer", self._busy)] if self._busy else [])]:
            grid.add_row(Text(title, style="bold"), Text(printable(value)))
        self._screen.update(grid, refresh=True)


def printable(text: str) -> str:
    """`text` without what would move a terminal's cursor: a file name may hold anything. Newlines and tabs stay."""
    return "".join(c if c in "\n\t" or not unicodedata.category(c).startswith("C") else _escaped(c) for c in text)


def styled(text: str, style: str, stream: TextIO) -> str:
    """`text` in a style, where `stream` is a terminal and nobody objects (https://no-color.org)."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not stream.isatty():
        return text
    return f"\033[{_STYLES[style]}m{text}\033[0m"


_STYLES = {"bold": "1", "red": "1;31", "green": "32", "yellow": "33"}


def _talk(line: str) -> None:
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
