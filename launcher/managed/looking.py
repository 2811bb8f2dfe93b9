"""One look at an errand's machine and run, as the facts that `verdict` decides by.

The provider is asked first, so that a machine that is gone is not waited for; then
the machine, over a connection that is kept from look to look and made anew where
the address has changed. A look brings home whatever it finds.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from launcher.books.budget import reached
from launcher.books.ledger import InstanceRow
from launcher.checkpoints.sync import SyncPass
from launcher.commands.checkpoints import verify_checkpoint
from launcher.commands.hosts import gpu_use
from launcher.errors import GptopsError, HostRefused, HostUnfit, LocalFault, ProviderError, Unreachable
from launcher.hosts.metering import note_price
from launcher.managed.errand import Errand
from launcher.managed.outside import Outside
from launcher.managed.verdict import Facts, Hope, Sight
from launcher.providers.base import Instance, Status
from launcher.remote.host import Host
from launcher.remote.transport import Transport
from launcher.running.connection import connection_to
from launcher.running.log_stream import LogCopy
from launcher.running.outcome import LINES_SHOWN
from launcher.running.status import NodesStatus, RunStatus, read_status
from launcher.running.stop import stop_run
from launcher.running.tick import Watched, bring_home, watching
from launcher.running.watch import TRANSFERS_OF_A_BAD_CHECKPOINT

SLEPT_SECONDS = 300.0
"""More than this between two looks, beyond what was waited for: this computer was asleep, and no machine was silent."""

_SIGHTS = {
    Status.STARTING: Sight.THERE,
    Status.RUNNING: Sight.THERE,
    Status.STOPPED: Sight.BROKEN,
    Status.FAILED: Sight.BROKEN,
    Status.PREEMPTED: Sight.PREEMPTED,
    Status.SILENT: Sight.SILENT,
}
_LOST = (Sight.BROKEN, Sight.PREEMPTED)


@dataclass
class Looking:
    """What is remembered from one look to the next."""

    outside: Outside
    rows: tuple[InstanceRow, ...]
    """The machines of the run, node 0's first. A job on several may go on on one, and not on the errand's first."""
    watched: Watched
    transport: Transport | None = None
    host: Host | None = None
    silent_since: float | None = None
    failures: dict[str, int] = field(default_factory=dict)
    """Transfers that did not verify, by the manifest's hash."""
    spoiled: str = ""
    told: set[str] = field(default_factory=set)

    @property
    def row(self) -> InstanceRow:
        """Node 0's."""
        return self.rows[0]

    def look(self, errand: Errand) -> Facts:
        """Everything that can be known now."""
        facts = self._seen()
        return replace(
            facts,
            silent_seconds=self._silence(facts),
            used_up=reached(self.outside.limits(errand), self.outside.spent(errand), self.outside.hours(errand)),
            stopping=errand.stopping,
            restarts=errand.restarts,
            max_restarts=self.outside.job(errand).max_restarts,
            crash=errand.crash,
            fruitless=errand.fruitless,
            on_cluster=self.outside.is_login_node(self.row),
            way_back=f"gptops run {errand.job} --resume {errand.run_id}",
        )

    def stop(self) -> None:
        """Tell the run to save and end. A connection that is lost meanwhile is the next look's to find out."""
        try:
            if self.transport is not None:
                stop_run(self.transport, self.watched.remote)
        except (Unreachable, HostUnfit) as error:
            self._tell(error)

    def wait(self, seconds: float) -> None:
        """Until the next look. A pause that took far longer was this computer asleep: nobody was silent meanwhile."""
        clock = self.outside.clock
        began = clock.now()
        clock.sleep(seconds)
        slept = clock.now() - began - seconds
        if slept > SLEPT_SECONDS:
            self.outside.talk.notice(f"this computer slept for {slept / 60:.0f} minutes; looking again")
            self.silent_since = None
            self.close()

    def close(self) -> None:
        """Let go of the connection."""
        if self.transport is not None:
            self.transport.close()
        self.transport = self.host = None

    def _seen(self) -> Facts:
        try:
            instance = self._instance()
        except ProviderError as error:
            self._tell(error)
            return replace(self._asked(), sight=Sight.UNKNOWN, detail=error.why)
        if instance is None:
            return Facts(sight=Sight.GONE)
        sight = _SIGHTS[instance.status]
        if sight in _LOST:
            return Facts(sight=sight, detail=instance.detail)
        self._follow(instance)
        return replace(self._asked(), sight=sight, detail=instance.detail)

    def _instance(self) -> Instance | None:
        """The machine as its provider sees it; of several, the first that is not lost: it goes on on the rest."""
        there = []
        for row in self.rows:
            instance = self.outside.instance(row)
            if instance is not None:
                note_price(row, instance, self.outside.ledger)
                there.append(instance)
        return next((each for each in there if _SIGHTS[each.status] not in _LOST), there[0] if there else None)

    def _follow(self, instance: Instance) -> None:
        """Keep the connection, or make one to where the machine is now."""
        if self.outside.ledger.nodes(self.watched.run.run_id):
            self.transport = self.transport or connection_to(
                self.watched.run, self.outside.ledger, self.outside.state, self.outside.clock
            )
            return
        host = self.outside.host(self.row, instance)
        if not host.addresses or host == self.host:
            return
        if self.host is not None:
            self.outside.talk.notice(f"`{self.row.name}` is at {host.addresses[0]} now")
        self.close()
        self.host, self.transport = host, self.outside.connect(host)

    def _asked(self) -> Facts:
        """What the machine itself says, with everything new at home; nothing where it does not answer."""
        if self.transport is None:
            return Facts()
        try:
            status = read_status(self.transport, self.watched.remote)
            trouble, hope = self._bring_home_from_nodes(self.transport, status)
        except (Unreachable, HostRefused, HostUnfit) as error:
            self._tell(error)
            self.close()
            return Facts()
        if trouble is None:
            self.told.clear()
        else:
            self._tell(trouble)
        said = LogCopy(self.watched.local.log).tail(LINES_SHOWN).decode(errors="replace").rstrip()
        gpus = self._gpus(self.transport) if status.alive else ""
        return Facts(run=status, said=said, trouble=trouble, hope=hope, spoiled=self.spoiled, gpus=gpus)

    def _gpus(self, transport: Transport) -> str:
        """`97 % 98 % 96 %`: only looked at; a machine that does not tell is no trouble."""
        if not self.row.gpus:
            return ""
        try:
            answer = transport.run(gpu_use(), timeout_seconds=15)
        except (Unreachable, HostUnfit):
            return ""
        busy = [line.strip() for line in answer.stdout.splitlines() if line.strip().isdecimal()]
        return " ".join(f"{each} %" for each in busy)

    def _bring_home_from_nodes(self, transport: Transport, status: RunStatus) -> tuple[GptopsError | None, Hope]:
        """As `_bring_home`. A run that is over without its node 0 is not waited for: home has what can be had."""
        try:
            return self._bring_home(transport, status)
        except Unreachable as error:
            if not (isinstance(status, NodesStatus) and status.is_over and status.lost_nodes):
                raise
            self._tell(error)
            return None, Hope.NONE

    def _bring_home(self, transport: Transport, status: RunStatus) -> tuple[GptopsError | None, Hope]:
        """Why not everything is at home afterwards, and what hope there is. Raises Unreachable, HostRefused."""
        known_bad = frozenset(sha for sha, count in self.failures.items() if count >= TRANSFERS_OF_A_BAD_CHECKPOINT)
        try:
            synced = bring_home(self.watched, transport, status, known_bad)
        except (LocalFault, HostUnfit) as error:
            return error, Hope.ROOM  # a full disk, most often; only a limit that is used up ends the waiting
        return self._judged(transport, synced)

    def _judged(self, transport: Transport, synced: SyncPass) -> tuple[GptopsError | None, Hope]:
        final: GptopsError | None = None
        self.spoiled = ""
        for problem in synced.problems:
            sha = problem.checkpoint.manifest_sha256
            self.failures[sha] = self.failures.get(sha, 0) + 1
            if self.failures[sha] < TRANSFERS_OF_A_BAD_CHECKPOINT:
                return problem.error, Hope.AGAIN
            there = verify_checkpoint(self.watched.remote.checkpoints / problem.checkpoint.name)
            if transport.run(there, timeout_seconds=600).exit_code == 0:
                final = problem.error
            elif problem.checkpoint == synced.listing.whole[-1]:
                self.spoiled = problem.checkpoint.name
        return final, Hope.NONE

    def _silence(self, facts: Facts) -> float:
        """Seconds for which the machine has not answered although its provider has."""
        now = self.outside.clock.monotonic()
        if facts.run is not None or facts.sight is Sight.UNKNOWN:
            self.silent_since = None
            return 0.0
        self.silent_since = now if self.silent_since is None else self.silent_since
        return now - self.silent_since

    def _tell(self, error: GptopsError) -> None:
        """Once, until something has gone well again."""
        if error.what not in self.told:
            self.told.add(error.what)
            self.outside.talk.notice(": ".join(filter(None, (error.what, error.why))))


@contextmanager
def looking(errand: Errand, outside: Outside) -> Iterator[Looking]:
    """For the time of the block; holds the run's lock. Raises Busy where somebody else works on it."""
    run = outside.ledger.run(errand.run_id)
    with watching(
        run,
        outside.ledger,
        state=outside.state,
        clock=outside.clock,
        talk=outside.talk,
        what=f"gptops run {errand.errand_id}",
        may_go_on=True,
    ) as watched:
        look = Looking(outside, tuple(map(outside.ledger.instance, outside.ledger.machines(run))), watched)
        try:
            yield look
        finally:
            look.close()
