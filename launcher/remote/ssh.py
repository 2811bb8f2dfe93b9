"""The real transport: Fabric for short commands, OpenSSH for everything long.

Fabric opens, authenticates and closes (ssh_login.py). Commands then speak on
paramiko channels (ssh_channel.py), not through `Connection.run`: that one starts
its timeout only when the channel is open (a frozen peer holds it for an hour),
decodes output with the locale, and takes no bytes on stdin. Here every step has
the caller's deadline, and a lost connection is an error, never an exit code.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from launcher.books.ledger import InstanceRow
from launcher.clock import Clock
from launcher.errors import GptopsError, HostUnfit, Unreachable
from launcher.paths import StatePaths, state_paths
from launcher.providers.base import Instance
from launcher.remote.host import Address, Host
from launcher.remote.rsync import COMMON_OPTIONS, PARTIAL, OnProgress, RsyncOutcome, run_rsync
from launcher.remote.ssh_channel import converse
from launcher.remote.ssh_config import CONNECT_TIMEOUT_SECONDS, config_file, control_socket, rsync_rsh, write_ssh_config
from launcher.remote.ssh_login import logged_in
from launcher.remote.ssh_stream import streaming
from launcher.remote.transport import Command, Result, Stream

if TYPE_CHECKING:
    import paramiko

PUSH_OPTIONS = ("--links", "--perms", "--times", "--compress", "--partial-dir=.rsync-partial")
"""A cut transfer's first half waits in .rsync-partial; the final name appears by rename only."""
NAMES_ON_STDIN = ("--from0", "--files-from=-")
PULL_OPTIONS = ("--times", "--no-implied-dirs")
"""Neither `--append-verify` (blind to a file rewritten in place), nor `--remove-source-files`, nor `--delete`: they
trust copies of files, not checkpoints. Nor `--links`: a host can slip in no link."""


def open_transport(host: Host, clock: Clock) -> SshTransport:
    """A transport to `host`; it connects at the first command."""
    return SshTransport(host, clock, control_sockets=state_paths().control_sockets)


def host_of(row: InstanceRow, instance: Instance, state: StatePaths) -> Host:
    """What the transport needs to reach an instance as the provider describes it now."""
    identity = Path(instance.identity_file) if instance.identity_file else state.private_key
    return Host(row.name, instance.addresses, identity, state.known_hosts(row.name))


def end_master(host: Host, control_sockets: Path, *, for_everybody: bool) -> None:
    """End OpenSSH's shared connection to `host`: when nobody else uses it any more, or at once."""
    socket = control_socket(host, control_sockets)
    if not socket.exists():
        return
    order = "exit" if for_everybody else "stop"
    argv = ["ssh", "-F", str(config_file(host)), "-O", order, host.alias]
    subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True)  # a dead master's socket: nothing to end
    if for_everybody:
        socket.unlink(missing_ok=True)


