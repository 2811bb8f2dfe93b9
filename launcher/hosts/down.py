"""`gptops down` for one host: save what is to be saved, refuse what would be lost, end it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from launcher.books.ledger import InstanceRow, InstanceState, Ledger, RunRow
from launcher.books.spending import Spent, spent
from launcher.clock import Clock
from launcher.errors import Unreachable, UsageError
from launcher.hosts.closing import end_instance, telling_what_bills
from launcher.hosts.last_look import require_nothing_lost, stop_all
from launcher.hosts.metering import note_price
from launcher.lock import hold
from launcher.paths import StatePaths
from launcher.providers.base import Provider, Status
from launcher.providers.by_name import ends_as, ends_together, open_provider
from launcher.remote.ssh import SshTransport, host_of
from launcher.remote.transport import Transport
from launcher.running.connection import connection_to
from launcher.running.tick import Talk, watching
from launcher.running.watch import look_once


@dataclass(frozen=True)
class Ended:
    """A host that is no more."""

    row: InstanceRow
    was_there: bool
    """False where it had been ended elsewhere, or had never come to be."""
    spent: Spent
    """US dollars, as far as we know prices and bytes."""

    @property
    def hours(self) -> float:
        assert self.row.closed_at is not None
        return max(0.0, self.row.closed_at - self.row.created_at) / 3600


@dataclass(frozen=True)
class Downer:
    """Ends hosts. `discard` loses what is not at home; `sync_first` brings it home before."""

    ledger: Ledger
    state: StatePaths
    clock: Clock
    talk: Talk
    sync_first: bool = False
    discard: bool = False

    def end(self, row: InstanceRow) -> Ended:
        """End one host. Raises NotVerified where something would be lost, Unreachable where that cannot be known.

        Where the others of its group end with it, they are looked at first, too.
        """
        with ExitStack() as locks:
            for each in self._others(row):
                self._look(each, locks)
            row, provider, there = self._look(row, locks)
            if not there and row.state is InstanceState.OPEN and not ends_together(row.provider, row.group_name):
                self.talk.notice(f"`{row.name}` was gone already: `{row.provider}` knows nothing of it")
            network = self.ledger.network_of(row.group_name)
            closed = end_instance(row, provider, self.ledger, self.state, self.clock)
            if network is not None and self.ledger.network_of(row.group_name) is None:
                self.talk.notice(f"`{row.group_name}` has no machine any more: its private network is deleted")
            return Ended(closed, there, spent(self.ledger, closed.label, self.clock.now()))

    def _others(self, row: InstanceRow) -> list[InstanceRow]:
        if not ends_together(row.provider, row.group_name):
            return []
        return [each for each in self.ledger.group(row.group_name) if each.label != row.label]

    def _look(self, row: InstanceRow, locks: ExitStack) -> tuple[InstanceRow, Provider, bool]:
        """The row as it is now, which nobody else touches, its provider, and whether it is there; with it saved."""
        what = f"gptops down {row.name}"
        locks.enter_context(hold(self.state.host_lock(row.name), what, self.clock))
        locks.enter_context(hold(self.state.start_lock(row.name), what, self.clock))
        row = self.ledger.instance(row.label)
        provider = open_provider(row.provider, self.state, clock=self.clock)
        there = self._is_there(row, provider)
        if there and row.state is InstanceState.OPEN and not self.discard:
            self._save(row, provider)
        return row, provider, there

    def _is_there(self, row: InstanceRow, provider: Provider) -> bool:
        """By its label, or where a person has changed that, by its id."""
        with telling_what_bills(row, provider):
            found = provider.labelled(row.label)
            by_id = None if found or row.instance_id is None else provider.get(row.instance_id)
        for instance in [*found, *([by_id] if by_id else [])]:
            note_price(row, instance, self.ledger)
        return bool(found or by_id)

    def _save(self, row: InstanceRow, provider: Provider) -> None:
        if not self.ledger.runs(instance_label=row.label):
            return
        transport = self._transport(row, provider)
        try:
            if self.sync_first:
                stop_all(row, self.ledger, transport, self.talk.notice)
                self._sync(row)
            require_nothing_lost(row, self.ledger, transport)
        except Unreachable as error:
            raise self._unknown(row, f"{error.what}: {error.why}") from error
        finally:
            transport.close()

    def _transport(self, row: InstanceRow, provider: Provider) -> SshTransport:
        assert row.instance_id is not None
        with telling_what_bills(row, provider):
            instance = provider.get(row.instance_id)
        if instance is None or instance.status in (Status.STOPPED, Status.PREEMPTED, Status.FAILED):
            raise self._unknown(row, f"`{row.provider}` says: {instance.status.value if instance else 'gone'}")
        return SshTransport(host_of(row, instance, self.state), self.clock, control_sockets=self.state.control_sockets)

    def _unknown(self, row: InstanceRow, why: str) -> Unreachable:
        bills = f"; meanwhile it bills ${row.price_per_hour:.2f} an hour" if row.price_per_hour else ""
        ending = ends_as(row.provider, row.name, row.group_name)
        return Unreachable(
            f"`{row.name}` was not ended: what lies there alone cannot be known",
            why=f"{why}{bills}",
            hint=f"try again, or end it with everything on it: gptops down {ending} --discard",
        )

    def _sync(self, row: InstanceRow) -> None:
        for run in self.ledger.runs(instance_label=row.label):
            self._sync_run(run, f"gptops down {row.name} --sync-first")

    def _sync_run(self, run: RunRow, what: str) -> None:
        def connect() -> Transport:
            return connection_to(run, self.ledger, self.state, self.clock)

        with watching(run, self.ledger, state=self.state, clock=self.clock, talk=self.talk, what=what) as watched:
            last = look_once(watched, connect)
        for problem in last.synced.problems:
            raise problem.error


def require_whole(rows: Sequence[InstanceRow], ledger: Ledger) -> None:
    """Raises UsageError for a machine that would end others of its group, which nobody has named."""
    first = rows[0]
    left = len(ledger.group(first.group_name)) - len(rows)
    if left > 0 and ends_together(first.provider, first.group_name):
        raise UsageError(
            f"`{first.name}` cannot be ended alone",
            why=f"`{first.provider}` ends the machines of `{first.group_name}` together",
            hint=f"gptops down {first.group_name}",
        )
