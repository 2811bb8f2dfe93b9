"""Bring a run's log home, now or for as long as the run lives, whatever happens to the connection.

A connection that is lost is made again, from the byte the local copy ends with.
Nothing here can end a run: it only listens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from launcher.clock import Clock
from launcher.errors import Unreachable
from launcher.paths import LocalRun, RemoteRun
from launcher.remote.backoff import Backoff
from launcher.remote.several import Several
from launcher.remote.transport import Transport
from launcher.running.log_stream import LogCopy, Sink, StreamEnd, stream_log
from launcher.running.status import NodesStatus, Phase, RunStatus, read_status

Notice = Callable[[str], None]
"""Told, in one line, what happened to the connection or the log."""


def pull_log(transport: Transport, run: RemoteRun, local: LocalRun, notice: Notice = lambda _text: None) -> int:
    """Bring home what the log has now. Returns how many bytes were new. Raises Unreachable where that was cut."""
    copy, pieces = LogCopy(local.log), list[int]()

    def count(_position: int, block: bytes) -> None:
        pieces.append(len(block))

    end = stream_log(transport, run, copy, count, follow=False)
    if end is StreamEnd.OTHER_LOG:
        _begin_again(copy, notice)
        end = stream_log(transport, run, copy, count, follow=False)
    if end is not StreamEnd.COMPLETE and read_status(transport, run).phase is not Phase.ABSENT:
        raise Unreachable(
            f"the log of `{run.run_id}` was cut",
            why=f"`{transport.host.name}` stopped sending",
            hint=f"gptops logs {run.run_id}",
        )
    return sum(pieces)


@dataclass
class Follower:
    """Gives a run's log on, from a byte on and each byte once, until the run has ended."""

    transport: Transport
    run: RemoteRun
    local: LocalRun
    sink: Sink
    """Told about each piece and the offset it begins at."""
    notice: Notice
    is_open: Callable[[], bool]
    """Whether the host is still meant to be there, asked when it does not answer."""
    clock: Clock
    shown: int = 0
    """Bytes of the log that need not be shown (any more)."""
    _is_lost: bool = False
    _backoff: Backoff = field(default_factory=lambda: Backoff(first_seconds=0.5, limit_seconds=30.0))

    def follow(self) -> RunStatus | None:
        """Returns how the run ended; None where the host is gone for good. Raises HostRefused."""
        while True:
            try:
                self.show_copy()
                end = stream_log(self.transport, self.run, self._copy, self._show, follow=True)
                status = read_status(self.transport, self.run)
            except Unreachable as error:
                if not self.is_open():
                    return None
                if (ended := self._told_by_others()) is not None:
                    return ended
                self._wait_for(error)
                continue
            if self._is_over_elsewhere(status):
                return status
            self._tell_back()
            if status.phase is Phase.ABSENT or (status.is_over and end is StreamEnd.COMPLETE):
                return status
            if end is StreamEnd.OTHER_LOG:
                _begin_again(self._copy, self.notice)
                self.shown = 0
                continue
            if end is StreamEnd.CUT:
                self.notice(f"the connection to `{self.transport.host.name}` was cut; going on at byte {self.shown:,}")
            self.clock.sleep(self._backoff.after_failure())

    def _told_by_others(self) -> RunStatus | None:
        """How a run on several nodes has ended, when the one whose log is followed does not answer."""
        if not isinstance(self.transport, Several):
            return None
        try:
            status = read_status(self.transport, self.run)
        except Unreachable:
            return None
        return status if self._is_over_elsewhere(status) else None

    def _is_over_elsewhere(self, status: RunStatus) -> bool:
        """The others have given up, and the node whose log is followed is lost: there will be no more of it."""
        if not isinstance(status, NodesStatus) or status.has_succeeded:
            return False
        return status.is_over and self.transport.host.name in status.lost_nodes

    def show_copy(self) -> None:
        """Show what is at home and was not shown yet."""
        while block := self._copy.read(self.shown, self.shown + (1 << 20)):
            self._show(self.shown, block)

    @property
    def _copy(self) -> LogCopy:
        return LogCopy(self.local.log)

    def _show(self, position: int, block: bytes) -> None:
        self._backoff.after_success()
        self._tell_back()
        if position > self.shown:  # another gptops has brought that part home meanwhile
            block = self._copy.read(self.shown, position) + block
            position = self.shown
        new = block[self.shown - position :]
        if new:
            self.sink(self.shown, new)
            self.shown += len(new)

    def _wait_for(self, error: Unreachable) -> None:
        if not self._is_lost:
            self.notice(
                f"lost `{self.transport.host.name}` ({error.why or error.what}); the run goes on there, trying again"
            )
        self._is_lost = True
        self.clock.sleep(self._backoff.after_failure())

    def _tell_back(self) -> None:
        if self._is_lost:
            self.notice(f"`{self.transport.host.name}` answers again; going on at byte {self.shown:,}")
        self._is_lost = False


def _begin_again(copy: LogCopy, notice: Notice) -> None:
    aside = copy.set_aside()
    notice(f"the log on the host is not the one that was followed; the old copy is now {aside.name}, beginning anew")