class SshTransport:
    """One host, one connection of ours, one OpenSSH master; both made at first need."""

    def __init__(self, host: Host, clock: Clock, *, control_sockets: Path) -> None:
        self._host = host
        self._clock = clock
        self._control_sockets = control_sockets
        self._connection: Any = None  # a fabric.Connection; fabric has no types
        self._answered: Address | None = None

    @property
    def host(self) -> Host:
        """The host it talks to."""
        return self._host

    @property
    def rsh(self) -> str:
        """The value of rsync's `-e`."""
        return rsync_rsh(self._config())

    def run(self, command: Command, *, timeout_seconds: float = 60.0) -> Result:
        """Run to its end in the remote home, within `timeout_seconds` in all, connecting included."""
        import paramiko  # late: costs 0.13 s, and most verbs never connect

        deadline = self._clock.monotonic() + timeout_seconds
        channel = self._channel(deadline)
        try:
            with self._cut_at(deadline):
                channel.exec_command(os.fsencode(str(command)))
                stdout, stderr = converse(channel, command.stdin, deadline, self._clock)
            return Result(self._exit_code(channel, command, deadline), stdout, stderr)
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise self._lost(command, str(error) or type(error).__name__, deadline) from error
        finally:
            if not channel.closed:
                channel.close()

    def ssh_argv(self, command: Command | None = None, *, tty: bool = False) -> list[str]:
        """The OpenSSH client's command line. What it feeds to stdin is the caller's: `command.stdin` is not used."""
        argv = ["ssh", "-F", str(self._config()), "-tt" if tty else "-T", self._host.alias]
        return argv if command is None else [*argv, "--", str(command)]

    def push(
        self, files: Sequence[str], source: Path, target: PurePosixPath, *, on_progress: OnProgress | None = None
    ) -> RsyncOutcome:
        """Copy `files` (relative to `source`, any bytes in their names) into the remote folder `target`."""
        made = self.run(Command(("mkdir", "-p", "--", str(target))))
        if made.exit_code != 0:
            raise HostUnfit(f"could not make the folder {target} on `{self._host.name}`", why=made.stderr.strip())
        argv = ["rsync", *PUSH_OPTIONS, *NAMES_ON_STDIN, *COMMON_OPTIONS, "-e", self.rsh, "--"]
        argv += [f"{source.absolute()}/", f"{self._host.alias}:{target}/"]
        names = b"".join(os.fsencode(name) + b"\0" for name in files)
        return run_rsync(argv, names, on_progress, receiver="host", host_name=self._host.name)

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
        """Copy `files` of the remote folder `source` into `target`."""
        aside = f"--partial-dir={PARTIAL}"
        options = (aside,) if temporary is None else (f"--temp-dir={temporary.absolute()}", "--ignore-missing-args")
        argv = ["rsync", *PULL_OPTIONS, *options, *NAMES_ON_STDIN, *COMMON_OPTIONS, "-e", self.rsh, "--"]
        argv += [f"{self._host.alias}:{source}/", f"{target.absolute()}/"]
        # rsync takes a name that starts with `#` or `;` for a comment, skips it and ends with 0.
        names = b"".join(b"./" + os.fsencode(name) + b"\0" for name in files)
        held = () if lock is None else (lock,)
        return run_rsync(argv, names, on_progress, receiver="here", host_name=self._host.name, pass_fds=held)

    def stream(self, command: Command) -> AbstractContextManager[Stream]:
        """The output of a command for the time of the block."""
        return streaming(self.ssh_argv(command))

    def close(self) -> None:
        """End the connection, and its master when nobody else uses it any more. Safe to call twice."""
        self._disconnect()
        end_master(self._host, self._control_sockets, for_everybody=False)

    def _config(self) -> Path:
        address = self._answered
        if address is None and len(self._host.addresses) > 1:
            self._connect(self._clock.monotonic() + CONNECT_TIMEOUT_SECONDS * len(self._host.addresses))
            address = self._answered
        return write_ssh_config(self._host, address or self._host.addresses[0], self._control_sockets)

    # Connecting

    def _channel(self, deadline: float) -> paramiko.Channel:
        """A channel on the connection, which is made anew where it has died since the last command."""
        import paramiko

        for reused in (self._is_connected(), False):
            if not reused:
                self._connect(deadline)
            # A connection that died unnoticed (a laptop slept) must leave time for a second one.
            patience = self._remaining(deadline) / (2 if reused else 1)
            try:
                channel: paramiko.Channel = self._connection.transport.open_session(timeout=patience)
            except (paramiko.SSHException, EOFError, OSError) as error:
                self._disconnect()
                problem = error
            else:
                return channel
        raise Unreachable(
            f"`{self._host.name}` does not answer", why=str(problem), hint=f"gptops test-remote {self._host.name}"
        )

    def _is_connected(self) -> bool:
        return self._connection is not None and bool(self._connection.is_connected)

    def _connect(self, deadline: float) -> None:
        self._disconnect()
        problem: GptopsError = Unreachable(f"`{self._host.name}` has no address yet", hint="gptops ps")
        for address in self._host.addresses:
            try:
                self._connection = logged_in(self._host, address, self._remaining(deadline))
            except Unreachable as error:
                problem = error
            else:
                self._answered = address
                return
        raise problem

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextmanager
    def _cut_at(self, deadline: float) -> Iterator[None]:
        """Close the connection at the deadline: paramiko waits without end for a frozen peer's "yes" to a command."""
        watchdog = threading.Timer(self._remaining(deadline), self._connection.transport.close)
        watchdog.daemon = True
        watchdog.start()
        try:
            yield
        finally:
            watchdog.cancel()

    # Talking

    def _exit_code(self, channel: paramiko.Channel, command: Command, deadline: float) -> int:
        connected = self._is_connected()
        if channel.exit_status != -1 and (channel.eof_received or connected):
            return channel.exit_status
        if connected:
            raise HostUnfit(
                f"a command was killed on `{self._host.name}`",
                why=f"`{_short(command)}` ended by a signal: out of memory?",
                hint=f"gptops test-remote {self._host.name}",
            )
        raise self._lost(command, "the connection was closed", deadline)

    def _lost(self, command: Command, why: str, deadline: float) -> Unreachable:
        self._disconnect()
        if self._clock.monotonic() >= deadline:
            why = "no end within the time given for it"
        return Unreachable(
            f"lost `{self._host.name}` during a command",
            why=f"{why}: `{_short(command)}`",
            hint=f"gptops test-remote {self._host.name}",
        )

    def _remaining(self, deadline: float) -> float:
        remaining = deadline - self._clock.monotonic()
        if remaining <= 0:
            raise Unreachable(
                f"`{self._host.name}` did not answer in time", hint=f"gptops test-remote {self._host.name}"
            )
        return remaining


def _short(command: Command) -> str:
    text = shlex.join(command.argv).replace("\n", " ")
    return text if len(text) <= 100 else text[:97] + "..."
