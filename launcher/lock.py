"""One worker at a time, across processes: a lock that says who holds it, since when and for what.

`flock` alone decides: the kernel frees it when the last process that has the
file open is gone, however it died, so there is no stale lock to clear. What
stands in the file is for people, and is believed only while somebody holds it.
The file itself is never removed: a removed lock file can be locked twice.
"""

from __future__ import annotations

import datetime
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from launcher.clock import Clock
from launcher.errors import Busy, LocalFault

ORPHAN_SECONDS = 10.0
"""How long a dead holder's last child (an rsync that has not noticed yet) is waited for."""
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Holder:
    """Who took the lock, as written into it."""

    pid: int
    host: str
    since: float
    what: str

    def __str__(self) -> str:
        since = datetime.datetime.fromtimestamp(self.since).isoformat(" ", "seconds")
        return f"pid {self.pid} on {self.host} holds it since {since}: {self.what}"

    @property
    def is_dead(self) -> bool:
        """Certainly gone. False where that cannot be known from here."""
        if self.host != socket.gethostname():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False


@contextmanager
def hold(path: Path, what: str, clock: Clock) -> Iterator[int]:
    """Hold the lock `path` while the block runs; raises Busy naming the holder. `what` is the command, for people.

    Yields the lock's descriptor: a child that must not outlive the lock unseen (rsync) inherits it.
    """
    descriptor = _open(path)
    try:
        _acquire(descriptor, path, clock)
        holder = Holder(os.getpid(), socket.gethostname(), clock.now(), what)
        _write(descriptor, json.dumps(asdict(holder)))
        yield descriptor
        _write(descriptor, "")
    finally:
        os.close(descriptor)


def holder_of(path: Path) -> Holder | None:
    """Who says in the file that they hold the lock. Ask only after flock said that somebody does."""
    try:
        raw = json.loads(path.read_bytes())
        return Holder(int(raw["pid"]), str(raw["host"]), float(raw["since"]), str(raw["what"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None  # just taken, not yet written


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise LocalFault(f"could not open the lock {path}", why=error.strerror or str(error)) from error


def _acquire(descriptor: int, path: Path, clock: Clock) -> None:
    """Take the lock, waiting only for what ends by itself: a holder that is dead or has not written its name yet."""
    deadline = clock.monotonic() + ORPHAN_SECONDS
    while not _try(descriptor, path):
        holder = holder_of(path)
        if (holder is not None and not holder.is_dead) or clock.monotonic() >= deadline:
            raise _busy(path, holder)
        clock.sleep(_POLL_SECONDS)


def _try(descriptor: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise LocalFault(f"could not lock {path}", why=error.strerror or str(error)) from error
    return True


def _busy(path: Path, holder: Holder | None) -> Busy:
    if holder is None:
        return Busy(f"{path.stem} is locked by another gptops", hint=f"see who: fuser {path}")
    return Busy(
        f"another gptops works on {path.stem}",
        why=str(holder),
        hint=f"wait for it, or end it: kill {holder.pid}" if holder.host == socket.gethostname() else "wait for it",
    )


def _write(descriptor: int, text: str) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode(), 0)
