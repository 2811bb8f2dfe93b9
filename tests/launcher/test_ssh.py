"""The transport against a real sshd: exact bytes, exact exit codes, deadlines that fire."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath

import psutil
import pytest

from launcher.clock import SystemClock
from launcher.errors import HostRefused, HostUnfit, Unreachable
from launcher.providers.local_processes import sshd_process
from launcher.remote.host import Address
from launcher.remote.ssh import SshTransport
from launcher.remote.transport import Command
from tests.launcher.conftest import SshHost

HOSTILE = ["a'; echo foo", "two words", "$(id)", "line\nbreak", "`id`", '"', "-n", "*", "\\", "é", "~", ""]


SESSIONS = (
    "import psutil, time; sshds = [p for p in psutil.Process().parents() if p.name().startswith('sshd')];"
    "sessions = [p for p in sshds if '[listener]' not in ' '.join(p.cmdline())]"
)
"""Python on the host that finds the sshd processes of its own connection."""


def python(code: str, stdin: bytes = b"") -> Command:
    return Command(("python3", "-c", code), stdin)


def test_a_command_starts_in_the_hosts_home_and_not_in_ours(transport: SshTransport, ssh_host: SshHost) -> None:
    result = transport.run(Command(("sh", "-c", 'pwd; echo "$HOME"')))
    assert result.stdout.splitlines() == [str(ssh_host.home)] * 2


def test_output_and_exit_code_come_back_apart(transport: SshTransport) -> None:
    result = transport.run(Command(("sh", "-c", "echo out; echo err >&2; exit 7")))
    assert (result.exit_code, result.stdout, result.stderr) == (7, "out\n", "err\n")


def test_hostile_arguments_arrive_as_they_are(transport: SshTransport) -> None:
    result = transport.run(Command(("printf", "%s\\0", *HOSTILE)))
    assert result.stdout.split("\0")[:-1] == HOSTILE


def test_hostile_arguments_pass_through_openssh_as_they_are(transport: SshTransport) -> None:
    done = subprocess.run(transport.ssh_argv(Command(("printf", "%s\\0", *HOSTILE))), capture_output=True, text=True)
    assert done.stdout.split("\0")[:-1] == HOSTILE


def test_bytes_that_are_no_text_survive_both_ways(transport: SshTransport) -> None:
    every = bytes(range(256))
    assert os.fsencode(transport.run(Command(("cat",), every)).stdout) == every
    assert os.fsencode(transport.run(Command(("printf", "%s", os.fsdecode(b"\xff\xfe")))).stdout) == b"\xff\xfe"


def test_megabytes_flow_both_ways_at_once(transport: SshTransport) -> None:
    assert transport.run(Command(("cat",), b"x" * 5_000_000)).stdout == "x" * 5_000_000


def test_stdin_that_nobody_reads_is_no_error(transport: SshTransport) -> None:
    assert transport.run(Command(("true",), b"x" * 5_000_000)).exit_code == 0


def test_stdin_ends_so_that_a_reader_ends(transport: SshTransport) -> None:
    assert transport.run(Command(("wc", "-c"))).stdout.strip() == "0"


def test_a_terminal_is_given_on_request(transport: SshTransport) -> None:
    if os.geteuid() != 0:
        pytest.skip("an unprivileged sshd cannot hand out terminals")
    done = subprocess.run(transport.ssh_argv(Command(("tty",)), tty=True), capture_output=True, text=True)
    assert done.stdout.startswith("/dev/")


def test_a_command_that_takes_too_long_is_unreachable_in_time(transport: SshTransport) -> None:
    started = time.monotonic()
    with pytest.raises(Unreachable):
        transport.run(Command(("sleep", "60")), timeout_seconds=0.5)
    assert time.monotonic() - started < 30
    assert transport.run(Command(("echo", "again"))).stdout == "again\n"


def listener(host: SshHost) -> psutil.Process:
    process = sshd_process(host.folder / "sshd_config")
    assert process is not None
    return process


def sessions(host: SshHost) -> list[psutil.Process]:
    """The sshd processes that serve connections."""
    return listener(host).children(recursive=True)


def test_a_frozen_peer_is_unreachable_in_bounded_time(fresh_host: Callable[[], SshHost]) -> None:
    host = fresh_host()
    transport = host.transport()
    transport.run(Command(("true",)))
    for process in [listener(host), *sessions(host)]:  # its kernel still accepts connections, as that of a hung machine
        process.send_signal(signal.SIGSTOP)
    started = time.monotonic()
    with pytest.raises(Unreachable):
        transport.run(Command(("true",)), timeout_seconds=2)
    assert time.monotonic() - started < 30
    transport.close()


def test_a_peer_that_freezes_in_the_middle_is_unreachable_in_bounded_time(fresh_host: Callable[[], SshHost]) -> None:
    transport = fresh_host().transport()
    started = time.monotonic()
    with pytest.raises(Unreachable, match="lost"):
        transport.run(python(f"{SESSIONS}; [p.suspend() for p in sessions]; time.sleep(60)"), timeout_seconds=2)
    assert time.monotonic() - started < 30
    transport.close()


def test_a_connection_frozen_since_the_last_command_is_replaced(fresh_host: Callable[[], SshHost]) -> None:
    host = fresh_host()
    transport = host.transport()
    transport.run(Command(("true",)))
    for process in sessions(host):
        process.send_signal(signal.SIGSTOP)
    assert transport.run(Command(("echo", "here")), timeout_seconds=4).stdout == "here\n"
    transport.close()


def test_a_connection_killed_since_the_last_command_is_replaced(fresh_host: Callable[[], SshHost]) -> None:
    host = fresh_host()
    transport = host.transport()
    transport.run(Command(("true",)))
    for process in sessions(host):
        process.kill()
    assert transport.run(Command(("echo", "here"))).stdout == "here\n"
    transport.close()


def test_a_connection_lost_in_the_middle_is_never_an_exit_code(fresh_host: Callable[[], SshHost]) -> None:
    transport = fresh_host().transport()
    code = f"print('half', flush=True); {SESSIONS}; [p.kill() for p in sessions]; time.sleep(60)"
    with pytest.raises(Unreachable, match="lost"):
        transport.run(python(code), timeout_seconds=20)
    transport.close()


def test_an_unreachable_port_is_unreachable(ssh_host: SshHost) -> None:
    elsewhere = replace(ssh_host.host, addresses=(Address("127.0.0.1", 1, "root"),))
    with pytest.raises(Unreachable) as raised:
        SshTransport(elsewhere, SystemClock(), control_sockets=ssh_host.state.control_sockets).run(Command(("true",)))
    assert "127.0.0.1:1" in raised.value.what


def test_the_next_address_is_tried_when_the_first_does_not_answer(ssh_host: SshHost) -> None:
    both = replace(ssh_host.host, addresses=(Address("127.0.0.1", 1, "root"), ssh_host.address))
    transport = SshTransport(both, SystemClock(), control_sockets=ssh_host.state.control_sockets)
    assert transport.run(Command(("echo", "here"))).stdout == "here\n"
    assert subprocess.run(transport.ssh_argv(Command(("true",)))).returncode == 0
    transport.close()


def test_push_copies_hostile_names_into_a_hostile_folder(
    transport: SshTransport, ssh_host: SshHost, tmp_path: Path
) -> None:
    names = ["a b/c'\n$(x)", os.fsdecode(b"\xff"), "-dash", "é"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name, errors="surrogateescape")
    target = PurePosixPath("gptops/up loads/$(x)'")
    outcome = transport.push(names, tmp_path, target)
    assert outcome.files == len(names)
    for name in names:
        assert (ssh_host.home / target / name).read_text(errors="surrogateescape") == name


def test_push_sends_a_changed_file_and_no_other(transport: SshTransport, tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).write_text(name)
    target = PurePosixPath("gptops/push-twice")
    assert transport.push(["a", "b", "c"], tmp_path, target).files == 3
    (tmp_path / "b").write_text("changed")
    assert transport.push(["a", "b", "c"], tmp_path, target).files == 1


def test_push_tells_how_far_it_is(transport: SshTransport, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(os.urandom(3_000_000))
    seen: list[int] = []
    transport.push(["big"], tmp_path, PurePosixPath("gptops/push-progress"), on_progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 3_000_000


def test_push_where_nothing_may_be_written_says_so(transport: SshTransport, ssh_host: SshHost, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    (ssh_host.home / "in-the-way").write_text("a file, no folder")
    with pytest.raises(HostUnfit, match="could not make the folder"):
        transport.push(["a"], tmp_path, PurePosixPath("in-the-way/target"))


def test_closing_ends_the_master_and_may_be_repeated(ssh_host: SshHost) -> None:
    transport = ssh_host.transport()
    subprocess.run(transport.ssh_argv(Command(("true",))), check=True)
    transport.close()
    transport.close()
    argv = transport.ssh_argv()
    assert subprocess.run([*argv[:3], "-O", "check", argv[-1]], capture_output=True).returncode != 0


def test_nothing_of_the_users_own_ssh_is_read_or_written(
    ssh_host: SshHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "config").write_text("Host *\n  Port 1\n  NoSuchOption yes\n")
    transport = ssh_host.transport()
    assert transport.run(Command(("true",))).exit_code == 0
    assert subprocess.run(transport.ssh_argv(Command(("true",)))).returncode == 0
    transport.close()
    assert [path.name for path in (tmp_path / ".ssh").iterdir()] == ["config"]


def test_an_address_that_would_be_an_option_is_refused() -> None:
    from launcher.errors import UsageError

    for host, user in [("-oProxyCommand=id", "root"), ("a\n  ProxyCommand id", "root"), ("a", "-l"), ("", "root")]:
        with pytest.raises(UsageError):
            Address(host, 22, user)


def test_an_unpinned_host_is_refused(ssh_host: SshHost, tmp_path: Path) -> None:
    unknown = replace(ssh_host.host, known_hosts=tmp_path / "known_hosts")
    with pytest.raises(HostRefused, match="no host key is pinned"):
        SshTransport(unknown, SystemClock(), control_sockets=ssh_host.state.control_sockets).run(Command(("true",)))
