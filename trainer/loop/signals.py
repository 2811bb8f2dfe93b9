"""Being told to stop: SIGTERM, SIGUSR1 and the first Ctrl-C end a training in good order, whatever it is doing.

While it trains, they become a flag that the loop looks at between steps and between validation batches. Before that,
while data is prepared or a model loaded, there is nothing to save: what is at work is left at once, by an exception.
The flag is this process's alone; the loop agrees over all ranks before it acts on it. No torch: the command line
listens before it imports any.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from trainer.errors import ExitCode, TrainerError

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
_listening: list[StopRequest] = []


class StopRequested(TrainerError):
    """Somebody asked to stop before the training had begun. Nothing is lost: start it again."""

    exit_code = ExitCode.STOPPED

    def __init__(self, reason: str) -> None:
        super().__init__(f"stopped by {reason} before the first step", hint="start it again, and it goes on")
        self.reason = reason

    def __reduce__(self) -> tuple[type[StopRequested], tuple[str]]:
        return StopRequested, (self.reason,)  # it travels to the other ranks


class StopRequest:
    """While entered, the signals set `reason` instead of ending the process. A second Ctrl-C ends it at once."""

    def __init__(self, *, deaf_afterwards: bool) -> None:
        """`deaf_afterwards`: ignore the signals once left. torchrun sends SIGTERM to every process when the first one
        has ended, and a process that dies of that has lost its exit code."""
        self.reason = ""
        """The signal's name, or "" while nobody asked."""
        self.trains = False
        """Whether the loop looks at `reason`, so that nothing needs to be interrupted."""
        self._interruptible = False
        self._deaf_afterwards = deaf_afterwards
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # only there may handlers be set
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        _listening.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _listening.remove(self)
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_IGN if self._deaf_afterwards else handler)

    @contextmanager
    def training(self) -> Iterator[None]:
        """In here the loop looks at `reason` by itself."""
        self.trains = True
        try:
            yield
        finally:
            self.trains = False

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """In here a request raises StopRequested where nothing is being trained yet; so does one that came before."""
        try:
            self._interruptible = not self.trains
            if self.reason:
                self._interrupt()
            yield
        finally:
            self._interruptible = False

    def _interrupt(self) -> None:
        if self._interruptible:
            self._interruptible = False  # what cleans up is not interrupted again
            raise StopRequested(self.reason)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.reason = signal.Signals(number).name
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            # print() is not safe inside a handler: it may be interrupted while it holds the stream.
            os.write(2, b"\nstopping in good order; Ctrl-C again ends at once, without saving\n")
        self._interrupt()


@contextmanager
def stop_request(environ: Mapping[str, str] = os.environ) -> Iterator[StopRequest]:
    """The request that is listened for already, or else a new one."""
    if _listening:
        yield _listening[-1]
    else:
        # Slurm too sends SIGTERM from more than one side: to every process of a job, and by its batch script.
        several = int(environ.get("WORLD_SIZE") or 1) > 1 or "SLURM_JOB_ID" in environ
        with StopRequest(deaf_afterwards=several) as stop:
            yield stop


@contextmanager
def interruptible() -> Iterator[None]:
    """`StopRequest.interruptible` of whoever listens; nothing where nobody does."""
    if not _listening:
        yield
        return
    with _listening[-1].interruptible():
        yield
