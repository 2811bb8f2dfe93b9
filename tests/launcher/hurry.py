"""A clock for tests with real machines and published pauses: the first take their time, the second take none."""

from __future__ import annotations

import time

from launcher.clock import SystemClock


class HurriedClock(SystemClock):
    """Real time, in which waiting takes a blink: what was slept is added to it."""

    def __init__(self) -> None:
        self._skipped = 0.0

    def now(self) -> float:
        return super().now() + self._skipped

    def monotonic(self) -> float:
        return super().monotonic() + self._skipped

    def sleep(self, seconds: float) -> None:
        blink = min(seconds, 0.02)
        time.sleep(blink)
        self._skipped += seconds - blink
