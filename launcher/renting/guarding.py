"""The dead-man's switch of a machine that was just rented: set as soon as it answers, before anything is installed."""

from __future__ import annotations

from launcher.books.budget import Limits, hours_left
from launcher.books.ledger import InstanceRow
from launcher.hosts.deadman import DEFAULT_IDLE_MINUTES, Armer
from launcher.hosts.opening import Guard
from launcher.providers.base import Provider
from launcher.remote.transport import Transport
from launcher.spec.host_request import HostRequest


def guard_for(asked: HostRequest, provider: Provider, armer: Armer, *, nodes: int = 1) -> Guard:
    """Arms the switch by the job's budget, which pays for all `nodes` at once; without one, by its defaults."""
    budget = asked.job.budget if asked.job is not None else None
    limits = Limits(budget.max_usd, budget.max_hours) if budget is not None else Limits()
    idle_minutes = budget.idle_minutes if budget is not None else DEFAULT_IDLE_MINUTES

    def guard(row: InstanceRow, transport: Transport) -> InstanceRow:
        hours = hours_left(limits, 0.0, 0.0, nodes * row.price_per_hour)
        return armer.arm(row, provider.off_switch, transport, hours=hours, idle_minutes=idle_minutes)

    return guard
