"""stop_run over a real sshd: what it proves, and what it says where it cannot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launcher.errors import HostUnfit
from launcher.paths import RemoteRun
from launcher.remote.ssh import SshTransport
from launcher.running.status import Phase
from launcher.running.stop import stop_run
from tests.launcher.conftest import SshHost
from tests.launcher.running import PRINTS_UNTIL_STOPPED, RemoteTraining, start_training

Start = Callable[[str], RemoteTraining]


@pytest.fixture
def start(ssh_host: SshHost, transport: SshTransport, tmp_path: Path) -> Iterator[Start]:
    started: list[RemoteTraining] = []

    def begin(program: str) -> RemoteTraining:
        started.append(start_training(ssh_host, transport, tmp_path, program))
        return started[-1]

    yield begin
    for training in started:
        training.end()


def test_a_run_that_saves_in_time_is_stopped_and_stays_so(start: Start) -> None:
    training = start(PRINTS_UNTIL_STOPPED)
    training.wait_for_log()
    for _ in range(2):
        status = stop_run(training.transport, training.run, grace_seconds=20)
        assert (status.phase, status.exit_code, status.processes) == (Phase.ENDED, 75, 0)


def test_a_run_that_ignores_it_is_killed(start: Start) -> None:
    training = start("import signal, time; signal.signal(15, signal.SIG_IGN); print('x', flush=True); time.sleep(600)")
    training.wait_for_log()
    status = stop_run(training.transport, training.run, grace_seconds=0)
    assert (status.phase, status.exit_code, status.was_stopped, status.alive) == (Phase.ENDED, 137, True, False)


def test_a_run_that_is_not_there_is_absent(transport: SshTransport) -> None:
    assert stop_run(transport, RemoteRun("never-0000")).phase is Phase.ABSENT


def test_a_damaged_run_folder_is_said(start: Start) -> None:
    training = start("print('x')")
    training.wait_for_log()
    script = training.folder / "run.sh"
    whole = script.read_text()
    script.write_text("echo nonsense; exit 5\n")
    with pytest.raises(HostUnfit, match="cannot tell how the run is"):
        stop_run(training.transport, training.run)
    script.write_text(whole)
