"""The real transport: Fabric for short commands, OpenSSH for everything long.

Fabric opens, authenticates and closes. Commands then speak on paramiko channels,
not through `Connection.run`: that one starts its timeout only when the channel is
open (a frozen peer holds it for an hour), decodes output with the locale, and
takes no bytes on stdin. Here every step has the caller's deadline, output is
exact (surrogateescape), and a lost connection is an error, never an exit code.
Host keys are pinned: nothing unknown is ever accepted.
"""

from __future__ import annotations

import base64
import logging
import os
import select
import shlex
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from launcher.clock import Clock
from launcher.errors import GptopsError, HostRefused, HostUnfit, Unreachable
from launcher.host import Address, Host
from launcher.ledger import InstanceRow
from launcher.paths import StatePaths, state_paths
from launcher.pinning import changed_key, pinned_key, unpinned
from launcher.providers.base import Instance
from launcher.rsync import COMMON_OPTIONS, OnProgress, RsyncOutcome, run_rsync
from launcher.ssh_config import (
    ALIVE_INTERVAL_SECONDS,
    CONNECT_TIMEOUT_SECONDS,
    config_file,
    control_socket,
    rsync_rsh,
    write_ssh_config,
)
from launcher.transport import Command, Result

if TYPE_CHECKING:
    import paramiko

PARTIAL_DIR = ".rsync-partial"
"""Where a cut transfer's first half waits, beside the file; the final name appears by rename only."""


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
                return self._conversation(channel, command, deadline)
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
        options = (
            "--links",
            "--perms",
            "--times",
            "--compress",
            "--from0",
            "--files-from=-",
            f"--partial-dir={PARTIAL_DIR}",
        )
        argv = (
            "rsync",
            *options,
            *COMMON_OPTIONS,
            "-e",
            self.rsh,
            "--",
            f"{source.absolute()}/",
            f"{self._host.alias}:{target}/",
        )
        names = b"".join(os.fsencode(name) + b"\0" for name in files)
        return run_rsync(argv, names, on_progress, receiver="host", host_name=self._host.name)

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
        key = pinned_key(self._host)
        if key is None:
            raise unpinned(self._host)
        problem: GptopsError = Unreachable(f"`{self._host.name}` has no address yet", hint="gptops ps")
        for address in self._host.addresses:
            try:
                self._connection = self._connected(address, key, self._remaining(deadline))
            except Unreachable as error:
                problem = error
            else:
                self._answered = address
                return
        raise problem

    def _connected(self, address: Address, pinned: str, patience: float) -> Any:
        """A fabric.Connection to one address. Its key must be the pinned one."""
        import fabric  # late: costs 0.15 s
        import paramiko

        logging.getLogger("paramiko").addHandler(logging.NullHandler())  # it prints tracebacks of its own otherwise
        patience = min(patience, CONNECT_TIMEOUT_SECONDS)
        connection = fabric.Connection(
            address.host,
            user=address.user,
            port=address.port,
            # lazy and no ssh configs: neither ~/.ssh/config nor /etc/invoke.yaml takes part
            config=fabric.Config(overrides={"load_ssh_configs": False}, lazy=True),
            connect_timeout=patience,
            connect_kwargs={
                "key_filename": str(self._host.identity_file),
                "look_for_keys": False,
                "allow_agent": False,
                "banner_timeout": patience,
                "auth_timeout": patience,
            },
        )
        connection.client.set_missing_host_key_policy(paramiko.RejectPolicy())
        kind, blob = pinned.split()[:2]
        shown_as = address.host if address.port == 22 else f"[{address.host}]:{address.port}"
        connection.client.get_host_keys().add(shown_as, kind, paramiko.PKey.from_type_string(kind, _decoded(blob)))
        try:
            connection.open()
        except (paramiko.SSHException, EOFError, OSError) as error:
            connection.close()
            raise self._refusal(address, error) from error
        connection.transport.set_keepalive(ALIVE_INTERVAL_SECONDS)
        return connection

    def _refusal(self, address: Address, error: Exception) -> GptopsError:
        import paramiko

        if isinstance(error, paramiko.BadHostKeyException):
            return changed_key(self._host, seen=f"{error.key.get_name()} {error.key.get_base64()}")
        if isinstance(error, paramiko.PasswordRequiredException):
            return HostRefused(
                f"the key {self._host.identity_file} needs a passphrase",
                why="gptops works unattended and asks no agent",
                hint="use a key without one, or gptops' own: leave identity_file out, see `gptops doctor`",
            )
        if isinstance(error, paramiko.AuthenticationException):
            return HostRefused(
                f"{address} refused our key",
                why=f"offered {self._host.identity_file}; the server said: {error}",
                hint="add the line that `gptops doctor` shows to ~/.ssh/authorized_keys on the host",
            )
        return Unreachable(
            f"could not reach {address}",
            why=str(error) or type(error).__name__,
            hint=f"gptops ps, or try it yourself: nc -v {address.host} {address.port}",
        )

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

    def _conversation(self, channel: paramiko.Channel, command: Command, deadline: float) -> Result:
        """Feed stdin and collect both outputs until the command has ended and said everything."""
        stdin: memoryview | None = memoryview(command.stdin)
        stdout, stderr = bytearray(), bytearray()
        wakes = channel.fileno()  # readable when there is output, or an end
        channel.setblocking(0)
        stdin = _fed(channel, stdin)
        while not _drained(channel, stdout, stderr):
            patience = deadline - self._clock.monotonic()
            if patience <= 0:
                raise self._lost(command, "", deadline)
            select.select([wakes], [], [], min(patience, 0.02 if stdin is not None else patience))
            stdin = _fed(channel, stdin)
        return Result(self._exit_code(channel, command, deadline), _text(stdout), _text(stderr))

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


def _fed(channel: paramiko.Channel, stdin: memoryview | None) -> memoryview | None:
    """Send what the peer has room for; None when all is sent and stdin is closed."""
    if stdin is None:
        return None
    try:
        while stdin and channel.send_ready():
            stdin = stdin[channel.send(stdin[:65536].tobytes()) :]
        if not stdin:
            channel.shutdown_write()
    except OSError:
        if not channel.closed:
            raise
        return None  # the command ended without reading everything, as it may
    return stdin or None


def _drained(channel: paramiko.Channel, stdout: bytearray, stderr: bytearray) -> bool:
    """Take what has come. True when the peer has ended and nothing more can come."""
    # `closed` and the exit code may arrive between two looks: look at them before the buffers.
    over = bool(channel.closed) or (channel.exit_status_ready() and bool(channel.eof_received))
    while channel.recv_ready():
        stdout += channel.recv(65536)
    while channel.recv_stderr_ready():
        stderr += channel.recv_stderr(65536)
    return over


def _text(output: bytearray) -> str:
    return output.decode("utf-8", errors="surrogateescape")


def _short(command: Command) -> str:
    text = shlex.join(command.argv).replace("\n", " ")
    return text if len(text) <= 100 else text[:97] + "..."


def _decoded(blob: str) -> bytes:
    return base64.b64decode(blob)
