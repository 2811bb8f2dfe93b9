"""Open rented machines of one cluster on a private network of their own: all are ready, alike and meet, or none is.

    locks → intents: network, every machine → network made → created one by one
          → ready, armed side by side → addresses inside → alike, met, set up → the group is whole

Every intent is on the disk before the first question that makes anything. Until the end the network's row says
`intended`: whoever finds it so after a kill ends the whole group (launcher.hosts.closing.finish_leftovers).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from launcher.books.audit import audit
from launcher.books.ledger import InstanceRow, InstanceState, Ledger
from launcher.clock import Clock
from launcher.crash import crashpoint
from launcher.errors import GptopsError, NeverReady, RateLimited, SetupFailed, StillOpen, UsageError
from launcher.hosts.closing import bills_on, end_instance
from launcher.hosts.networks import close_network, make_network
from launcher.hosts.opening import Guard, Opener
from launcher.hosts.planning import HostPlan
from launcher.hosts.setup import SetupInputs
from launcher.lock import hold
from launcher.nodes.inside import insides_of
from launcher.nodes.meeting import free_port, meet, order_of, places_of
from launcher.nodes.opening import GroupOpener, connected
from launcher.paths import StatePaths
from launcher.providers.base import Provider
from launcher.providers.by_name import ends_together
from launcher.providers.networks import Network, Networks
from launcher.remote.keys import public_line
from launcher.remote.together import each, together
from launcher.renting.attempts import LIMITED_SECONDS

CREATE_TRIES = 5
"""How often one machine is asked for while the provider says that it is asked too often."""


class Failed(Exception):
    """Why the group was not opened, and through which machine: the one not to be taken again. None: not a machine's."""

    def __init__(self, error: GptopsError, plan: HostPlan | None) -> None:
        super().__init__(str(error))
        self.error, self.plan = error, plan


@dataclass
class _First:
    """The first machine that failed, told to those that are still waited for."""

    plan: HostPlan | None = None
    error: GptopsError | None = None
    over: threading.Event = field(default_factory=threading.Event)
    turn: threading.Lock = field(default_factory=threading.Lock)

    def note(self, plan: HostPlan, error: BaseException) -> None:
        with self.turn:
            if not self.over.is_set() and isinstance(error, GptopsError):
                self.plan, self.error = plan, error
            self.over.set()

    def check(self) -> None:
        if self.over.is_set():
            name = f"`{self.plan.name}`" if self.plan else "another machine"
            raise NeverReady("it was not waited for any longer", why=f"{name} failed", is_the_markets=True)


