"""The log of a real run over a real sshd: exact bytes at home, whatever happens to the connection."""

from __future__ import annotations

import resource
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from launcher.clock import SystemClock
from launcher.commands.runs import send_log
from launcher.errors import LocalFault, Unreachable
from launcher.paths import LocalRun, RemoteRun
from launcher.remote.ssh import SshTransport
from launcher.running.logs import Follower, pull_log
from launcher.running.status import Phase, RunStatus
from tests.launcher.conftest import SshHost
from tests.launcher.running import (
    PRINTS_UNTIL_STOPPED,
    RemoteTraining,
    cut_connections,
    listeners,
    start_training,
    stopped_listening,
)
from tests.launcher.waiting import wait_until

BINARY = "import sys; sys.stdout.buffer.write(bytes(range(256)) * 2000)"
Start = Callable[[str], RemoteTraining]


@pytest.fixture
def start(ssh_host: SshHost, transport: SshTransport, tmp_path: Path) -> Iterator[Start]:
    """Start a program on the session's host; what is left of it at the end is ended."""
    started: list[RemoteTraining] = []

    def begin(program: str) -> RemoteTraining:
        started.append(start_training(ssh_host, transport, tmp_path / "runs" / "it's $(mine)", program))
        return started[-1]

    yield begin
    for training in started:
        training.end()


class Following:
    """A Follower in a thread, and what it gave on."""

    def __init__(self, training: RemoteTraining, *, shown: int = 0, is_open: Callable[[], bool] = lambda: True) -> None:
        self.out = bytearray()
        self.notices: list[str] = []
        self.result: list[RunStatus | None] = []
        self._transport = training.host.transport()
        follower = Follower(
            self._transport,
            training.run,
            training.local,
            self._take,
            self.notices.append,
            is_open,
            SystemClock(),
            shown,
        )
        self._thread = threading.Thread(target=lambda: self.result.append(follower.follow()), daemon=True)
        self._thread.start()

    def _take(self, position: int, block: bytes) -> None:
        self.out += block

    def ended(self) -> RunStatus | None:
        self._thread.join(30)
        assert not self._thread.is_alive(), self.notices
        self._transport.close()
        return self.result[0]


def test_the_log_comes_home_byte_for_byte(start: Start) -> None:
    training = start(BINARY)
    wait_until(training.ended)
    assert pull_log(training.transport, training.run, training.local) == 512_000
    assert training.local.log.read_bytes() == training.remote_log.read_bytes() == bytes(range(256)) * 2000
    assert pull_log(training.transport, training.run, training.local) == 0


def test_a_cut_copy_is_completed_from_where_it_ends(start: Start) -> None:
    training = start(BINARY)
    wait_until(training.ended)
    training.local.log.parent.mkdir(parents=True)
    training.local.log.write_bytes((bytes(range(256)) * 2000)[:333_333])
    assert pull_log(training.transport, training.run, training.local) == 512_000 - 333_333
    assert training.local.log.read_bytes() == training.remote_log.read_bytes()


def test_following_ends_with_the_run_and_has_every_byte(start: Start) -> None:
    training = start(PRINTS_UNTIL_STOPPED)
    following = Following(training)
    wait_until(lambda: len(following.out) > 2000)
    assert training.stop().exit_code == 75
    status = following.ended()
    assert status is not None
    assert (status.phase, status.exit_code, status.was_stopped) == (Phase.ENDED, 75, True)
    assert bytes(following.out) == training.local.log.read_bytes() == training.remote_log.read_bytes()
    assert following.out.endswith(b"saved\n")


def test_no_byte_is_missing_or_doubled_after_lost_connections(start: Start) -> None:
    training = start(PRINTS_UNTIL_STOPPED)
    following = Following(training)
    for _ in range(4):
        seen = len(following.out)
        wait_until(lambda seen=seen: len(following.out) > seen + 500, seconds=20)  # type: ignore[misc]
        assert cut_connections(training.host) > 0
    seen = len(following.out)
    wait_until(lambda: len(following.out) > seen, seconds=20)
    training.stop()
    assert following.ended() is not None
    assert any("was cut; going on at byte" in notice for notice in following.notices)
    assert bytes(following.out) == training.local.log.read_bytes() == training.remote_log.read_bytes()


