"""What can be wrong with a host or its link: each is one clear error, and nothing is lost."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import pytest

from launcher.errors import HostRefused, HostUnfit, LocalFault, Unreachable
from launcher.remote.rsync import COMMON_OPTIONS, rsync_error, run_rsync, ssh_error
from launcher.remote.ssh import SshTransport
from tests.launcher.conftest import SshHost
from tests.launcher.running import cut_connections
from tests.launcher.waiting import wait_until

TARGET = PurePosixPath("gptops/faults")


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """A small file system of its own at `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"cannot mount a small file system here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def big(tmp_path: Path) -> Path:
    folder = tmp_path / "big"
    folder.mkdir()
    (folder / "file").write_bytes(os.urandom(4_000_000))
    return folder


def test_a_full_disk_on_the_host_is_said_and_the_source_stays(
    ssh_host: SshHost, transport: SshTransport, big: Path
) -> None:
    with mounted(ssh_host.home / "gptops" / "full", "size=1m"):
        with pytest.raises(HostUnfit, match="disk is full on") as raised:
            transport.push(["file"], big, PurePosixPath("gptops/full/x"))
        assert not (ssh_host.home / "gptops" / "full" / "x" / "file").exists()
    assert "df -h" in raised.value.hint
    assert (big / "file").stat().st_size == 4_000_000


def test_a_full_disk_here_is_said(ssh_host: SshHost, transport: SshTransport, big: Path, tmp_path: Path) -> None:
    transport.push(["file"], big, TARGET / "pull")
    with mounted(tmp_path / "small", "size=1m"):
        source = f"{transport.host.alias}:{TARGET / 'pull'}/"
        argv = ["rsync", "-r", *COMMON_OPTIONS, "-e", transport.rsh, source, str(tmp_path / "small")]
        with pytest.raises(LocalFault, match="disk is full here"):
            run_rsync(argv, receiver="here", host_name="h")


def test_a_place_on_the_host_that_cannot_be_written_is_said(
    ssh_host: SshHost, transport: SshTransport, big: Path
) -> None:
    with mounted(ssh_host.home / "gptops" / "readonly", "size=1m,ro"), pytest.raises(HostUnfit) as raised:
        transport.push(["file"], big, PurePosixPath("gptops/readonly"))
    assert "Read-only" in raised.value.why


def test_a_host_without_rsync_is_said_with_the_line_that_installs_it(
    fresh_host: Callable[[], SshHost], big: Path
) -> None:
    host = fresh_host()
    host.restrict_path_to("sh", "mkdir")
    transport = host.transport()
    with pytest.raises(HostUnfit, match="rsync is not installed on") as raised:
        transport.push(["file"], big, TARGET)
    assert "apt-get install -y rsync" in raised.value.hint
    transport.close()


def test_rsync_missing_here_is_said(
    transport: SshTransport, big: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(LocalFault, match="rsync is not installed here"):
        transport.push(["file"], big, TARGET)


def test_a_file_that_vanished_before_the_transfer_is_said_by_name(transport: SshTransport, big: Path) -> None:
    with pytest.raises(HostUnfit) as raised:
        transport.push(["file", "gone"], big, TARGET / "vanished")
    assert "gone" in raised.value.why


def test_a_transfer_cut_in_the_middle_is_unreachable_and_goes_on_from_there(
    fresh_host: Callable[[], SshHost], tmp_path: Path
) -> None:
    host = fresh_host()
    (tmp_path / "file").write_bytes(os.urandom(30_000_000))
    transport = host.transport()
    cut: list[int] = []

    def cut_once(done: int) -> None:
        if done > 5_000_000 and not cut:
            cut.append(cut_connections(host))

    with pytest.raises(Unreachable):
        # Slow enough that there is a middle, whatever the machine.
        slowly(transport, tmp_path, cut_once)
    assert cut
    assert not (host.home / TARGET / "file").exists()
    partial = host.home / TARGET / ".rsync-partial" / "file"
    wait_until(partial.exists, what="what has arrived is kept")
    transport.push(["file"], tmp_path, TARGET)
    assert (host.home / TARGET / "file").read_bytes() == (tmp_path / "file").read_bytes()
    assert not partial.exists()
    transport.close()


def slowly(transport: SshTransport, source: Path, on_progress: Callable[[int], None]) -> None:
    argv = ["rsync", "--partial-dir=.rsync-partial", "--mkpath", "--bwlimit=10m", *COMMON_OPTIONS, "-e", transport.rsh]
    target = f"{transport.host.alias}:{TARGET}/"
    run_rsync([*argv, str(source / "file"), target], b"", on_progress, receiver="host", host_name="h")


@pytest.mark.parametrize(
    ("said", "error", "word"),
    [
        ("ssh: connect to host h port 22: Connection refused", Unreachable, "refused"),
        ("ssh: Could not resolve hostname h: Name or service not known", Unreachable, "resolve"),
        ("Timeout, server h not responding.", Unreachable, "Timeout"),
        ("root@h: Permission denied (publickey).", HostRefused, "publickey"),
        ("No ED25519 host key is known for h and you have requested strict checking.\nHost key verification failed.",
         HostRefused, "No ED25519"),
        ("", Unreachable, "nothing"),
    ],
)  # fmt: skip
def test_what_openssh_says_becomes_a_typed_error(said: str, error: type[Exception], word: str) -> None:
    found = ssh_error(said, "h")
    assert type(found) is error
    assert word in found.why


@pytest.mark.parametrize(
    ("code", "said", "here", "error"),
    [
        (12, "rsync: connection unexpectedly closed (0 bytes received so far) [sender]", HostUnfit, Unreachable),
        (127, "bash: line 1: rsync: command not found", HostUnfit, HostUnfit),
        (11, 'rsync: [receiver] write failed on "/x": No space left on device (28)', LocalFault, HostUnfit),
        (23, 'rsync: [receiver] mkstemp "/x" failed: Permission denied (13)', LocalFault, HostUnfit),
        (30, "rsync error: timeout in data send/receive (code 30)", Unreachable, Unreachable),
        (1, "rsync: --info=progress2: unknown option", LocalFault, LocalFault),
        (20, "", LocalFault, LocalFault),
        (-9, "", LocalFault, LocalFault),
        (99, "something new", LocalFault, HostUnfit),
    ],
)
def test_what_rsync_says_becomes_a_typed_error(
    code: int, said: str, here: type[Exception], error: type[Exception]
) -> None:
    assert type(rsync_error(code, said, receiver="host", host_name="h")) is error
    if code not in (12, 127):
        assert type(rsync_error(code, said, receiver="here", host_name="h")) is here