@dataclass(frozen=True)
class ClusterOpener:
    """Opens the machines of one cluster. The provider is shared by threads; each thread has a ledger of its own."""

    provider: Provider
    networks: Networks
    state: StatePaths
    clock: Clock
    say: Callable[[str], None]
    guard: Callable[[Ledger], Guard] | None = None
    """Sets the dead-man's switch of each machine."""

    def open(
        self, plans: Sequence[HostPlan], setup: SetupInputs | None, *, patience_seconds: float = float("inf")
    ) -> list[InstanceRow]:
        """The machines, ready to train together. Raises Failed with nothing left, or StillOpen, which says what."""
        group = plans[0].group_name
        with ExitStack() as stack:
            for name in (group, *(plan.name for plan in plans)):
                stack.enter_context(hold(self.state.host_lock(name), f"gptops up --name {group}", self.clock))
            ledger = stack.enter_context(Ledger(self.state.ledger, self.clock))
            first, asked = _First(), set[str]()
            self._intend_network(plans[0], ledger)
            try:
                for plan in plans:
                    self._opener(plan, ledger).intend(plan)
                crashpoint("up:all_intended")
                if ends_together(self.provider.name, group):
                    asked |= {plan.label for plan in plans}  # its network makes them
                network = self._make_network(plans, ledger)
                self._create(plans, ledger, first, asked)
                return self._made_whole(plans, network, setup, patience_seconds, first)
            except BaseException as error:
                first.over.set()
                self._undo(plans, asked, ledger, first.error or error)
                if isinstance(error, GptopsError):
                    raise Failed(first.error or error, first.plan) from error
                raise

    def _intend_network(self, first: HostPlan, ledger: Ledger) -> None:
        group = first.group_name
        if ledger.group(group):
            raise UsageError(f"a group named `{group}` is open already", hint=f"gptops down {group}")
        ledger.intend_network(
            label=first.network_label,
            group_name=group,
            provider=self.provider.name,
            project=first.project,
            cluster_id=first.offer.cluster_id,
        )
        crashpoint("up:network_intended")

    def _make_network(self, plans: Sequence[HostPlan], ledger: Ledger) -> Network:
        row, key = ledger.network(plans[0].network_label), public_line(self.state.private_key)
        machines = [(plan.offer, plan.request(key)) for plan in plans]
        return make_network(row, self.networks, ledger, self.state, self.clock, machines)

    def _create(self, plans: Sequence[HostPlan], ledger: Ledger, first: _First, asked: set[str]) -> None:
        """One after the other: the vendor allows no more, and an offer that is gone ends it before others cost much."""
        for number, plan in enumerate(plans):
            asked.add(plan.label)
            try:
                self._create_one(plan, ledger)
            except BaseException as error:
                first.note(plan, error)
                raise
            crashpoint(f"up:created_{number}")

    def _create_one(self, plan: HostPlan, ledger: Ledger) -> None:
        opener, row = self._opener(plan, ledger), ledger.instance(plan.label)
        for turn in range(CREATE_TRIES):
            try:
                opener.create(plan, row)
                return
            except RateLimited as error:
                if turn == CREATE_TRIES - 1 or self.provider.labelled(plan.label):
                    raise
                self.clock.sleep(min(60.0, error.retry_after_seconds or LIMITED_SECONDS))

    def _made_whole(
        self, plans: Sequence[HostPlan], network: Network, setup: SetupInputs | None, patience: float, first: _First
    ) -> list[InstanceRow]:
        names = [plan.name for plan in plans]
        together(names, lambda node: self._ready(plans[node], patience, first))
        crashpoint("up:all_ready")
        rows = self._placed(names, plans, network)
        try:
            GroupOpener(self.state, self.clock, self.say).examine(rows, setup, gpus=plans[0].wanted.gpus)
        except SetupFailed as error:
            # The machines, with their logs, are about to end: the hint must not lead there.
            hint = "correct `setup` in jobs.yaml, then gptops up again"
            raise SetupFailed(error.what, why=error.why, hint=hint) from error
        with Ledger(self.state.ledger, self.clock) as ledger:
            ledger.mark_network(plans[0].network_label, InstanceState.OPEN)
            audit(self.state.audit_log, self.clock, "open", name=plans[0].group_name, network=network.name)
            crashpoint("up:whole")
            return [ledger.instance(plan.label) for plan in plans]

    def _ready(self, plan: HostPlan, patience: float, first: _First) -> None:
        """One machine, in a thread: SSH, key, GPUs, driver, switch. The first failure lets the others give up."""
        try:
            with Ledger(self.state.ledger, self.clock) as ledger:
                most = min(patience, plan.offer.ready_within_seconds)
                row = ledger.instance(plan.label)
                self._opener(plan, ledger, first.check).made_ready(plan, row, None, most)
        except BaseException as error:
            first.note(plan, error)
            raise

    def _placed(self, names: Sequence[str], plans: Sequence[HostPlan], network: Network) -> list[InstanceRow]:
        """The rows with their addresses inside, over which every machine has reached the first one."""
        with Ledger(self.state.ledger, self.clock) as ledger:
            rows = [ledger.instance(plan.label) for plan in plans]
            with connected(rows, self.state, self.clock) as transports:
                insides = insides_of(transports, network, self._told(plans, network))
                places = places_of(transports, insides)
                order = order_of(places)
                there, places = [transports[node] for node in order], [places[node] for node in order]
                meet(there, places, free_port(there[0], places[0], None))
            for name, inside in zip(names, insides, strict=True):
                self.say(f"{name}: {inside} inside the private network {network.name}")
            return [
                ledger.mark_instance(row.label, row.state, inside=inside)
                for row, inside in zip(rows, insides, strict=True)
            ]

    def _told(self, plans: Sequence[HostPlan], network: Network) -> list[str]:
        """Each machine's address inside by the provider's word; "" where it says none."""
        if network.subnet:
            return [""] * len(plans)
        told = {each.label: each.inside for each in self.provider.labelled(plans[0].network_label)}
        return [told.get(plan.label, "") for plan in plans]

    def _opener(self, plan: HostPlan, ledger: Ledger, check: Callable[[], None] | None = None) -> Opener:
        say = lambda line: self.say(f"{plan.name}: {line}")  # noqa: E731
        guard = self.guard(ledger) if self.guard is not None else None
        return Opener(self.provider, ledger, self.state, self.clock, say, guard=guard, check=check)

    # The way back

    def _undo(self, plans: Sequence[HostPlan], asked: set[str], ledger: Ledger, error: BaseException) -> None:
        """End every machine, side by side, then their network. What was never asked for is closed as it is."""
        known = {row.label for row in ledger.group(plans[0].group_name)}
        mine = [plan for plan in plans if plan.label in known]
        self.say(f"opening `{plans[0].group_name}` failed; ending all of it")
        crashpoint("up:group_failed")
        answers = each([plan.name for plan in mine], lambda node: self._end(mine[node], mine[node].label in asked))
        alive = {row.label for row in ledger.group(plans[0].group_name)}
        left = [
            (plan, answer)
            for plan, answer in zip(mine, answers, strict=True)
            if isinstance(answer, GptopsError) and plan.label in alive
        ]
        if left:
            raise self._still_open(left, error) from error
        network = next((row for row in ledger.networks() if row.label == plans[0].network_label), None)
        if network is not None:
            close_network(network, self.networks, ledger, self.state, self.clock)
        self.say(f"`{plans[0].group_name}` is gone: nothing is left open")

    def _end(self, plan: HostPlan, was_asked: bool) -> None:
        with Ledger(self.state.ledger, self.clock) as ledger:
            row = ledger.instance(plan.label)
            if row.state is InstanceState.CLOSED:
                return
            if not was_asked:
                ledger.mark_instance(row.label, InstanceState.CLOSED)
                audit(self.state.audit_log, self.clock, "closed", name=row.name, label=row.label)
                return
            end_instance(row, self.provider, ledger, self.state, self.clock)

    def _still_open(self, left: Sequence[tuple[HostPlan, GptopsError]], error: BaseException) -> StillOpen:
        group = left[0][0].group_name
        told = "; ".join(f"{answer.what}: {answer.why}" for _, answer in left)
        what = "; ".join(bills_on(plan.name, plan.offer.price_per_hour) for plan, _ in left)
        return StillOpen(
            what, why=f"{error or type(error).__name__}; then {told}", hint=f"gptops down {group} --discard"
        )
