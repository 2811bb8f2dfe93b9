"""What a training says: one line at a time, at once, and from one rank only.

Lines are read over SSH while they are made, so each is flushed. Training lines are the product of the program and
go to stdout; errors go to stderr.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

from trainer.errors import TrainerError


class Console:
    """The voice of one process; the voice of every other rank is silent."""

    def __init__(self, speaks: bool = True, *, every_seconds: float = 5.0) -> None:
        self._speaks = speaks
        self._every_seconds = every_seconds
        self._quiet_until = 0.0

    def say(self, line: str) -> None:
        """One line, now."""
        if self._speaks:
            _write(sys.stdout, line)

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


def _write(stream: TextIO, line: str) -> None:
    # A sample may hold what a log in another encoding cannot show; that must not end a training.
    encoding = stream.encoding or "utf-8"
    stream.write(line.encode(encoding, "replace").decode(encoding) + "\n")
    stream.flush()
