"""A run's folder: made, writable, one training's alone, and on a disk that its nodes share, or one on each of them.

Two trainings in one folder would take turns in deleting each other's checkpoints. The lock is the kernel's (flock): it
ends with the process that holds it, however that ends. Whoever finds in the lock what rank 0 has just written there
shares its disk.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer.checkpoints.disk import Disk
from trainer.errors import EngineError
from trainer.loop.distributed import World
from trainer.quoting import shown

_LOCK = ".lock"


@contextmanager
def claimed(out_dir: Path, world: World) -> Iterator[Path]:
    """The folder, while this run works in it; `world.disk` is known then. Every rank calls this. Raises EngineError."""
    word = world.gather(secrets.token_hex(8))[0]
    held = world.on_all(lambda: _lock(out_dir, word) if world.is_first else -1)
    try:
        world.disk = _disk(out_dir, word, world)
        if not world.disk.is_shared:
            own = world.on_all(lambda: _lock(out_dir, word) if world.disk.is_first and not world.is_first else -1)
            held = max(held, own)
        yield out_dir
    finally:
        if held >= 0:
            os.close(held)


def _disk(out_dir: Path, word: str, world: World) -> Disk:
    if all(world.gather(_says(out_dir / _LOCK, word))):
        return Disk.of_all(world.is_first)
    return Disk(world.node, world.num_nodes, world.is_first_here)


def _says(lock: Path, word: str) -> bool:
    try:
        return word in lock.read_text(encoding="utf-8")
    except OSError:
        return False


def _lock(out_dir: Path, word: str) -> int:
    """An open descriptor that holds the folder, with this run's `word` in it."""
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
        holder = os.pread(held, 100, 0).decode(errors="replace").partition(" ")[0].strip()
        os.close(held)
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise EngineError(f"cannot lock {shown(out_dir / _LOCK)}", why=str(error.strerror)) from error
        raise EngineError(
            f"another training works in {shown(out_dir)}",
            why=f"`{_LOCK}` is held by process {holder or 'unknown'}",
            hint=f"ps -fp {holder}" if holder else "choose another folder with `out_dir=...`",
        ) from error
    os.truncate(held, 0)
    os.pwrite(held, f"{os.getpid()} {word}\n".encode(), 0)
    os.fsync(held)  # or another node would not see it on a network disk
    return held
