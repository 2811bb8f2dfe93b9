"""What is on offer for a request, sorted out, and the plan for the best of it. Asks the provider, opens nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from launcher.books.budget import Limits
from launcher.errors import NoOffer
from launcher.hosts.planning import HostPlan, plan_for
from launcher.providers.base import Provider, Wanted
from launcher.renting.choice import Choice, choose, no_offer
from launcher.renting.ranking import Order
from launcher.spec.host_request import OWN

DEADLINE_SECONDS = 1800.0
TRIES = 3


@dataclass(frozen=True)
class RentRequest:
    """What is wanted, and how long and how often it may be tried."""

    wanted: Wanted
    project: str
    image: str = ""
    name: str | None = None
    offer_id: str | None = None
    """This offer, or none."""
    order: Order = field(default_factory=Order)
    limits: Limits = field(default_factory=Limits)
    spent_usd: float = 0.0
    """By the job so far."""
    hours: float = 0.0
    """Since the job began."""
    deadline_seconds: float = DEADLINE_SECONDS
    tries: int = TRIES
    """Machines that may be created; an offer that is gone costs none."""
    nodes: int = 1
    """Machines that train together, of one cluster (launcher.renting.clusters); `wanted` is what each has."""


def sorted_out(
    provider: Provider, request: RentRequest, bad: Mapping[str, str], *, besides: frozenset[str] = frozenset()
) -> Choice:
    """What is on offer now; `besides`: offers that are not looked at. A bad machine may be named, not met by chance."""
    offers = [offer for offer in provider.offers(request.wanted) if offer.offer_id not in besides]
    named = [offer for offer in offers if request.offer_id in (None, offer.offer_id)]
    return choose(named, request.wanted, bad={} if request.offer_id else bad, order=request.order)


def best(
    provider: Provider, request: RentRequest, bad: Mapping[str, str], *, besides: frozenset[str] = frozenset()
) -> HostPlan:
    """The best offer, taken in thought. Raises NoOffer."""
    choice = sorted_out(provider, request, bad, besides=besides)
    if not choice.fitting:
        raise _nothing(provider, request, choice)
    offer = choice.fitting[0].offer
    return plan_for(offer, request.wanted, project=request.project, image=request.image, name=request.name)


def _nothing(provider: Provider, request: RentRequest, choice: Choice) -> NoOffer:
    if request.offer_id is None or choice.left_out or provider.name in OWN:
        return no_offer(choice, request.wanted, provider.name)
    return NoOffer(
        f"`{provider.name}` has no offer {request.offer_id} of that kind",
        why="it is taken, or has another number of GPUs than was asked for",
        hint="gptops offers lists what there is now",
    )
