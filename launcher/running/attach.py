"""Stay with a run: its log as it comes, until it has ended, or until nobody wants to look any more.

Leaving never touches the run. What the host says at the end is written to the
ledger, also of a run whose `train` was killed before it could write anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from launcher.books.audit import audit
from launcher.books.ledger import Ledger, RunRow
from launcher.clock import Clock
from launcher.commands import runs as commands
from launcher.errors import NotFound, ProviderError, Unreachable
from launcher.paths import LocalRun, RemoteRun, StatePaths
from launcher.remote.several import machines
from launcher.remote.transport import Transport
from launcher.running.connection import connection_to
from launcher.running.log_stream import LogCopy, Sink
from launcher.running.logs import Follower, Notice, pull_log
from launcher.running.outcome import LINES_SHOWN, never_started, require_no_failure
from launcher.running.recorded import mark
from launcher.running.status import Phase, RunStatus, read_status
from launcher.running.stop import stop_run
from launcher.since import Since
from launcher.slurm.job import SlurmJob, nodes_in
from launcher.slurm.queue import await_start


@dataclass(frozen=True)
class Attached:
    """A run, and a connection to the host it is on."""

    row: RunRow
    transport: Transport
    ledger: Ledger
    state: StatePaths
    clock: Clock
    notice: Notice
    node: int = 0
    """Of several: whose log; then the transport is to that node alone."""

    @property
    def remote(self) -> RemoteRun:
        return RemoteRun(self.row.run_id, self.node if self.is_on_slurm else 0)

    @property
    def is_on_slurm(self) -> bool:
        """Then the transport is to the login node, where the logs of all nodes are."""
        return LocalRun(Path(self.row.local_root)).batch.exists()

    @property
    def local(self) -> LocalRun:
        return LocalRun(Path(self.row.local_root)).of_node(self.node)

    @property
    def copy(self) -> LogCopy:
        """The log at home."""
        return LogCopy(self.local.log)

    def follow(self, sink: Sink, *, start: int) -> RunStatus:
        """Give the log on from byte `start` until the run has ended. Raises RunFailed, or NotFound where it is gone."""
        await_start(self.job, self.row.run_id, self.notice, self.clock)
        follower = Follower(
            self.transport, self.remote, self.local, sink, self.notice, self._is_open, self.clock, shown=start
        )
        status = follower.follow()
        if status is None:
            raise NotFound(
                f"`{self.row.host_name}` is gone, and `{self.row.run_id}` with it",
                why=f"what came home of it lies in {self.local.root}",
                hint=f"gptops logs {self.row.run_id}",
            )
        self.record(status)
        require_no_failure(self.row, status, self.copy.tail(LINES_SHOWN))
        return status

    def job(self) -> SlurmJob | None:
        """What Slurm says of it now; None where no Slurm has it."""
        return read_status(self.transport, self.remote).job

    def look(self) -> RunStatus:
        """How the run is now, with everything its log has now at home."""
        status = read_status(self.transport, self.remote)
        if status.phase is not Phase.ABSENT:
            pull_log(self.transport, self.remote, self.local, self.notice)
        self.record(status)
        if status.phase is Phase.ABSENT and not self.copy.size:
            raise never_started(self.row)
        return status

    def offset(self, since: Since) -> int:
        """The byte of the log that `since` means."""
        if since.seconds is None:
            return since.offset
        result = self.transport.run(commands.log_offset_before(self.remote, since.seconds))
        text = result.stdout.strip()
        return int(text) if text.isdecimal() else 0

    def stop(self, grace_seconds: int) -> RunStatus:
        """End the run; see launcher.running.stop."""
        audit(self.state.audit_log, self.clock, "stop", run=self.row.run_id, host=self.row.host_name)
        status = stop_run(self.transport, self.remote, grace_seconds=grace_seconds)
        self.record(status)
        return status

    def record(self, status: RunStatus) -> None:
        """Bring the ledger up to what the host says; a run that is not there says nothing."""
        if status.phase is not Phase.ABSENT and not self.node:
            mark(self.ledger, self.row, status)

    def _is_open(self) -> bool:
        try:
            connection_to(self.row, self.ledger, self.state, self.clock).close()
        except NotFound:
            return False
        except (ProviderError, Unreachable):
            return True  # the network is away, for the provider too
        return True


@contextmanager
def attached(
    row: RunRow, ledger: Ledger, state: StatePaths, clock: Clock, notice: Notice, *, node: int = 0
) -> Iterator[Attached]:
    """For the time of the block; `node`: to one of several alone. Raises NotFound where the run's host is gone."""
    transport = connection_to(row, ledger, state, clock)
    try:
        there, batch = machines(transport), LocalRun(Path(row.local_root)).batch
        if batch.exists():
            there = there * nodes_in(batch.read_text(encoding="utf-8"))  # the login node knows of all
        if node >= len(there):
            names = "" if batch.exists() else ": " + ", ".join(each.host.name for each in there)
            has = f"`{row.run_id}` runs on {len(there)} nodes, the first is 0{names}"
            raise NotFound(f"there is no node {node}", why=has, hint=f"gptops logs {row.run_id}")
        yield Attached(row, there[node] if node else transport, ledger, state, clock, notice, node)
    finally:
        transport.close()
