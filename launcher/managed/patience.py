"""Trying again where trying again can help, for so long and not longer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

from launcher.clock import Clock
from launcher.errors import GptopsError, NoOffer, ProviderDown, ProviderError, RateLimited, Unreachable
from launcher.remote.backoff import Backoff

T = TypeVar("T")


def patiently(act: Callable[[], T], clock: Clock, seconds: float, say: Callable[[str], None]) -> T:
    """What `act` returns; what fails for a reason that may pass is tried again, longer each time, within `seconds`."""
    backoff, deadline = Backoff(first_seconds=5.0, limit_seconds=120.0), clock.monotonic() + seconds
    while True:
        try:
            return act()
        except GptopsError as error:
            pause = max(backoff.after_failure(), _asked_pause(error))
            if not may_pass(error) or clock.monotonic() + pause > deadline:
                raise
            say(f"{error.what} ({error.why}); trying again in {pause:.0f} s")
            clock.sleep(pause)


def may_pass(error: GptopsError) -> bool:
    """Whether the same again may succeed: the network, a provider's bad minute, a market that is empty now."""
    return isinstance(error, (Unreachable, ProviderDown, RateLimited, ProviderError, NoOffer))


def _asked_pause(error: GptopsError) -> float:
    """Seconds that a provider asked for."""
    seconds = error.retry_after_seconds if isinstance(error, RateLimited) else None
    return 0.0 if seconds is None or math.isinf(seconds) else seconds
