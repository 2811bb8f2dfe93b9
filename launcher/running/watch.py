"""Looking at a run until it has ended and everything is home, over every loss of the network.

One look is `tick`'s; this module remembers from one to the next, and decides when it was the last.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from launcher.books.ledger import RunState
from launcher.checkpoints.remote_checkpoints import Listing
from launcher.checkpoints.sync import Problem
from launcher.errors import GptopsError, NotFound, NotVerified, Unreachable
from launcher.remote.backoff import Backoff
from launcher.remote.transport import Transport
from launcher.running.status import Phase
from launcher.running.tick import Tick, Watched, tick
from trainer.manifest import step_name

TRANSFERS_OF_A_BAD_CHECKPOINT = 2
"""Damage on the way may be chance once."""


def look_once(watched: Watched, connect: Callable[[], Transport]) -> Tick:
    """A single look. Raises Unreachable or NotFound where the host does not answer."""
    transport = connect()
    try:
        return _Watching(watched, connect).look(transport)
    finally:
        transport.close()


def watch_until_home(watched: Watched, connect: Callable[[], Transport], every_seconds: float) -> Tick:
    """Look until the run has ended and everything is home; returns the last look.

    `connect` asks the provider where the host is now, and raises NotFound when it is gone. Raises NotVerified where
    a checkpoint cannot be brought home, NotFound where the host or the run on it is gone before the end.
    """
    return _Watching(watched, connect).until_the_end(every_seconds)


@dataclass
class _Watching:
    """What is remembered from one look to the next."""

    watched: Watched
    connect: Callable[[], Transport]
    backoff: Backoff = field(default_factory=Backoff)
    seen: Listing = field(default_factory=Listing)
    """The host's checkpoints when it last answered."""
    told: set[str] = field(default_factory=set)
    failures: dict[str, int] = field(default_factory=dict)
    """Transfers that did not verify, by the manifest's hash."""

    def until_the_end(self, every_seconds: float) -> Tick:
        transport: Transport | None = None
        try:
            while True:
                try:
                    transport = transport or self._connect()
                    last = self.look(transport)
                except Unreachable as error:
                    if transport is not None:
                        transport.close()
                        transport = None
                    self._wait_for_the_host(error)
                    continue
                if self._is_the_end(last):
                    return last
                self.watched.clock.sleep(every_seconds)
        finally:
            if transport is not None:
                transport.close()

    def look(self, transport: Transport) -> Tick:
        bad = frozenset(sha for sha, count in self.failures.items() if count >= TRANSFERS_OF_A_BAD_CHECKPOINT)
        last = tick(self.watched, transport, bad)
        if self.backoff.failures:
            self._tell(f"`{transport.host.name}` answers again", again=True)
        self.backoff.after_success()
        self.seen = last.synced.listing
        for broken in last.synced.broken:
            self._tell(f"skipped `{broken.name}` on the host: {broken.why}")
        for problem in last.synced.problems:
            self._remember(problem)
        if last.over_budget:
            self._tell(f"stopped the run: {last.over_budget}")
        return last

    def _is_the_end(self, last: Tick) -> bool:
        state = self.watched.ledger.run(self.watched.run.run_id).state
        if last.status.phase is Phase.ABSENT and state is RunState.PREPARING:
            return False
        if last.status.phase is Phase.ABSENT and state is RunState.RUNNING:
            raise self._gone(
                "the run is not on the host any more", "its folder was removed, or the host was set up anew"
            )
        if not last.status.is_over or last.over_budget:
            return False
        if last.synced.problems:
            retry = any(self.failures.get(p.checkpoint.manifest_sha256) == 1 for p in last.synced.problems)
            if not retry:
                raise last.synced.problems[0].error
            return False
        return True

    def _remember(self, problem: Problem) -> None:
        sha = problem.checkpoint.manifest_sha256
        self.failures[sha] = self.failures.get(sha, 0) + 1
        self._tell(f"{problem.error.what}: {problem.error.why}")

    def _wait_for_the_host(self, error: Unreachable) -> None:
        """Say so, and wait longer each time."""
        pause = self.backoff.after_failure()
        self._tell(f"{error.what} ({error.why}); trying again in {pause:g} s", again=True)
        self.watched.clock.sleep(pause)

    def _connect(self) -> Transport:
        try:
            return self.connect()
        except NotFound as error:
            raise self._gone(error.what, error.why) from error

    def _gone(self, what: str, why: str) -> GptopsError:
        """The end of a host, and what went with it as far as is known."""
        home = {row.step for row in self.watched.ledger.checkpoints(self.watched.run.run_id)}
        missing = [checkpoint.name for checkpoint in self.seen.whole if checkpoint.step not in home]
        newest = f"the newest at home is `{step_name(max(home))}`" if home else "no checkpoint is at home"
        if missing:
            return NotVerified(what, why=f"{why}; not at home: {', '.join(missing)}; {newest}", hint="gptops ps")
        return NotFound(what, why=f"{why}; {newest}, and nothing newer was seen there", hint="gptops ps")

    def _tell(self, text: str, *, again: bool = False) -> None:
        if again or text not in self.told:
            self.told.add(text)
            self.watched.talk.notice(text)
