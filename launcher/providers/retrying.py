"""A provider around a provider: asks again what may be asked again, for a bounded time.

`create` never is: it is the one question that costs money when it is asked twice.
Everything else only reads, or ends what may be ended twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from launcher.clock import Clock
from launcher.errors import ProviderDown, ProviderError, RateLimited
from launcher.providers.base import CreateRequest, Instance, Offer, OffSwitch, Provider, Wanted
from launcher.remote.backoff import Backoff

T = TypeVar("T")

TRIES = 5
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
"""A vendor that wants more is reported: nobody waits in front of a still terminal for minutes."""


@dataclass(frozen=True)
class Retrying:
    """Keeps the provider's contract; only slower, and less often in error."""

    provider: Provider
    clock: Clock

    @property
    def name(self) -> str:
        return self.provider.name

    @property
    def off_switch(self) -> OffSwitch:
        return self.provider.off_switch

    def console_url(self, instance_id: str) -> str:
        return self.provider.console_url(instance_id)

    def offers(self, wanted: Wanted) -> list[Offer]:
        return self._again(lambda: self.provider.offers(wanted))

    def create(self, offer: Offer, request: CreateRequest) -> Instance:
        """Asked once, whatever comes."""
        return self.provider.create(offer, request)

    def authorize(self, instance_id: str, public_key: str) -> None:
        self._again(lambda: self.provider.authorize(instance_id, public_key))

    def get(self, instance_id: str) -> Instance | None:
        return self._again(lambda: self.provider.get(instance_id))

    def labelled(self, prefix: str) -> list[Instance]:
        return self._again(lambda: self.provider.labelled(prefix))

    def destroy(self, instance_id: str) -> None:
        self._again(lambda: self.provider.destroy(instance_id))

    def _again(self, ask: Callable[[], T]) -> T:
        backoff = Backoff(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
        while True:
            try:
                return ask()
            except (RateLimited, ProviderDown) as error:
                pause = max(backoff.after_failure(), _asked_for(error))
                if backoff.failures >= TRIES or pause > LONGEST_PAUSE_SECONDS:
                    raise
                self.clock.sleep(pause)


def _asked_for(error: ProviderError) -> float:
    return (error.retry_after_seconds or 0.0) if isinstance(error, RateLimited) else 0.0
