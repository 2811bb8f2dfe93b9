"""Open every machine of a group side by side: all of them are ready and alike, or none is open.

Those that are open already are taken as they are: a killed gptops left them so, or more are wanted than were before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass

from launcher.books.ledger import InstanceRow, InstanceState, Ledger
from launcher.clock import Clock
from launcher.hosts.closing import end_instance
from launcher.hosts.opening import Opener
from launcher.hosts.setup import SetupInputs, run_setup
from launcher.lock import hold
from launcher.nodes.facts import facts_of, require_alike
from launcher.nodes.meeting import places_of
from launcher.nodes.request import GroupRequest
from launcher.paths import StatePaths
from launcher.providers.by_name import open_provider
from launcher.remote.reach import transport_to
from launcher.remote.ssh import SshTransport
from launcher.remote.together import together


@dataclass(frozen=True)
class GroupOpener:
    """Opens groups. `say` is told each step, under its machine's name."""

    state: StatePaths
    clock: Clock
    say: Callable[[str], None]

    def open(self, request: GroupRequest) -> list[InstanceRow]:
        """The machines, in the group's order. Whatever fails, those that this opened by then are given back."""
        names = [plan.name for plan in request.plans]
        try:
            rows = together(names, lambda node: self._open_already(request, node) or self._open_one(request, node))
            self.examine(rows, request.setup)
        except BaseException:
            self._give_back([plan.label for plan in request.plans])
            raise
        return rows

    def _open_already(self, request: GroupRequest, node: int) -> InstanceRow | None:
        """The machine where it is open as one of this group. Half opened or half ended, it is ended first."""
        plan = request.plans[node]
        name, wanted = plan.name, (plan.project, plan.group_name, plan.inside)
        with (
            Ledger(self.state.ledger, self.clock) as ledger,
            hold(self.state.host_lock(name), f"opens the group {request.name}", self.clock),
        ):
            row = next((row for row in ledger.instances() if row.name == name), None)
            if row is None:
                return None
            if row.state is InstanceState.OPEN:
                if (row.project, row.group_name, row.inside) != wanted:
                    return None  # another's of this name: opening it says so
                self._sayer(name)("it is open already")
                return row
            end_instance(row, open_provider(row.provider, self.state, clock=self.clock), ledger, self.state, self.clock)
            self._sayer(name)(f"ended what an interrupted gptops had left {row.state.value}")
            return None

    def _open_one(self, request: GroupRequest, node: int) -> InstanceRow:
        plan = request.plans[node]
        with Ledger(self.state.ledger, self.clock) as ledger:
            provider = open_provider("ssh", self.state, clock=self.clock, hosts=request.hosts)
            return Opener(provider, ledger, self.state, self.clock, self._sayer(plan.name)).open(plan, None)

    def examine(self, rows: Sequence[InstanceRow], setup: SetupInputs | None, *, gpus: int | None = None) -> None:
        """Alike as machines before anything is installed, alike in their packages after it.

        `gpus`: what each was wanted for, where it may have more.
        """
        names = [row.name for row in rows]
        with connected(rows, self.state, self.clock) as transports:
            require_facts(names, transports, setup, self.clock)
            places_of(transports, [row.inside for row in rows])
            if setup is None:
                return
            ready = setup

            def set_up(node: int) -> None:
                wanted = rows[node].gpus if gpus is None else gpus
                run_setup(transports[node], ready, gpus=wanted, say=self._sayer(names[node]))

            together(names, set_up)
            require_facts(names, transports, setup, self.clock)

    def _give_back(self, labels: Sequence[str]) -> None:
        with Ledger(self.state.ledger, self.clock) as ledger:
            for row in ledger.instances(InstanceState.OPEN):
                if row.label in labels:
                    provider = open_provider(row.provider, self.state, clock=self.clock)
                    end_instance(row, provider, ledger, self.state, self.clock)
                    self.say(f"gave `{row.name}` back: the group is open as a whole, or not at all")

    def _sayer(self, name: str) -> Callable[[str], None]:
        return lambda line: self.say(f"{name}: {line}")


def require_facts(
    names: Sequence[str], transports: Sequence[SshTransport], setup: SetupInputs | None, clock: Clock
) -> None:
    """Raises HostUnfit where the nodes are not alike."""
    venv = setup.venv if setup is not None else "none"
    require_alike(names, together(names, lambda node: facts_of(transports[node], venv, clock)))


@contextmanager
def connected(rows: Sequence[InstanceRow], state: StatePaths, clock: Clock) -> Iterator[list[SshTransport]]:
    """A connection to each machine, for the time of the block."""
    with ExitStack() as stack:
        yield [stack.enter_context(closing(transport_to(row, state, clock))) for row in rows]
