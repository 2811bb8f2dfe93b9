"""The steps of opening a machine, as whoever opens it tells them: to a checklist, or line by line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from launcher.clock import Clock

TELL_EVERY_SECONDS = 10.0


class Steps(Protocol):
    """Who is told. launcher.console has one for terminals."""

    def begin(self, name: str) -> None:
        """A step has begun: `loading`."""
        ...

    def seen(self, what: str) -> None:
        """What the step still waits for, as often as it looks."""
        ...

    def line(self, text: str) -> None:
        """One line of what the step itself says."""
        ...

    def done(self, what: str, seconds: float) -> None:
        """The step that was begun has ended well: `SSH answers at root@203.0.113.7:40123`."""
        ...

    def failed(self, what: str) -> None:
        """The step that was begun has not."""
        ...

    def note(self, text: str) -> None:
        """Something to know beside the steps."""
        ...


@dataclass
class Lines:
    """Steps as plain lines. What a step waits for is repeated now and then, so that a log shows life."""

    say: Callable[[str], None]
    clock: Clock
    _told_at: float = field(default=0.0, init=False)

    def begin(self, name: str) -> None:
        self._told_at = self.clock.monotonic()

    def seen(self, what: str) -> None:
        if self.clock.monotonic() - self._told_at >= TELL_EVERY_SECONDS:
            self._told_at = self.clock.monotonic()
            self.say(f"waiting: {what}")

    def line(self, text: str) -> None:
        self.say(text)

    def done(self, what: str, seconds: float) -> None:
        self.say(f"✓ {what} ({seconds:.1f} s)")

    def failed(self, what: str) -> None:
        self.say(f"✗ {what}")

    def note(self, text: str) -> None:
        self.say(text)
