"""A connection to every machine of one run, as one transport: what is not said to all is said to node 0."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath

from launcher.errors import Unreachable
from launcher.remote.host import Host
from launcher.remote.rsync import OnProgress, RsyncOutcome
from launcher.remote.transport import Command, Result, Stream, Transport


class Gone:
    """Stands for a machine of a run that was closed meanwhile: it never answers."""

    def __init__(self, host: Host) -> None:
        self._host = host

    @property
    def host(self) -> Host:
        """The machine that was."""
        return self._host

    @property
    def rsh(self) -> str:
        """Nothing leads there."""
        raise self._gone()

    def run(self, command: Command, *, timeout_seconds: float = 60.0) -> Result:
        """Raises Unreachable, as all of these do."""
        raise self._gone()

    def ssh_argv(self, command: Command | None = None, *, tty: bool = False) -> list[str]:
        raise self._gone()

    def push(
        self, files: Sequence[str], source: Path, target: PurePosixPath, *, on_progress: OnProgress | None = None
    ) -> RsyncOutcome:
        raise self._gone()

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
        raise self._gone()

    def stream(self, command: Command) -> AbstractContextManager[Stream]:
        raise self._gone()

    def close(self) -> None:
        """Nothing is open."""

    def _gone(self) -> Unreachable:
        name = self._host.name
        return Unreachable(f"`{name}` is gone", why="`gptops down` ended it, or its provider did", hint="gptops ps")


class Several:
    """Transports by the place of their nodes. Whoever knows that a run may have several asks for `nodes`."""

    def __init__(self, nodes: Sequence[Transport]) -> None:
        self.nodes = tuple(nodes)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the hosts."""
        return tuple(node.host.name for node in self.nodes)

    @property
    def host(self) -> Host:
        """Node 0's."""
        return self.nodes[0].host

    @property
    def rsh(self) -> str:
        """Node 0's."""
        return self.nodes[0].rsh

    def run(self, command: Command, *, timeout_seconds: float = 60.0) -> Result:
        """On node 0."""
        return self.nodes[0].run(command, timeout_seconds=timeout_seconds)

    def ssh_argv(self, command: Command | None = None, *, tty: bool = False) -> list[str]:
        """Of node 0."""
        return self.nodes[0].ssh_argv(command, tty=tty)

    def push(
        self, files: Sequence[str], source: Path, target: PurePosixPath, *, on_progress: OnProgress | None = None
    ) -> RsyncOutcome:
        """To node 0."""
        return self.nodes[0].push(files, source, target, on_progress=on_progress)

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
        """From node 0."""
        return self.nodes[0].pull(files, source, target, on_progress=on_progress, lock=lock, temporary=temporary)

    def stream(self, command: Command) -> AbstractContextManager[Stream]:
        """From node 0."""
        return self.nodes[0].stream(command)

    def close(self) -> None:
        """All of them."""
        for node in self.nodes:
            node.close()


def machines(transport: Transport) -> tuple[Transport, ...]:
    """Each machine behind a transport, which is most often one."""
    return transport.nodes if isinstance(transport, Several) else (transport,)
