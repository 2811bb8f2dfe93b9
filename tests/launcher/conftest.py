"""A real OpenSSH server for every test that needs a host.

`ssh_host` is one for the whole session: use run ids of your own on it. `fresh_host`
makes one that a test may break. `transport` talks to the session's.
"""

from __future__ import annotations

import shlex
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from launcher.clock import SystemClock
from launcher.errors import Unreachable
from launcher.paths import StatePaths, state_paths
from launcher.providers.base import CreateRequest, Instance, Wanted
from launcher.providers.local import LocalProvider
from launcher.providers.local_sshd import SBIN
from launcher.remote.host import Address, Host
from launcher.remote.keys import ensure_key, public_line
from launcher.remote.pinning import pin, shown_key
from launcher.remote.ssh import SshTransport
from tests.launcher.waiting import wait_until


@dataclass(frozen=True)
class SshHost:
    """A host that answers, and what a test may want to know of it."""

    state: StatePaths
    provider: LocalProvider
    instance: Instance
    host: Host

    @property
    def folder(self) -> Path:
        """Its sshd's configuration, keys, log."""
        return self.state.provider("local") / self.instance.instance_id

    @property
    def home(self) -> Path:
        """Where its commands start."""
        return self.folder / "home"

    @property
    def address(self) -> Address:
        return self.host.addresses[0]

    def transport(self) -> SshTransport:
        """A transport of your own; close it."""
        return SshTransport(self.host, SystemClock(), control_sockets=self.state.control_sockets)

    def put_first_on_path(self, folder: Path) -> None:
        """Let every later command find the programs in `folder` first, as if the image had them."""
        self._change_session(f'export PATH={shlex.quote(str(folder))}:"$PATH"')

    def export(self, name: str, value: str) -> None:
        """Let every later command find this variable, as if the image had set it."""
        self._change_session(f"export {name}={shlex.quote(value)}")

    def restrict_path_to(self, *programs: str) -> None:
        """Let every later command find these programs alone."""
        folder = self.folder / "few-programs"
        folder.mkdir()
        for program in programs:
            found = shutil.which(program)
            assert found is not None, program
            (folder / program).symlink_to(found)
        self._change_session(f"export PATH={shlex.quote(str(folder))}")

    def _change_session(self, line: str) -> None:
        script = self.folder / "session.sh"
        script.write_text(script.read_text().replace('cd "$HOME"', f'{line}\ncd "$HOME"'))

    def destroy(self) -> None:
        self.provider.destroy(self.instance.instance_id)


def open_local_host(state: StatePaths) -> SshHost:
    ensure_key(state.private_key)
    provider = LocalProvider(state.provider("local"))
    [offer] = provider.offers(Wanted())
    unique = uuid.uuid4().hex[:12]
    request = CreateRequest(f"gptops:tests:{unique}", image="", disk_gib=0, public_key=public_line(state.private_key))
    instance = provider.create(offer, request)
    name = f"local-{unique[:4]}"
    host = Host(name, instance.addresses, state.private_key, state.known_hosts(name))
    wait_until(lambda: answers(host.addresses[0]), what="sshd answers")
    assert instance.host_key is not None
    pin(host, instance.host_key)
    return SshHost(state, provider, instance, host)


def answers(address: Address) -> bool:
    """Whether an sshd is there now."""
    try:
        return bool(shown_key(address, timeout_seconds=5))
    except Unreachable:
        return False


def require_programs() -> None:
    path = ":".join(["/usr/bin", *SBIN])
    missing = [name for name in ("sshd", "ssh", "rsync") if not (shutil.which(name) or shutil.which(name, path=path))]
    if missing:
        pytest.skip(f"not installed here: {', '.join(missing)}")


@pytest.fixture(scope="session")
def ssh_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshHost]:
    """One host for the whole session. Its commands start in `ssh_host.home`."""
    require_programs()
    opened = open_local_host(StatePaths(tmp_path_factory.mktemp("state")))
    yield opened
    opened.destroy()


@pytest.fixture(scope="session")
def sshd(ssh_host: SshHost) -> SshHost:
    """Another name for `ssh_host`."""
    return ssh_host


@pytest.fixture
def transport(ssh_host: SshHost) -> Iterator[SshTransport]:
    """A transport to the session's host."""
    opened = ssh_host.transport()
    yield opened
    opened.close()


@pytest.fixture
def fresh_host(tmp_path: Path) -> Iterator[Callable[[], SshHost]]:
    """Call it for a host of your own, to break."""
    require_programs()
    opened: list[SshHost] = []

    def make() -> SshHost:
        opened.append(open_local_host(StatePaths(tmp_path / "state")))
        return opened[-1]

    yield make
    for host in opened:
        host.destroy()


@pytest.fixture
def gptops_home() -> StatePaths:
    """The test's own state directory (tests/conftest.py makes it), as everything that asks `state_paths()` sees it."""
    return state_paths()
