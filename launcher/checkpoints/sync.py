"""Bring whole checkpoints home, and only then let the host forget them.

    list whole → transfer → verify every sha256 → fsync, rename into place → record → only then prune

Any of these may be the last thing that happens before the power goes; the same
call again finds the truth (on the host and at home, not in the ledger) and goes
on. It never decides *when*: that is watch.py.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from launcher.books.ledger import Ledger
from launcher.checkpoints.home import AtHome, at_home, is_verified
from launcher.checkpoints.pull import Pulled, Puller
from launcher.checkpoints.remote_checkpoints import BrokenRemote, Listing, RemoteCheckpoint
from launcher.crash import crashpoint
from launcher.errors import GptopsError, NotVerified
from trainer.manifest import BrokenCheckpoint, read_manifest


@dataclass(frozen=True)
class Policy:
    """What may be deleted on the host."""

    delete_remote: bool = True
    keep_remote: int = 2
    """Newest checkpoints that stay while the run lives."""


@dataclass(frozen=True)
class Problem:
    """A checkpoint that could not be brought home; the others were."""

    checkpoint: RemoteCheckpoint
    error: NotVerified


@dataclass
class SyncPass:
    """What one look at the host found and did."""

    listing: Listing
    pulled: list[Pulled] = field(default_factory=list)
    pruned: list[int] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def broken(self) -> tuple[BrokenRemote, ...]:
        return self.listing.broken

    @property
    def missing(self) -> list[int]:
        """Steps that are whole on the host and not verified at home."""
        return sorted({problem.checkpoint.step for problem in self.problems})


@dataclass(frozen=True)
class Sync:
    """Everything needed to sync one run."""

    run_id: str
    puller: Puller
    ledger: Ledger
    policy: Policy
    on_pulled: Callable[[Pulled], None]
    """Told about each checkpoint the moment it is safe at home."""


def sync_once(
    sync: Sync,
    *,
    has_ended: bool,
    known_bad: frozenset[str] = frozenset(),
    when_listed: Callable[[], None] = lambda: None,
) -> SyncPass:
    """One look at the host: bring home what is missing, then prune what may go.

    `has_ended` must have been known before this call: then no newer checkpoint can appear, and none needs to stay.
    Checkpoints whose manifest hash is in `known_bad` failed before and are not transferred again. `when_listed` is
    called before the first of them comes: for what must be at home no later than they are.
    """
    done = SyncPass(sync.puller.list())
    when_listed()
    _sweep(sync, done.listing)
    # Newest first: should the host be lost meanwhile, the newest is the one to resume from.
    for checkpoint in reversed(done.listing.whole):
        _bring_home(sync, checkpoint, done, known_bad)
    if sync.policy.delete_remote:
        _prune(sync, done, has_ended)
    _sweep(sync, done.listing)
    return done


def _bring_home(sync: Sync, checkpoint: RemoteCheckpoint, done: SyncPass, known_bad: frozenset[str]) -> None:
    try:
        match at_home(sync.puller.local, checkpoint):
            case AtHome.OTHER:
                raise _conflict(sync, checkpoint)
            case AtHome.SAME:
                _recognise(sync, checkpoint)
            case AtHome.ABSENT if checkpoint.manifest_sha256 in known_bad:
                raise NotVerified(f"`{checkpoint.name}` did not come home whole", why="it was damaged before")
            case AtHome.ABSENT:
                _pull(sync, checkpoint, done)
    except NotVerified as error:
        done.problems.append(Problem(checkpoint, error))


def _pull(sync: Sync, checkpoint: RemoteCheckpoint, done: SyncPass) -> None:
    try:
        pulled = sync.puller.pull(checkpoint)
    except GptopsError:
        now = sync.puller.list().find(checkpoint.step)
        if now is not None and now.manifest_sha256 == checkpoint.manifest_sha256:
            raise
        done.listing = done.listing.without(checkpoint)  # rotation took it away meanwhile: nothing is missing
        return
    crashpoint("sync:committed")
    _record(sync, checkpoint)
    crashpoint("sync:recorded")
    done.pulled.append(pulled)
    sync.on_pulled(pulled)


def _recognise(sync: Sync, checkpoint: RemoteCheckpoint) -> None:
    """A checkpoint that lies at home but stands in no record was committed right before something died: read it."""
    recorded = {row.step: row.manifest_sha256 for row in sync.ledger.checkpoints(sync.run_id)}
    if recorded.get(checkpoint.step) == checkpoint.manifest_sha256:
        return
    if not is_verified(sync.puller.local, checkpoint):
        raise _damaged_at_home(sync, checkpoint)
    _record(sync, checkpoint)


def _record(sync: Sync, checkpoint: RemoteCheckpoint) -> None:
    sync.ledger.record_checkpoint(sync.run_id, checkpoint.step, checkpoint.manifest_sha256, checkpoint.total_bytes)


def _prune(sync: Sync, done: SyncPass, has_ended: bool) -> None:
    """Remove on the host what is safe at home: read again now, for after this it is the only copy."""
    whole = done.listing.whole
    may_go = whole if has_ended else whole[: -sync.policy.keep_remote]
    failed = {problem.checkpoint.step for problem in done.problems}
    for checkpoint in may_go:
        if checkpoint.step in failed or at_home(sync.puller.local, checkpoint) is AtHome.ABSENT:
            continue
        try:
            if not is_verified(sync.puller.local, checkpoint):
                raise _damaged_at_home(sync, checkpoint)
            crashpoint("sync:prune")
            sync.puller.remove(checkpoint)
        except NotVerified as error:
            done.problems.append(Problem(checkpoint, error))
            continue
        crashpoint("sync:pruned")
        sync.ledger.mark_pruned(sync.run_id, checkpoint.step)
        done.pruned.append(checkpoint.step)


def _sweep(sync: Sync, listing: Listing) -> None:
    """Leave in `.incoming/` only what can still be gone on with."""
    local = sync.puller.local
    expected = {c.name for c in listing.whole if at_home(local, c) is AtHome.ABSENT}
    if not local.incoming.is_dir():
        return
    for path in local.incoming.iterdir():
        if path.is_symlink() or not path.is_dir():
            path.unlink()
        elif path.name not in expected:
            shutil.rmtree(path)
    if not any(local.incoming.iterdir()):
        local.incoming.rmdir()


def _conflict(sync: Sync, checkpoint: RemoteCheckpoint) -> NotVerified:
    folder = sync.puller.local.checkpoints / checkpoint.name
    host = sync.puller.host_name
    hint = f"keep yours under another name, then sync again: {_move(folder, '.mine')}"
    try:
        read_manifest(folder)
    except BrokenCheckpoint as error:
        return NotVerified(
            f"`{checkpoint.name}` at home is damaged", why=f"{error}; the one on {host} is kept", hint=hint
        )
    return NotVerified(
        f"`{checkpoint.name}` at home is not the one on {host}",
        why="the same step was trained twice with different results; both are kept, and nothing was deleted",
        hint=hint,
    )


def _damaged_at_home(sync: Sync, checkpoint: RemoteCheckpoint) -> NotVerified:
    folder = sync.puller.local.checkpoints / checkpoint.name
    return NotVerified(
        f"`{checkpoint.name}` at home is damaged",
        why=f"its files are not those of its manifest; the copy on {sync.puller.host_name} was kept",
        hint=f"put it aside and sync again: {_move(folder, '.damaged')}",
    )


def _move(folder: Path, suffix: str) -> str:
    """What to type to put a folder aside, whatever is in its name."""
    return shlex.join(["mv", str(folder), f"{folder}{suffix}"])
