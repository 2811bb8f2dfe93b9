"""What a training says: one line at a time, at once, and from one rank only.

Lines are read over SSH while they are made, so each is flushed. Training lines are the product of the program and
go to stdout; errors go to stderr.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from trainer.errors import EngineError, TrainerError
from trainer.quoting import shown


class Console:
    """The voice of one process; the voice of every other rank is silent."""

    def __init__(self, speaks: bool = True, *, every_seconds: float = 5.0, aside: bool = False) -> None:
        """`aside`: to stderr, for talk beside a program's product."""
        self._speaks, self._aside = speaks, aside
        self._every_seconds = every_seconds
        self._quiet_until = 0.0
        self._log: Path | None = None

    def keep_log(self, path: Path) -> None:
        """From now on, also add every line to this file, each with its time. Raises EngineError."""
        if self._speaks:
            self._log = path
            self.note("")

    def say(self, line: str) -> None:
        """One line, now."""
        if self._speaks:
            _write(sys.stderr if self._aside else sys.stdout, line)
            self.note(line)

    def note(self, text: str) -> None:
        """For the log file alone, where there is one."""
        if self._log is None:
            return
        try:
            with self._log.open("a", encoding="utf-8", errors="replace") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {text}\n" if text else "\n")
        except OSError as error:
            raise EngineError(
                f"cannot write {shown(self._log)}", why=error.strerror or str(error), hint="df -h"
            ) from error

    def say_sometimes(self, line: str, *, now: Callable[[], float] = time.monotonic) -> None:
        """One line of a kind that comes in crowds: only the first of every few seconds is said."""
        if now() >= self._quiet_until:
            self._quiet_until = now() + self._every_seconds
            self.say(line)


def duration(seconds: float) -> str:
    """`45s`, `2m10s`, `1h05m`, `2d03h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def show_error(error: TrainerError) -> None:
    """`error:`, `why:` and `hint:` on stderr."""
    _write(sys.stderr, str(error))


def size_text(size: float) -> str:
    """`1.4 GiB`, `0.3 MiB`."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def _write(stream: TextIO, text: str) -> None:
    # A sample may hold what a log in another encoding cannot show; that must not end a training.
    encoding = stream.encoding or "utf-8"
    try:
        stream.write(text.encode(encoding, "replace").decode(encoding) + "\n")
        stream.flush()
    except BrokenPipeError:  # nobody listens any more, and what is done goes on; metrics.jsonl has the numbers
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except OSError as error:
        raise EngineError("cannot write the log", why=error.strerror or str(error), hint="df -h") from error
