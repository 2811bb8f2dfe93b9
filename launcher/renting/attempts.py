"""What a failed attempt to open a machine means for the next one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from launcher.errors import (
    GptopsError,
    HostRefused,
    HostUnfit,
    MayHaveCreated,
    NeverReady,
    OfferGone,
    ProviderDown,
    RateLimited,
    Unreachable,
)
from launcher.hosts.opening import SetupUnfit
from launcher.hosts.planning import HostPlan
from launcher.renting.market import RentRequest

THE_MACHINES = (NeverReady, Unreachable, HostUnfit, HostRefused)
"""The machine's own faults: another one may do."""
THE_MARKETS = (OfferGone, MayHaveCreated, ProviderDown, RateLimited)
"""Nobody's fault: the offer is taken, or nobody knows."""

MOST_GONE = 10
"""Offers that somebody else was faster to take. A list that is all gone is not worth a longer chase."""
LIMITED_SECONDS = 12.0
"""Pause before the next create where a provider that limits the rate does not say how long: Vast's penalty."""


@dataclass(frozen=True)
class Attempt:
    """One machine that did not become ready, and is ended."""

    plan: HostPlan
    error: GptopsError
    was_hurried: bool = False
    """The deadline left it less time than a machine of its kind may take."""

    @property
    def was_there(self) -> bool:
        """It was created: one of the tries that the user allowed."""
        return not isinstance(self.error, (OfferGone, RateLimited))

    @property
    def is_the_machines_fault(self) -> bool:
        """Worth remembering: the same machine would fail again. What setup.sh misses, the image lacks."""
        if isinstance(self.error, Unreachable):
            return not self.was_hurried
        if isinstance(self.error, NeverReady):
            return not self.error.is_the_markets
        return isinstance(self.error, THE_MACHINES) and not isinstance(self.error, SetupUnfit)

    @property
    def words(self) -> str:
        """`8x H100 SXM, Oregon: it did not answer in 900 s`."""
        why = self.error.why.splitlines()[0] if self.error.why else ""
        return f"{self.plan.offer.description}: {self.error.what}" + (f" ({why})" if why else "")


def is_worth_another(error: GptopsError) -> bool:
    """Whether the next offer may do where this one did not."""
    return isinstance(error, (*THE_MACHINES, *THE_MARKETS)) and not _is_forever(error)


def why_no_more(attempts: Sequence[Attempt], request: RentRequest, seconds: float) -> str:
    """Why nothing is tried after these, which took so long; "" while something is."""
    there = sum(attempt.was_there for attempt in attempts)
    if there >= request.tries:
        return f"{there} tries"
    if len(attempts) - there >= MOST_GONE:
        return f"{len(attempts) - there} offers were gone"
    if seconds >= request.deadline_seconds:
        return f"not within {request.deadline_seconds / 60:.0f} minutes"
    return ""


def none_became_ready(attempts: Sequence[Attempt], over: str) -> GptopsError:
    """The error for all of them; one attempt's is its own. `over`: why there are no more."""
    if len(attempts) == 1:
        return attempts[0].error
    return NeverReady(
        f"no machine became ready: {over}",
        why="\n".join(attempt.words for attempt in attempts),
        hint="they are ended, nothing bills; gptops up again takes others, see gptops offers",
    )


def _is_forever(error: GptopsError) -> bool:
    return isinstance(error, RateLimited) and error.retry_after_seconds == float("inf")
