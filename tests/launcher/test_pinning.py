"""Keys: made once, shown as OpenSSH shows them, pinned once, and refused with both fingerprints when they change."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from launcher.clock import SystemClock
from launcher.errors import HostRefused, LocalFault, Unreachable
from launcher.remote.host import Address
from launcher.remote.keys import ensure_key, fingerprint, make_key_pair, public_line
from launcher.remote.pinning import pin, pinned_key, shown_key
from launcher.remote.rsync import ssh_error
from launcher.remote.ssh import SshTransport
from launcher.remote.transport import Command
from tests.launcher.conftest import SshHost


def another_key(tmp_path: Path) -> str:
    make_key_pair(tmp_path / "another", comment="x")
    return public_line(tmp_path / "another")


def test_our_key_is_made_once_and_readable_by_us_alone(tmp_path: Path) -> None:
    key = tmp_path / "keys" / "id_ed25519"
    ensure_key(key)
    line = public_line(key)
    ensure_key(key)
    assert public_line(key) == line
    assert line.startswith("ssh-ed25519 ")
    assert key.stat().st_mode & 0o777 == 0o600
    assert key.parent.stat().st_mode & 0o777 == 0o700


def test_a_lost_public_half_comes_back_for_the_same_key(tmp_path: Path) -> None:
    key = tmp_path / "id_ed25519"
    ensure_key(key)
    line = public_line(key)
    key.with_name("id_ed25519.pub").unlink()
    ensure_key(key)
    assert public_line(key).split()[:2] == line.split()[:2]


def test_fingerprints_are_those_of_openssh(tmp_path: Path) -> None:
    line = another_key(tmp_path)
    shown = subprocess.run(["ssh-keygen", "-lf", str(tmp_path / "another.pub")], capture_output=True, text=True).stdout
    assert fingerprint(line).split()[1] in shown


def test_a_server_shows_its_key_without_a_login(ssh_host: SshHost) -> None:
    assert shown_key(ssh_host.address, timeout_seconds=5) == ssh_host.instance.host_key


def test_no_server_no_key() -> None:
    with pytest.raises(Unreachable):
        shown_key(Address("127.0.0.1", 1, "root"), timeout_seconds=5)


def test_a_pin_stays_and_another_key_is_refused(ssh_host: SshHost, tmp_path: Path) -> None:
    host = replace(ssh_host.host, known_hosts=tmp_path / "hosts" / "known_hosts")
    assert pinned_key(host) is None
    assert ssh_host.instance.host_key is not None
    pin(host, ssh_host.instance.host_key)
    pin(host, ssh_host.instance.host_key + " a comment")
    with pytest.raises(HostRefused, match="has changed"):
        pin(host, another_key(tmp_path))
    assert pinned_key(host) == ssh_host.instance.host_key


@pytest.fixture
def changed(ssh_host: SshHost, tmp_path: Path) -> SshTransport:
    """The session's host, as if another key had been pinned for it."""
    host = replace(ssh_host.host, known_hosts=tmp_path / "known_hosts")
    pin(host, another_key(tmp_path))
    return SshTransport(host, SystemClock(), control_sockets=ssh_host.state.control_sockets)


def test_a_changed_key_is_refused_with_both_fingerprints_and_what_to_do(
    changed: SshTransport, ssh_host: SshHost, tmp_path: Path
) -> None:
    with pytest.raises(HostRefused, match="has changed") as raised:
        changed.run(Command(("true",)))
    assert fingerprint(public_line(tmp_path / "another")) in raised.value.why
    assert fingerprint(public_line(ssh_host.folder / "host_key")) in raised.value.why
    assert "gptops down" in raised.value.hint


def test_openssh_refuses_a_changed_key_too_and_its_words_are_understood(changed: SshTransport) -> None:
    done = subprocess.run(changed.ssh_argv(Command(("true",))), capture_output=True, text=True)
    assert done.returncode == 255
    assert isinstance(ssh_error(done.stderr, "h"), HostRefused)


def test_a_host_that_comes_back_with_a_new_key_is_refused(fresh_host: Callable[[], SshHost]) -> None:
    first, second = fresh_host(), fresh_host()
    moved = replace(first.host, addresses=second.host.addresses)
    transport = SshTransport(moved, SystemClock(), control_sockets=first.state.control_sockets)
    with pytest.raises(HostRefused, match="has changed"):
        transport.run(Command(("true",)))


def test_a_key_the_host_does_not_know_is_refused(ssh_host: SshHost, tmp_path: Path) -> None:
    make_key_pair(tmp_path / "wrong", comment="x")
    host = replace(ssh_host.host, identity_file=tmp_path / "wrong")
    transport = SshTransport(host, SystemClock(), control_sockets=ssh_host.state.control_sockets)
    with pytest.raises(HostRefused, match="refused our key") as raised:
        transport.run(Command(("true",)))
    assert "gptops doctor" in raised.value.hint


def test_a_key_with_a_passphrase_says_so(ssh_host: SshHost, tmp_path: Path) -> None:
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", str(tmp_path / "locked")]
    subprocess.run(argv, check=True)
    host = replace(ssh_host.host, identity_file=tmp_path / "locked")
    with pytest.raises(HostRefused, match="passphrase"):
        SshTransport(host, SystemClock(), control_sockets=ssh_host.state.control_sockets).run(Command(("true",)))


@pytest.mark.parametrize("line", ["ssh-ed25519 AAAA", "ssh-ed25519 !!!", "no-such-kind AAAA"])
def test_a_damaged_pin_is_a_refusal(ssh_host: SshHost, tmp_path: Path, line: str) -> None:
    host = replace(ssh_host.host, known_hosts=tmp_path / "known_hosts")
    host.known_hosts.write_text(f"{host.alias} {line}\n")
    with pytest.raises(HostRefused, match="damaged"):
        SshTransport(host, SystemClock(), control_sockets=ssh_host.state.control_sockets).run(Command(("true",)))


def test_a_login_key_that_is_gone_is_a_local_fault(ssh_host: SshHost, tmp_path: Path) -> None:
    host = replace(ssh_host.host, identity_file=tmp_path / "gone")
    with pytest.raises(LocalFault, match="cannot be read"):
        SshTransport(host, SystemClock(), control_sockets=ssh_host.state.control_sockets).run(Command(("true",)))
