"""The dead-man's switch of a machine that was just rented: set as soon as it answers, before anything is installed."""

from __future__ import annotations

from launcher.books.budget import hours_left
from launcher.books.ledger import InstanceRow
from launcher.hosts.deadman import DEFAULT_IDLE_MINUTES, Armer
from launcher.hosts.opening import Guard
from launcher.providers.base import Provider
from launcher.remote.transport import Transport
from launcher.renting.market import RentRequest
from launcher.spec.host_request import HostRequest


def guard_for(asked: HostRequest, request: RentRequest, provider: Provider, armer: Armer) -> Guard:
    """Arms the switch by what is left of the job's budget, which pays for all machines of the request at once."""
    idle_minutes = asked.job.budget.idle_minutes if asked.job is not None else DEFAULT_IDLE_MINUTES

    def guard(row: InstanceRow, transport: Transport) -> InstanceRow:
        price = request.nodes * row.price_per_hour
        hours = hours_left(request.limits, request.spent_usd, request.hours, price)
        return armer.arm(row, provider.off_switch, transport, hours=hours, idle_minutes=idle_minutes)

    return guard
