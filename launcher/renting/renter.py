"""Rent the best machine on offer; where it does not become ready, end it, remember it, and take the next.

    offers → choose → room in the budget? → open ── ready ─▶ the machine
       ▲                                     └── not ─▶ ended and proven gone, banned ─┐
       └───────────────────────────────── within the deadline and the tries ───────────┘

It never asks whether money may be spent: whoever calls it has that answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from launcher.books.audit import audit
from launcher.books.budget import Live, require_room
from launcher.books.ledger import InstanceRow, Ledger
from launcher.clock import Clock
from launcher.crash import crashpoint
from launcher.errors import GptopsError, NoOffer, RateLimited
from launcher.hosts.opening import Guard, Opener
from launcher.hosts.planning import HostPlan
from launcher.hosts.setup import SetupInputs
from launcher.hosts.steps import Steps
from launcher.paths import StatePaths
from launcher.providers.base import Offer, Provider, Wanted
from launcher.remote.transport import Connect
from launcher.renting.attempts import LIMITED_SECONDS, Attempt, is_worth_another, none_became_ready, why_no_more
from launcher.renting.choice import per_hour
from launcher.renting.market import RentRequest, best

NEXT_SLACK = 1.25
"""Without a limit of the user's, the next machine may cost this much more than the one they saw."""
LABELS = "gptops:"


@dataclass(frozen=True)
class Renter:
    """Rents at one provider."""

    provider: Provider
    ledger: Ledger
    state: StatePaths
    clock: Clock
    steps: Steps
    connect: Connect | None = None
    """How a host is reached, where not over SSH."""
    guard: Guard | None = None

    def plan(self, request: RentRequest, *, besides: frozenset[str] = frozenset()) -> HostPlan:
        """The best offer, taken in thought. Raises NoOffer."""
        return best(self.provider, request, self.ledger.bad_machines(self.provider.name), besides=besides)

    def live(self) -> list[Live]:
        """What the provider bills already under our labels, whether the ledger knows it or not."""
        names = {row.label: row.name for row in self.ledger.instances()}
        return [Live(names.get(each.label, each.label), each.price_per_hour) for each in self.provider.labelled(LABELS)]

    def require_room(self, request: RentRequest, offer: Offer) -> None:
        """Raises OverBudget where the limits do not pay for this offer."""
        if offer.price_per_hour:
            live = self.live() if request.limits.max_usd_per_hour is not None else []
            require_room(request.limits, request.spent_usd, offer.price_per_hour, hours=request.hours, live=live)

    def rent(self, request: RentRequest, setup: SetupInputs | None, *, first: HostPlan | None = None) -> InstanceRow:
        """An open machine. `first` is the plan that somebody agreed to; the next ones stay near its price.

        Raises NoOffer, OverBudget, the error of the only attempt, or NeverReady about several; nothing is left open,
        or it is StillOpen, which says what.
        """
        hunt = _Hunt(self, request, setup)
        return hunt.run(first or self.plan(request))

    def remember(self, attempt: Attempt) -> None:
        """Never take a machine again that failed by itself."""
        machine = attempt.plan.offer.machine_id
        if attempt.is_the_machines_fault and machine:
            self.ledger.ban_machine(self.provider.name, machine, attempt.error.what)
            audit(self.state.audit_log, self.clock, "ban", provider=self.provider.name, machine=machine)
            self.steps.note(f"machine {machine} will not be taken again")

    def opener(self) -> Opener:
        """Opens one machine."""
        return Opener(
            self.provider,
            self.ledger,
            self.state,
            self.clock,
            self.steps.note,
            connect=self.connect,
            steps=self.steps,
            guard=self.guard,
        )


@dataclass
class _Hunt:
    """One `rent`: what was tried, and what may still be."""

    renter: Renter
    request: RentRequest
    setup: SetupInputs | None
    attempts: list[Attempt] = field(default_factory=list)

    def run(self, plan: HostPlan) -> InstanceRow:
        clock, began = self.renter.clock, self.renter.clock.monotonic()
        agreed = plan
        while True:
            self.renter.require_room(self.request, plan.offer)
            left = self.request.deadline_seconds - (clock.monotonic() - began)
            self._tell(plan)
            try:
                return self.renter.opener().open(plan, self.setup, patience_seconds=left)
            except GptopsError as error:
                if not plan.is_rented or not is_worth_another(error):
                    raise
                self._remember(Attempt(plan, error, was_hurried=left < plan.offer.ready_within_seconds))
            over = why_no_more(self.attempts, self.request, clock.monotonic() - began)
            if over:
                raise none_became_ready(self.attempts, over) from self.attempts[-1].error
            plan = self._next(agreed)

    def _tell(self, plan: HostPlan) -> None:
        self.renter.steps.begin("offer")
        price = f" at {per_hour(plan.offer.price_per_hour)}" if plan.is_rented else ""
        self.renter.steps.done(f"offer {plan.offer.offer_id}: {plan.offer.description}{price}", 0.0)

    def _remember(self, attempt: Attempt) -> None:
        self.attempts.append(attempt)
        crashpoint("up:ended")
        self.renter.remember(attempt)
        crashpoint("up:banned")
        if isinstance(attempt.error, RateLimited):
            self.renter.clock.sleep(min(60.0, attempt.error.retry_after_seconds or LIMITED_SECONDS))

    def _next(self, agreed: HostPlan) -> HostPlan:
        """The best of what is on offer now and was not tried, for about the price that was agreed to."""
        tried = frozenset(a.plan.offer.offer_id for a in self.attempts if not isinstance(a.error, RateLimited))
        try:
            return self.renter.plan(replace(self.request, wanted=_near(agreed)), besides=tried)
        except NoOffer as none:
            self.renter.steps.note(f"no other machine is taken: {none.what}; {none.why}")
            raise none_became_ready(self.attempts, none.what) from none


def _near(agreed: HostPlan) -> Wanted:
    wanted = agreed.wanted
    if wanted.max_price_per_hour is not None:
        return wanted
    return replace(wanted, max_price_per_hour=agreed.offer.price_per_hour * NEXT_SLACK)
