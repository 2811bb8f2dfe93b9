"""Being told to stop: SIGTERM, SIGUSR1 and the first Ctrl-C become a flag that the loop looks at between steps.

The flag is this process's alone; the loop agrees over all ranks before it acts on it.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopRequest:
    """While entered, the signals set `reason` instead of ending the process. A second Ctrl-C ends it at once."""

    def __init__(self, *, deaf_afterwards: bool) -> None:
        """`deaf_afterwards`: ignore the signals once left. torchrun sends SIGTERM to every process when the first one
        has ended, and a process that dies of that has lost its exit code."""
        self.reason = ""
        """The signal's name, or "" while nobody asked."""
        self._deaf_afterwards = deaf_afterwards
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # only there may handlers be set
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_IGN if self._deaf_afterwards else handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.reason = signal.Signals(number).name
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            # print() is not safe inside a handler: it may be interrupted while it holds the stream.
            os.write(
                2,
                b"\nsaving at the end of this step; Ctrl-C again ends at once, without saving\n",
            )
