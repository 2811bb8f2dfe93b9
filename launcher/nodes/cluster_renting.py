"""Rent the best machines of one cluster; where they do not become a group, end them, and take the next ones.

launcher.renting.renter does the same for one machine: the same deadline, tries and bans. It never asks whether money
may be spent: whoever calls it has that answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from launcher.books.ledger import InstanceRow, Ledger
from launcher.clock import Clock
from launcher.errors import NoOffer
from launcher.hosts.opening import Guard
from launcher.hosts.planning import HostPlan
from launcher.hosts.setup import SetupInputs
from launcher.hosts.steps import Lines
from launcher.nodes.cluster import ClusterOpener, Failed
from launcher.paths import StatePaths
from launcher.providers.base import Provider
from launcher.providers.networks import Networks
from launcher.renting.attempts import Attempt, is_worth_another, none_became_ready, why_no_more
from launcher.renting.choice import per_hour
from launcher.renting.clusters import best_cluster, whole_plan
from launcher.renting.market import RentRequest
from launcher.renting.renter import NEXT_SLACK, Renter

Plans = tuple[HostPlan, ...]


@dataclass(frozen=True)
class ClusterRenter:
    """Rents groups at one provider."""

    provider: Provider
    networks: Networks
    ledger: Ledger
    state: StatePaths
    clock: Clock
    say: Callable[[str], None]
    guard: Callable[[Ledger], Guard] | None = None
    """Sets the dead-man's switch of each machine; called in its thread, with its ledger."""

    @property
    def renter(self) -> Renter:
        """For what a group and one machine have in common: budgets, what is open already."""
        return Renter(self.provider, self.ledger, self.state, self.clock, Lines(self.say, self.clock))

    def plans(self, request: RentRequest, *, besides: frozenset[str] = frozenset()) -> Plans:
        """The best machines of one cluster, taken in thought. Raises NoOffer."""
        return best_cluster(self.provider, request, self.ledger.bad_machines(self.provider.name), besides=besides)

    def rent(self, request: RentRequest, setup: SetupInputs | None, *, first: Plans | None = None) -> list[InstanceRow]:
        """The open machines of one group. `first`: what somebody agreed to; the next ones stay near its price.

        Raises NoOffer, OverBudget, the error of the only attempt, or NeverReady about several; nothing is left open,
        or it is StillOpen, which says what.
        """
        return _Hunt(self, request, setup).run(first or self.plans(request))


@dataclass
class _Hunt:
    """One `rent`: what was tried, and what may still be."""

    renter: ClusterRenter
    request: RentRequest
    setup: SetupInputs | None
    attempts: list[Attempt] = field(default_factory=list)
    tried: set[str] = field(default_factory=set)
    """Offers that are not taken again."""

    def run(self, plans: Plans) -> list[InstanceRow]:
        renter, agreed = self.renter, plans
        began = renter.clock.monotonic()
        while True:
            whole = whole_plan(plans)
            renter.renter.require_room(self.request, whole.offer)
            left = self.request.deadline_seconds - (renter.clock.monotonic() - began)
            renter.say(f"{whole.offer.description} at {per_hour(whole.offer.price_per_hour)}")
            opener = ClusterOpener(
                renter.provider, renter.networks, renter.state, renter.clock, renter.say, renter.guard
            )
            try:
                return opener.open(plans, self.setup, patience_seconds=max(0.0, left))
            except Failed as failed:
                if not is_worth_another(failed.error):
                    raise failed.error from failed
                self._remember(failed, plans, was_hurried=left < plans[0].offer.ready_within_seconds)
            over = why_no_more(self.attempts, self.request, renter.clock.monotonic() - began)
            if over:
                raise none_became_ready(self.attempts, over) from self.attempts[-1].error
            plans = self._next(agreed)

    def _remember(self, failed: Failed, plans: Plans, *, was_hurried: bool) -> None:
        """A machine's own failure leaves that machine out; what nobody's machine did, all that were tried."""
        attempt = Attempt(failed.plan or whole_plan(plans), failed.error, was_hurried)
        self.attempts.append(attempt)
        self.tried |= {attempt.plan.offer.offer_id} if failed.plan else {plan.offer.offer_id for plan in plans}
        if failed.plan:
            self.renter.renter.remember(attempt)

    def _next(self, agreed: Plans) -> Plans:
        """The best of what is on offer now and was not tried, for about the price that was agreed to."""
        try:
            found = self.renter.plans(_named(self.request, agreed), besides=frozenset(self.tried))
        except NoOffer as none:
            self.renter.say(f"no other machines are taken: {none.what}; {none.why}")
            raise none_became_ready(self.attempts, none.what) from none
        whole, most = whole_plan(found).offer, whole_plan(agreed).offer.price_per_hour * NEXT_SLACK
        if self.request.wanted.max_price_per_hour is None and whole.price_per_hour > most:
            why = f"the next ones cost {per_hour(whole.price_per_hour)}"
            self.renter.say(f"no other machines are taken: {why}")
            raise none_became_ready(self.attempts, why) from self.attempts[-1].error
        return found


def _named(request: RentRequest, agreed: Plans) -> RentRequest:
    return replace(request, name=agreed[0].group_name)
