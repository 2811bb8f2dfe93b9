"""Lines on stderr that change in place while something takes long: a bar, a list of steps, a few rows.

Where stderr is no terminal they are single lines, or nothing. The only module that knows rich, which it imports late: a
table of `gptops ps` must not wait for it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from launcher import console

Update = Callable[[float], None]
"""Tells a progress bar how much is done by now."""


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
        task = bar.add_task(console.printable(description), total=total)
        yield lambda done: bar.update(task, completed=done)


class Checklist:
    """Steps of one long command, as a list on a terminal that lives: launcher.hosts.steps.Steps. See `checklist`."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar  # a rich.progress.Progress; its columns show name, time, detail
        self._current: Any = None

    def begin(self, name: str) -> None:
        """The next line of the list."""
        self._end()
        self._current = self._bar.add_task(console.printable(name), total=1, detail="", mark="")

    def seen(self, what: str) -> None:
        """What it waits for now, behind its name."""
        if self._current is not None:
            self._bar.update(self._current, detail=console.printable(what))

    line = seen

    def done(self, what: str, seconds: float) -> None:
        """A tick, and what came of it in place of its name."""
        if self._current is not None:
            self._bar.update(self._current, description=console.printable(what), detail="", mark="[green]✓[/]")
        self._end()

    def failed(self, what: str) -> None:
        """A cross, and why."""
        if self._current is not None:
            self._bar.update(self._current, detail=console.printable(what), mark="[red]✗[/]")
        self._end()

    def note(self, text: str) -> None:
        """A line above the list."""
        self._bar.console.print(console.printable(text), markup=False, highlight=False, soft_wrap=True)

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
            console.talk(f"{title:<12}{console.printable(value)}")

    def draw(self, rows: Sequence[tuple[str, str]], line: str) -> None:
        """What is so now: as rows, or in one line."""
        self._rows = list(rows)
        if self._screen is not None:
            self._refresh()
        elif line != self._told:
            self._told = line
            console.say(line)

    def say(self, text: str) -> None:
        """A line of talk, above the rows."""
        if self._screen is None:
            console.say(text)
        else:
            from rich.text import Text

            self._screen.console.print(Text(console.printable(text)))

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
            grid.add_row(Text(title, style="bold"), Text(console.printable(value)))
        self._screen.update(grid, refresh=True)
