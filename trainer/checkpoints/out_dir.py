"""A run's folder: made, writable, and one training's alone.

Two trainings in one folder would take turns in deleting each other's checkpoints. The lock is the kernel's (flock): it
ends with the process that holds it, however that ends.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer.errors import EngineError
from trainer.loop.distributed import World
from trainer.quoting import shown

_LOCK = ".lock"


@contextmanager
def claimed(out_dir: Path, world: World) -> Iterator[Path]:
    """The folder, while this run works in it. Every rank calls this. Raises EngineError."""
    held = world.on_all(lambda: _lock(out_dir) if world.is_first else -1)
    try:
        yield out_dir
    finally:
        if held >= 0:
            os.close(held)


def _lock(out_dir: Path) -> int:
    """An open descriptor that holds the folder."""
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        held = os.open(out_dir / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise EngineError(
            f"cannot write in {shown(out_dir)}",
            why=str(error.strerror),
            hint="choose a folder of your own with `out_dir=...`",
        ) from error
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(held, 100, 0).decode(errors="replace").strip()
        os.close(held)
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise EngineError(f"cannot lock {shown(out_dir / _LOCK)}", why=str(error.strerror)) from error
        raise EngineError(
            f"another training works in {shown(out_dir)}",
            why=f"`{_LOCK}` is held by process {holder or 'unknown'}",
            hint=f"ps -fp {holder}" if holder else "choose another folder with `out_dir=...`",
        ) from error
    os.truncate(held, 0)
    os.pwrite(held, f"{os.getpid()}\n".encode(), 0)
    return held