def test_a_host_that_is_away_for_a_while_is_waited_for(
    start: Start, fresh_host: Callable[[], SshHost], tmp_path: Path
) -> None:
    host = fresh_host()
    transport = host.transport()
    training = start_training(host, transport, tmp_path / "home", PRINTS_UNTIL_STOPPED)
    following = Following(training)
    wait_until(lambda: following.out)
    with stopped_listening(host):
        wait_until(lambda: any("lost `" in notice for notice in following.notices), seconds=30)
    seen = len(following.out)
    wait_until(lambda: len(following.out) > seen, seconds=30)
    assert "the run goes on there" in " ".join(following.notices)
    assert "answers again; going on at byte" in " ".join(following.notices)
    training.stop()
    assert following.ended() is not None
    assert bytes(following.out) == training.remote_log.read_bytes()
    transport.close()


def test_a_host_that_is_closed_ends_the_following(fresh_host: Callable[[], SshHost], tmp_path: Path) -> None:
    host = fresh_host()
    transport = host.transport()
    training = start_training(host, transport, tmp_path / "home", PRINTS_UNTIL_STOPPED)
    still_open = [True]
    following = Following(training, is_open=lambda: still_open[0])
    wait_until(lambda: following.out)
    still_open[0] = False
    host.destroy()
    assert following.ended() is None
    assert training.local.log.read_bytes() == bytes(following.out)
    transport.close()


def test_two_that_follow_the_same_run_share_one_copy(start: Start) -> None:
    training = start(PRINTS_UNTIL_STOPPED)
    both = [Following(training), Following(training)]
    wait_until(lambda: all(len(each.out) > 2000 for each in both))
    pull_log(training.transport, training.run, training.local)
    training.stop()
    for each in both:
        each.ended()
        assert bytes(each.out) == training.remote_log.read_bytes()
    assert training.local.log.read_bytes() == training.remote_log.read_bytes()


def test_following_may_begin_in_the_middle(start: Start) -> None:
    training = start(BINARY)
    wait_until(training.ended)
    pull_log(training.transport, training.run, training.local)
    following = Following(training, shown=511_999)
    assert following.ended() is not None
    assert bytes(following.out) == b"\xff"
    beyond = Following(training, shown=600_000)
    assert beyond.ended() is not None
    assert beyond.out == b""


@pytest.mark.parametrize("change", ["cut", "replaced"])
def test_another_log_is_noticed_and_the_old_copy_kept(start: Start, change: str) -> None:
    training = start("print('first line')")
    wait_until(training.ended)
    pull_log(training.transport, training.run, training.local)
    training.remote_log.write_text("" if change == "cut" else "other words, and more of them\n")
    notices: list[str] = []
    pull_log(training.transport, training.run, training.local, notices.append)
    assert training.local.log.with_name("train.log.1").read_text() == "first line\n"
    assert training.local.log.read_bytes() == training.remote_log.read_bytes()
    assert "the old copy is now train.log.1" in notices[0]


def test_a_run_that_was_never_there_has_no_log(transport: SshTransport, tmp_path: Path) -> None:
    local = LocalRun(tmp_path)
    assert pull_log(transport, RemoteRun("never-0000"), local) == 0
    assert local.log.read_bytes() == b""


@contextmanager
def limited_file_size(size: int) -> Iterator[None]:
    """No file may grow beyond `size`: what a full disk does, without one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_at_home_is_said_and_keeps_an_exact_prefix(start: Start) -> None:
    training = start(BINARY)
    wait_until(training.ended)
    training.local.log.parent.mkdir(parents=True)
    with limited_file_size(100_000), pytest.raises(LocalFault, match=r"cannot write .*train\.log"):
        pull_log(training.transport, training.run, training.local)
    kept = training.local.log.read_bytes()
    assert training.remote_log.read_bytes().startswith(kept)
    pull_log(training.transport, training.run, training.local)
    assert training.local.log.read_bytes() == training.remote_log.read_bytes()


def test_a_connection_that_never_was_is_an_error(ssh_host: SshHost, tmp_path: Path, start: Start) -> None:
    training = start("print('x')")
    wait_until(training.ended)
    with stopped_listening(ssh_host), pytest.raises(Unreachable):
        pull_log(training.transport, training.run, training.local)


def test_nothing_of_the_listener_is_left_when_it_is_killed(start: Start, tmp_path: Path) -> None:
    """The host's end of a stream whose client was killed goes away by itself, though the log is silent."""
    training = start("import time; print('x', flush=True); time.sleep(600)")
    training.wait_for_log()
    argv = training.transport.ssh_argv(send_log(training.run, 0, follow=True))
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert client.stdout.read(2) == b"x\n"
        assert listeners(training) > 0
        client.kill()
    wait_until(lambda: listeners(training) == 0, what="the listener on the host has gone")
    assert training.status().alive
