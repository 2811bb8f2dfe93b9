"""One look at a run: status, log, metrics, checkpoints, budget. Who may delete what is sync.py's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from launcher.books.budget import Limits, reached
from launcher.books.ledger import Ledger, RunRow, RunState
from launcher.books.spending import Spent, spent_on_run
from launcher.checkpoints.pull import Progress, Pulled, Puller
from launcher.checkpoints.sync import Policy, Sync, SyncPass, sync_once
from launcher.clock import Clock
from launcher.errors import GptopsError, Unreachable
from launcher.hosts.deadman import Switch, note_deadline, renew
from launcher.lock import hold
from launcher.paths import LocalRun, RemoteRun, StatePaths
from launcher.remote.several import machines
from launcher.remote.together import each
from launcher.remote.transport import Transport
from launcher.running.logs import pull_log
from launcher.running.metrics_copy import pull_longer_metrics, pull_metrics
from launcher.running.status import NodesStatus, Phase, RunStatus, read_status
from launcher.running.stop import stop_run


@dataclass(frozen=True)
class Talk:
    """What the user is told meanwhile."""

    progress: Progress
    on_pulled: Callable[[Pulled], None]
    notice: Callable[[str], None]


@dataclass(frozen=True)
class Watched:
    """One run, and what may be done for it. Made by `watching`, which holds the run's lock."""

    run: RunRow
    ledger: Ledger
    policy: Policy
    clock: Clock
    talk: Talk
    lock: int
    max_hours: float | None = None
    """budget.max_hours of the job: after that the run is stopped, with time to save."""
    max_usd: float | None = None
    """budget.max_usd of the job, by what its machines have cost while the run went on."""
    may_go_on: bool = False
    """Somebody may start the run again where it ended: then the newest checkpoints stay there."""

    @property
    def local(self) -> LocalRun:
        return LocalRun(Path(self.run.local_root))

    @property
    def remote(self) -> RemoteRun:
        return RemoteRun(self.run.run_id)


@dataclass(frozen=True)
class Tick:
    """What one look found."""

    status: RunStatus
    synced: SyncPass
    over_budget: str = ""
    """Which limit made this look stop the run, in words."""

    @property
    def is_home(self) -> bool:
        """Every whole checkpoint that the host has is verified at home."""
        return not self.synced.missing


@contextmanager
def watching(
    run: RunRow,
    ledger: Ledger,
    *,
    state: StatePaths,
    clock: Clock,
    talk: Talk,
    what: str,
    policy: Policy | None = None,
    max_hours: float | None = None,
    max_usd: float | None = None,
    may_go_on: bool = False,
) -> Iterator[Watched]:
    """The only one that works on this run, for the time of the block. Raises Busy naming the other."""
    with hold(state.locks / f"{run.run_id}.lock", what, clock) as lock:
        policy = policy or Policy(run.delete_remote, run.keep_remote)
        yield Watched(run, ledger, policy, clock, talk, lock, max_hours, max_usd, may_go_on)


def tick(watched: Watched, transport: Transport, known_bad: frozenset[str] = frozenset()) -> Tick:
    """Look once. The status comes first: what is on the host after the end was seen is all there will ever be."""
    status = read_status(transport, watched.remote)
    synced = bring_home(watched, transport, status, known_bad)
    return Tick(status, synced, over_budget=_enforce_budget(watched, transport, status))


