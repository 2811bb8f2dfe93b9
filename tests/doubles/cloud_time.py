"""The time of a cloud's double: it stands still, is moved by a test, or follows a clock.

Time()                    each question moves it by `step` seconds, so a loop of polls gets somewhere
Time(step=0)              only `advance` moves it
Time(clock=fake_clock)    it is the clock's; `advance` adds to it
"""

from __future__ import annotations

from launcher.clock import Clock

START = 1_760_000_000.0
STEP_SECONDS = 5.0


class Time:
    """Seconds since the epoch, as the double sees them."""

    def __init__(self, clock: Clock | None = None, *, step: float = STEP_SECONDS) -> None:
        self._clock = clock
        self._moved = 0.0
        self.step = 0.0 if clock else step

    def now(self) -> float:
        return (self._clock.now() if self._clock else START) + self._moved

    def follow(self, clock: Clock) -> None:
        """From now on it is this clock's time."""
        self._clock, self.step = clock, 0.0

    def advance(self, seconds: float) -> None:
        """Let time pass for the cloud alone."""
        self._moved += seconds

    def tick(self) -> None:
        """A question has come."""
        self._moved += self.step
