"""What may be spent: limits in dollars and hours, and how far away they are. Pure.

Asked before a machine is rented, at every look at a run, and when a machine's
dead-man's switch is set. Who stops what is the callers' part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from launcher.errors import OverBudget

SHORTEST_HOURS = 0.1
"""A machine that the money pays for six minutes has not even loaded its image."""


@dataclass(frozen=True)
class Limits:
    """What a job may cost in all; None: no limit."""

    max_usd: float | None = None
    max_hours: float | None = None
    max_usd_per_hour: float | None = None
    """For everything that gptops has open at the provider, the new machine included."""


@dataclass(frozen=True)
class Live:
    """One machine that the provider lists under our label, whether the ledger knows it or not."""

    name: str
    """Its name here, or its label where nobody here knows it."""
    price_per_hour: float


def require_room(
    limits: Limits, spent_usd: float, price_per_hour: float, *, hours: float = 0.0, live: Sequence[Live] = ()
) -> None:
    """Raises OverBudget where renting at this price would break a limit, or do so within minutes.

    `spent_usd` and `hours`: what the job has used already. `live`: the provider's own list, asked now, so that a
    machine which somebody forgot counts.
    """
    left = hours_left(limits, spent_usd, hours, price_per_hour)
    if left is not None and left < SHORTEST_HOURS:
        raise _used_up(limits, spent_usd, hours, price_per_hour)
    together = price_per_hour + sum(each.price_per_hour for each in live)
    if limits.max_usd_per_hour is not None and together > limits.max_usd_per_hour:
        billing = ", ".join(f"{each.name} ${each.price_per_hour:.2f}/h" for each in live) or "nothing"
        raise OverBudget(
            f"this machine would make ${together:.2f}/h of at most ${limits.max_usd_per_hour:.2f}/h",
            why=f"it costs ${price_per_hour:.2f}/h, and the provider bills already: {billing}",
            hint="end what you do not need: gptops gc, gptops ps; or raise budget.max_usd_per_hour in jobs.yaml",
        )


def hours_left(limits: Limits, spent_usd: float, hours: float, price_per_hour: float) -> float | None:
    """How long a machine at this price may still be used; 0 where a limit is reached, None where there is none."""
    bounds = []
    if limits.max_hours is not None:
        bounds.append(limits.max_hours - hours)
    if limits.max_usd is not None:
        money = limits.max_usd - spent_usd
        if price_per_hour > 0 or money <= 0:
            bounds.append(money / price_per_hour if price_per_hour > 0 else 0.0)
    return max(0.0, min(bounds)) if bounds else None


def reached(limits: Limits, spent_usd: float, hours: float) -> str:
    """Which limit of a job is used up, in words; "" while none is."""
    if limits.max_hours is not None and hours >= limits.max_hours:
        return f"it has used its {limits.max_hours:g} hours"
    if limits.max_usd is not None and spent_usd >= limits.max_usd:
        return f"it has used its ${limits.max_usd:.2f}"
    return ""


def _used_up(limits: Limits, spent_usd: float, hours: float, price_per_hour: float) -> OverBudget:
    caps = []
    if limits.max_usd is not None:
        caps.append(f"${spent_usd:.2f} of ${limits.max_usd:.2f} are spent")
    if limits.max_hours is not None:
        caps.append(f"{hours:.1f} of {limits.max_hours:g} hours are used")
    return OverBudget(
        f"the budget does not pay for {SHORTEST_HOURS * 60:.0f} minutes at ${price_per_hour:.2f}/h",
        why="; ".join(caps),
        hint="gptops cost shows what it went to; raise `budget` in jobs.yaml, or choose a cheaper machine",
    )
