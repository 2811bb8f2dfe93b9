"""One thing at a time done in the background, its error kept for whoever waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Writer(Generic[T]):
    """A thread that does one act after another, never two at once.

    It is a daemon: a process that is ended by force does not wait for it. Everybody else calls `wait`.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._result: T | None = None
        self._error: BaseException | None = None

    @property
    def failed(self) -> bool:
        """Whether `wait` would raise; known as soon as it has happened."""
        return self._error is not None

    def begin(self, act: Callable[[], T]) -> None:
        """Start `act`; what was begun before must have been waited for."""
        assert self._thread is None, "the last act was not waited for"
        self._thread = threading.Thread(target=self._do, args=(act,), name="checkpoint writer", daemon=True)
        self._thread.start()

    def wait(self) -> T | None:
        """What the last act gave, once it is done; None where nothing was ever begun. Raises its error, once."""
        self.join()
        error, self._error = self._error, None
        if error is not None:
            raise error
        return self._result

    def join(self) -> None:
        """Wait until nothing is being done; neither asks for its result nor raises its error."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _do(self, act: Callable[[], T]) -> None:
        try:
            self._result = act()
        except BaseException as error:  # noqa: BLE001  whatever it is, the one who waits must see it
            self._error = error
