"""Ask a provider for one machine, and find out what came of it when the answer does not tell.

    create ── an instance ─▶ ours
       └───── no clear answer ─▶ look for the label ─▶ adopt what is there, or end it

The label is on the disk before the question (opening.py), and `create` is asked once.
"""

from __future__ import annotations

from collections.abc import Callable

from launcher.clock import Clock
from launcher.crash import crashpoint
from launcher.errors import MayHaveCreated, ProviderDown, RateLimited
from launcher.hosts.planning import HostPlan
from launcher.providers.base import Instance, Provider, Status

LATE_SECONDS = 30.0
"""How long after a lost answer a machine may still turn up in the provider's list."""
PAUSE_SECONDS = 3.0


def create_or_adopt(
    provider: Provider, plan: HostPlan, public_key: str, clock: Clock, *, named: Callable[[str], None]
) -> Instance:
    """The machine of this plan. Raises what `create` raised where there is none, or none that will do.

    `named` is told every id that is ours, the ids in errors too, before anything else happens.
    """
    try:
        instance = provider.create(plan.offer, plan.request(public_key))
    except (MayHaveCreated, ProviderDown) as error:
        if isinstance(error, MayHaveCreated) and error.instance_id is not None:
            named(error.instance_id)
        crashpoint("up:ambiguous")
        within = error.within_seconds if isinstance(error, MayHaveCreated) else None
        adopted = _adopted(provider, plan, clock, within or LATE_SECONDS)
        if adopted is None:
            raise
        named(adopted.instance_id)
        return adopted
    crashpoint("up:created")
    named(instance.instance_id)
    return instance


def _adopted(provider: Provider, plan: HostPlan, clock: Clock, within: float) -> Instance | None:
    """The one machine with our label, if it starts or runs and is what was asked for."""
    found = _late(provider, plan.label, clock, within)
    if len(found) != 1 or found[0].status not in (Status.STARTING, Status.RUNNING) or plan.difference(found[0]):
        return None
    return found[0]


def _late(provider: Provider, label: str, clock: Clock, within: float) -> list[Instance]:
    deadline = clock.monotonic() + within
    while True:
        try:
            found = provider.labelled(label)
        except (ProviderDown, RateLimited):
            found = []
        if found or clock.monotonic() >= deadline:
            return found
        clock.sleep(PAUSE_SECONDS)
