"""What can be done on a host: the contract, and the results it gives.

Short commands with an answer go through `run`, files through `push` and `pull`,
output that goes on for long through `stream`; for a shell of the user's own there
is an OpenSSH command line, `ssh_argv`. `launcher.remote.ssh` has the real one.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from launcher.remote.host import Host
from launcher.remote.rsync import OnProgress, RsyncOutcome


@dataclass(frozen=True)
class Command:
    """What would be typed: argv, quoted once at the edge, and what is fed to stdin (never a secret in argv)."""

    argv: tuple[str, ...]
    stdin: bytes = b""

    def __str__(self) -> str:
        return shlex.join(self.argv)


@dataclass(frozen=True)
class Result:
    """What came back from a command that ran; its exit code is not judged here."""

    exit_code: int
    stdout: str
    stderr: str


class Stream(Protocol):
    """The output of a command, as it comes."""

    def read(self, most: int) -> bytes:
        """Some bytes, `most` at most; b"" at the end of the output."""
        ...

    def exit_code(self) -> int | None:
        """Asked after the end of the output: the command's code; None where the connection ended first."""
        ...


class Transport(Protocol):
    """A connection to one host. Opened lazily, reused, closed by `close`."""

    @property
    def host(self) -> Host:
        """The host it talks to."""
        ...

    @property
    def rsh(self) -> str:
        """The value of rsync's `-e`; the host is then called `host.alias`."""
        ...

    def run(self, command: Command, *, timeout_seconds: float = 60.0) -> Result:
        """Run to its end in the remote home. Raises Unreachable when no answer came in time, HostRefused on keys."""
        ...

    def ssh_argv(self, command: Command | None = None, *, tty: bool = False) -> list[str]:
        """The OpenSSH client's command line for something long, sharing one master connection."""
        ...

    def push(
        self, files: Sequence[str], source: Path, target: PurePosixPath, *, on_progress: OnProgress | None = None
    ) -> RsyncOutcome:
        """Copy `files` (relative to `source`, any bytes in their names) into the remote folder `target`, by rsync."""
        ...

    def pull(
        self,
        files: Sequence[str],
        source: PurePosixPath,
        target: Path,
        *,
        on_progress: OnProgress | None = None,
        lock: int | None = None,
        temporary: Path | None = None,
    ) -> RsyncOutcome:
        """Copy `files` of the remote folder `source` into `target`: regular files only, each whole under its name.

        What a cut transfer leaves is gone on with, in `target`; or with `temporary`, lies there and is begun anew, and
        a file that does not exist (yet) is no error. `lock` stays open for as long as the transfer lives.
        """
        ...

    def stream(self, command: Command) -> AbstractContextManager[Stream]:
        """The output of a command for the time of the block; the command is told to end when the block is left."""
        ...

    def close(self) -> None:
        """End the connection and its master. Safe to call twice."""
        ...


Connect = Callable[[Host], Transport]
"""Makes a transport to a host; it connects at the first command, and whoever called this closes it."""