def bring_home(
    watched: Watched, transport: Transport, status: RunStatus, known_bad: frozenset[str] = frozenset()
) -> SyncPass:
    """Everything that is new since the last look. `status` was read right before; what has ended is recorded.

    Raises Unreachable where the host, or node 0, does not answer; what the other nodes have whole is at home then.
    """
    if isinstance(status, NodesStatus) and status.is_over and (transport.host.name, "silent") in status.nodes:
        _bring_home_from_the_rest(watched, transport, known_bad)
    if status.phase is not Phase.ABSENT:
        pull_log(transport, watched.remote, watched.local, watched.talk.notice)
    sync = _sync(watched, transport)
    # A run that is lost may be started again where it was: only an end that is written down frees the newest ones.
    has_ended = status.phase is Phase.ENDED and not watched.may_go_on
    synced = sync_once(
        sync, has_ended=has_ended, known_bad=known_bad, when_listed=lambda: _measured(watched, transport, status)
    )
    if status.phase is Phase.ENDED:
        watched.ledger.mark_run(watched.run.run_id, RunState.ENDED, exit_code=status.exit_code)
    _visit(watched, transport, synced)
    return synced


def _sync(watched: Watched, transport: Transport) -> Sync:
    puller = Puller(
        transport, watched.remote.checkpoints, watched.local, watched.clock, watched.talk.progress, watched.lock
    )
    return Sync(watched.run.run_id, puller, watched.ledger, watched.policy, lambda pulled: _came(watched, pulled))


def _bring_home_from_the_rest(watched: Watched, transport: Transport, known_bad: frozenset[str]) -> None:
    """Without node 0, which keeps log and metrics: nodes that share a disk with it have everything that it had."""

    def measured() -> None:
        for node in machines(transport):
            with suppress(Unreachable):
                pull_longer_metrics(node, watched.remote, watched.local)

    sync_once(_sync(watched, transport), has_ended=False, known_bad=known_bad, when_listed=measured)


def _measured(watched: Watched, transport: Transport, status: RunStatus) -> None:
    """Every step up to a checkpoint was measured before it was saved: so its metrics are at home before it is."""
    if status.phase is not Phase.ABSENT:
        pull_metrics(transport, watched.remote, watched.local)


def _came(watched: Watched, pulled: Pulled) -> None:
    """Markets sell these bytes."""
    labels = watched.ledger.machines(watched.run)
    for node, size in pulled.from_nodes:
        watched.ledger.record_transfer(labels[node], "down", size)
    watched.talk.on_pulled(pulled)


def _enforce_budget(watched: Watched, transport: Transport, status: RunStatus) -> str:
    """Stop a living run that has used up its limits; which one. What it saves then comes home with the next look."""
    limits = Limits(max_usd=watched.max_usd, max_hours=watched.max_hours)
    if limits == Limits() or not status.alive:
        return ""
    now, cost = watched.clock.now(), Spent()
    if watched.max_usd is not None:
        cost = spent_on_run(watched.ledger, watched.run, now)
    used_up = reached(limits, cost.total, (now - watched.run.created_at) / 3600)
    if used_up:
        stop_run(transport, watched.remote)
    return used_up


def _visit(watched: Watched, transport: Transport, synced: SyncPass) -> None:
    """Tell the dead-man's switch of every machine that somebody came, and what of it is safe at home."""
    there = machines(transport)

    def visit(node: int) -> Switch | None:
        return renew(there[node], watched.remote, _safe_of(node, synced))

    answers = each([one.host.name for one in there], visit) if len(there) > 1 else [visit(0)]
    for label, answer in zip(watched.ledger.machines(watched.run), answers, strict=True):
        if isinstance(answer, Switch):
            note_deadline(watched.ledger, watched.clock, label, answer)
        elif isinstance(answer, GptopsError) and not isinstance(answer, Unreachable):
            raise answer  # that a node does not answer is for its status to say


def _safe_of(node: int, synced: SyncPass) -> dict[str, str]:
    """What one node has that is whole at home, each with the hash of its manifest there: the part's, of a part."""
    found: dict[str, str] = {}
    for checkpoint in synced.listing.whole:
        if checkpoint.step in {*synced.missing, *synced.pruned}:
            continue
        mine = [piece.checkpoint for piece in checkpoint.pieces if piece.node == node]
        for own in mine if checkpoint.pieces else [checkpoint]:
            found[checkpoint.name] = own.manifest_sha256
    return found
