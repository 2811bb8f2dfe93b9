"""`gptops train` killed with SIGKILL at every step, and while it streams: what is left is a run, or nothing."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.books.ledger import RunState
from tests.launcher.conftest import SshHost
from tests.launcher.desk import ENDLESS, Desk, register
from tests.launcher.running import cut_connections
from tests.launcher.waiting import wait_until

BEFORE_THE_RUN = ["train:uploaded", "train:set_up", "train:intended", "train:prepared"]


@pytest.fixture
def desk(ssh_host: SshHost, tmp_path: Path) -> Iterator[Desk]:
    register(ssh_host)
    made = Desk(tmp_path.resolve(), ssh_host)
    made.trainer(ENDLESS)
    yield made
    for row in made.runs():
        if row.state is not RunState.ENDED:
            made.gptops("stop", row.run_id, "--grace", "0")


def train(desk: Desk, *words: str, crash_at: str = "") -> int:
    return desk.gptops("train", "demo", "--skip-setup", "--detach", *words, crash_at=crash_at).returncode


def prepared(desk: Desk) -> list[Path]:
    return list((desk.host.home / "gptops" / "preparing").glob("*"))


@pytest.mark.parametrize("step", BEFORE_THE_RUN)
def test_killed_before_the_start_nothing_runs_and_the_next_train_clears_up(desk: Desk, step: str) -> None:
    assert train(desk, crash_at=step) == -signal.SIGKILL
    killed = {row.run_id for row in desk.runs()}
    assert all(not desk.remote(run_id).exists() for run_id in killed)
    for run_id in killed:
        said = desk.gptops("logs", run_id)
        assert said.returncode == 4
        assert f"`{run_id}` is not on" in said.stderr.decode()
    assert train(desk) == 0
    [running] = [row for row in desk.runs() if row.run_id not in killed]
    assert running.state is RunState.RUNNING
    assert prepared(desk) == []
    assert [row.state for row in desk.runs() if row.run_id in killed] == [RunState.ENDED] * len(killed)
    assert [path.name for path in (desk.project / "runs").iterdir() if path.is_dir()] == [running.run_id]


def test_killed_after_the_start_the_run_goes_on_and_is_found(desk: Desk) -> None:
    assert train(desk, crash_at="train:started") == -signal.SIGKILL
    [row] = desk.runs()
    assert row.state is RunState.PREPARING
    log = desk.remote_log(row.run_id)
    wait_until(lambda: log.exists() and log.stat().st_size > 500, seconds=60, what="the run goes on")
    stopped = desk.gptops("stop", row.run_id)
    assert stopped.returncode == 0
    assert desk.run(row.run_id).exit_code == 75
    followed = desk.gptops("logs", row.run_id, "-f")
    assert (followed.returncode, followed.stdout) == (75, log.read_bytes())


def test_killed_while_it_streams_with_the_network_the_log_catches_up(desk: Desk) -> None:
    with desk.start("train", "demo", "--skip-setup") as streaming:
        assert streaming.stdout is not None
        streaming.stdout.read(300)
        streaming.kill()
        streaming.wait()
    cut_connections(desk.host)
    [row] = desk.runs()
    remote, local = desk.remote_log(row.run_id), desk.local_log(row.run_id)
    behind = local.stat().st_size
    assert remote.read_bytes().startswith(local.read_bytes())
    wait_until(lambda: remote.stat().st_size > behind + 1000, what="the run goes on")
    with desk.start("logs", row.run_id, "-f") as following:
        assert following.stdout is not None
        shown = following.stdout.read(behind + 1000)
        cut_connections(desk.host)
        shown += following.stdout.read(1000)
        assert desk.gptops("stop", row.run_id).returncode == 0
        shown += following.stdout.read()
    assert following.returncode == 75
    assert sha256(shown) == sha256(local.read_bytes()) == sha256(remote.read_bytes())


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
