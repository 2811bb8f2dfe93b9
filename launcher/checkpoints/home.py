"""Checkpoints at home: what is there, whether it is what the host has, and how one arrives in a single rename.

A checkpoint under `checkpoints/` was verified when it got there, byte for byte,
and forced to disk before it got its name. Nothing here deletes one.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from launcher.checkpoints.remote_checkpoints import RemoteCheckpoint
from launcher.crash import crashpoint
from launcher.paths import LocalRun
from trainer import manifest as checkpoints
from trainer.manifest import BrokenCheckpoint, Manifest


class AtHome(enum.Enum):
    """How a checkpoint of the host stands at home, by its manifest."""

    ABSENT = "absent"
    SAME = "same"
    """A manifest with the same bytes. Its files are not judged."""
    OTHER = "other"
    """The same step with other content: a second run of the same steps, or a broken copy."""


def at_home(local: LocalRun, checkpoint: RemoteCheckpoint) -> AtHome:
    """Look at the directory and its manifest only: cheap enough for every look at the host."""
    folder = local.checkpoints / checkpoint.name
    if not os.path.lexists(folder):
        return AtHome.ABSENT
    try:
        same = (folder / checkpoints.FILE_NAME).read_bytes() == checkpoint.manifest_text.encode()
    except OSError:
        return AtHome.OTHER
    return AtHome.SAME if same else AtHome.OTHER


def is_verified(local: LocalRun, checkpoint: RemoteCheckpoint) -> bool:
    """Whether home has this very checkpoint, every byte of it read just now."""
    if at_home(local, checkpoint) is not AtHome.SAME:
        return False
    try:
        read_all(local.checkpoints / checkpoint.name, checkpoint.manifest)
    except BrokenCheckpoint:
        return False
    return True


def read_all(folder: Path, manifest: Manifest, then: Callable[[Path], None] = lambda _path: None) -> None:
    """Read and compare every file, several at once (hashing releases the GIL); `then` follows each good one."""

    def check(name: str) -> None:
        checkpoints.verify_file(folder, name, manifest.files[name])
        then(folder / name)

    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        list(pool.map(check, manifest.files))  # the first BrokenCheckpoint is raised here


def commit(local: LocalRun, arrived: Path, checkpoint: RemoteCheckpoint) -> Path:
    """Give a transferred checkpoint its name: read every byte back, force all of it to disk, rename.

    Raises BrokenCheckpoint, with nothing committed, where a file is not what the host's manifest says.
    """
    _remove_strangers(arrived, checkpoint.manifest)
    read_all(arrived, checkpoint.manifest, then=checkpoints.fsync)
    manifest = arrived / checkpoints.FILE_NAME
    manifest.write_bytes(checkpoint.manifest_text.encode())
    checkpoints.fsync(manifest)
    for folder in (*(path for path in arrived.rglob("*") if path.is_dir()), arrived):
        checkpoints.fsync(folder)
    crashpoint("sync:verified")
    final = local.checkpoints / checkpoint.name
    local.checkpoints.mkdir(parents=True, exist_ok=True)
    arrived.rename(final)
    checkpoints.fsync(local.checkpoints)
    return final


def _remove_strangers(arrived: Path, manifest: Manifest) -> None:
    """What rsync keeps for itself, or a host slipped in, does not become part of the checkpoint."""
    for path in sorted(arrived.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif path.relative_to(arrived).as_posix() not in manifest.files:
            path.unlink()
