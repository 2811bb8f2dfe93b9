"""The whole checkpoints on a host: how they are listed, and how one is forgotten there.

What a host answers is text from a rented machine: every name and manifest is
checked here before anything else sees it. Nothing here decides what may be
deleted; that is sync.py.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import PurePosixPath

from launcher.commands.checkpoints import list_checkpoints, remove_checkpoint
from launcher.errors import HostUnfit, NotVerified
from launcher.remote.transport import Result, Transport
from trainer.manifest import BrokenCheckpoint, Manifest, parse_manifest, step_name

NOT_FOUND = 127
"""What a shell answers for a program it does not have."""


@dataclass(frozen=True)
class RemoteCheckpoint:
    """A whole checkpoint on a host, as its manifest describes it."""

    step: int
    manifest_text: str
    manifest: Manifest
    pieces: tuple[Piece, ...] = ()
    """Where it lies, on a run's several nodes; none for a run on one."""

    @property
    def name(self) -> str:
        return step_name(self.step)

    @property
    def manifest_sha256(self) -> str:
        """Of the manifest's bytes: two checkpoints with the same one have the same content."""
        return hashlib.sha256(self.manifest_text.encode()).hexdigest()

    @property
    def total_bytes(self) -> int:
        return self.manifest.total_bytes


@dataclass(frozen=True)
class Piece:
    """What one of several nodes has of a checkpoint: a part of it, or all."""

    node: int
    checkpoint: RemoteCheckpoint


@dataclass(frozen=True)
class BrokenRemote:
    """A directory on a host that looks like a checkpoint and is not whole."""

    name: str
    why: str


@dataclass(frozen=True)
class Listing:
    """What the host has at one moment."""

    whole: tuple[RemoteCheckpoint, ...] = ()
    """Oldest first."""
    broken: tuple[BrokenRemote, ...] = ()
    parts: tuple[RemoteCheckpoint, ...] = ()
    """What this host has of checkpoints that lie on several: whole only together."""

    def find(self, step: int) -> RemoteCheckpoint | None:
        return next((checkpoint for checkpoint in self.whole if checkpoint.step == step), None)

    def without(self, gone: RemoteCheckpoint) -> Listing:
        """The same, but for one checkpoint."""
        return Listing(tuple(checkpoint for checkpoint in self.whole if checkpoint != gone), self.broken, self.parts)


def list_remote(transport: Transport, folder: PurePosixPath) -> Listing:
    """The checkpoints in `folder`; a folder that does not exist has none. Raises HostUnfit without Python there."""
    result = transport.run(list_checkpoints(folder))
    _require_success(result, f"could not list the checkpoints on {transport.host.name}", transport.host.name)
    try:
        rows = json.loads(result.stdout.splitlines()[-1])  # a noisy shell may print a greeting first
        return _listing([(str(row["name"]), row.get("manifest"), str(row.get("broken", ""))) for row in rows])
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise HostUnfit(
            f"{transport.host.name} answered nonsense when asked for its checkpoints",
            why=_printable(result.stdout[-200:]),
        ) from error


def remove_remote(transport: Transport, folder: PurePosixPath, checkpoint: RemoteCheckpoint) -> None:
    """Make the host forget a checkpoint, if it is still exactly this one. Already gone is success."""
    result = transport.run(remove_checkpoint(folder / checkpoint.name, checkpoint.manifest_sha256), timeout_seconds=300)
    if result.exit_code == 1:
        raise NotVerified(
            f"`{checkpoint.name}` was left on {transport.host.name}", why=_printable(result.stderr.strip()[-300:])
        )
    _require_success(result, f"could not remove `{checkpoint.name}` on {transport.host.name}", transport.host.name)


def _listing(rows: list[tuple[str, object, str]]) -> Listing:
    whole: list[RemoteCheckpoint] = []
    broken: list[BrokenRemote] = []
    for name, text, why in rows:
        try:
            if not isinstance(text, str):
                raise BrokenCheckpoint(why)
            whole.append(_checkpoint(name, text))
        except BrokenCheckpoint as error:
            broken.append(BrokenRemote(_printable(name), _printable(str(error))))
    whole.sort(key=lambda checkpoint: checkpoint.step)
    parts = tuple(checkpoint for checkpoint in whole if not checkpoint.manifest.is_whole)
    return Listing(tuple(checkpoint for checkpoint in whole if checkpoint.manifest.is_whole), tuple(broken), parts)


def _checkpoint(name: str, text: str) -> RemoteCheckpoint:
    manifest = parse_manifest(text)
    if step_name(manifest.step) != name:
        raise BrokenCheckpoint(f"its manifest is of step {manifest.step}")
    return RemoteCheckpoint(manifest.step, text, manifest)


def _require_success(result: Result, what: str, host: str) -> None:
    if result.exit_code == NOT_FOUND:
        raise HostUnfit(what, why="there is no python3 there", hint=f"gptops ssh {host} -- apt-get install -y python3")
    if result.exit_code != 0:
        raise HostUnfit(what, why=_printable(result.stderr.strip()[-300:]), hint=f"gptops test-remote {host}")


def _printable(text: str) -> str:
    """Text from a host without what could move the cursor or colour the terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)
