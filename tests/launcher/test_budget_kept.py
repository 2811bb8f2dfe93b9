"""Budgets of runs that go on: kept at each look, and by the host itself when nobody looks."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launcher.books.ledger import InstanceState, Ledger, RunState
from launcher.clock import SystemClock
from launcher.hosts import deadman
from launcher.paths import LocalRun
from launcher.providers.base import OffSwitch
from launcher.running.status import Phase
from launcher.running.tick import Talk, watching
from launcher.running.watch import look_once, watch_until_home
from tests.conftest import FakeClock
from tests.launcher.checkpoint_maker import Scene, ended, names, silent, training
from tests.launcher.conftest import SshHost
from tests.launcher.desk import ENDLESS, JOBS, Desk, register
from tests.launcher.waiting import wait_until

SAVES_WHEN_ASKED = "import signal; signal.signal(15, lambda *_: exit(75)); print('ready'); signal.pause()"


@pytest.fixture
def scene(fresh_host: Callable[[], SshHost], tmp_path: Path) -> Iterator[Scene]:
    """A run on a machine that cost $36 an hour for the last three hours."""
    host = fresh_host()
    clock = FakeClock(start=0.0)
    with Ledger(tmp_path / "ledger.sqlite3", clock) as ledger:
        label = host.instance.label
        ledger.intend_instance(
            label=label, name=host.host.name, provider="vast", project="p", price_per_hour=36.0, gpus=8, gpu_name="H",
            download_usd_per_gb=1000.0,
        )  # fmt: skip
        ledger.mark_instance(label, InstanceState.OPEN, instance_id=host.instance.instance_id)
        transport = host.transport()
        yield Scene(host, transport, LocalRun(tmp_path / "run"), ledger)
        transport.close()


def test_a_run_that_has_used_its_dollars_is_stopped_and_what_it_saved_comes_home(scene: Scene) -> None:
    training(scene.host, scene.run_id, SAVES_WHEN_ASKED)
    script = str(scene.host.home / scene.remote.root / "run.sh")
    subprocess.run(["sh", script, "start", "1"], check=True, capture_output=True)
    notices: list[str] = []
    clock = FakeClock(start=3 * 3600.0)
    talk = Talk(silent, scene.announced.append, notices.append)
    run = scene.ledger.run(scene.run_id)
    with watching(
        run, scene.ledger, state=scene.host.state, clock=clock, talk=talk, what="a test", max_usd=108.5
    ) as watched:
        assert look_once(watched, scene.host.transport).over_budget == ""
        clock.advance(60)
        last = watch_until_home(watched, scene.host.transport, every_seconds=1.0)
    assert last.status.phase is Phase.ENDED
    assert "stopped the run: it has used its $108.50" in notices


def test_a_look_counts_the_bytes_marks_what_is_at_home_and_renews_the_switch(scene: Scene) -> None:
    scene.publish(1, 2, 3)
    ended(scene.host, scene.run_id)
    deadman.arm(scene.transport, deadman.switch_plan(OffSwitch.LOCAL))
    talk = Talk(silent, scene.announced.append, lambda line: None)
    run = scene.ledger.run(scene.run_id)
    clock = SystemClock()
    with watching(run, scene.ledger, state=scene.host.state, clock=clock, talk=talk, what="a test") as watched:
        watched = type(watched)(**{**vars(watched), "may_go_on": True})  # then the newest ones stay there
        look_once(watched, scene.host.transport)
    moved = scene.ledger.transferred(run.instance_label)
    assert [each.direction for each in moved] == ["down"] * 3
    assert sum(each.bytes for each in moved) == sum(pulled.bytes for pulled in scene.announced)
    assert scene.steps_there() == names(2, 3)
    marks = scene.host.home / scene.remote.status / "home"
    assert sorted(path.name for path in marks.iterdir()) == names(2, 3)
    deadline = scene.ledger.instance(run.instance_label).deadline
    assert deadline == pytest.approx(clock.now() + 86_400, abs=600)


@pytest.fixture
def desk(fresh_host: Callable[[], SshHost], tmp_path: Path) -> Iterator[Desk]:
    host = fresh_host()
    host.export("GPTOPS_SWITCH_PULSE", "0.1")
    register(host)
    made = Desk((tmp_path / "project").resolve(), host)
    yield made
    for row in made.runs():
        if row.state is not RunState.ENDED:
            made.gptops("stop", row.run_id, "--grace", "0")


def test_the_host_itself_stops_a_run_whose_hours_are_used_up(desk: Desk) -> None:
    desk.trainer(ENDLESS, f"{JOBS}    budget: {{max_hours: 0.001}}\n")
    done = desk.gptops("train", "demo", "--detach", "--skip-setup")
    assert done.returncode == 0, done.stderr.decode()
    assert "stops the run itself after 0.0 h, with time to save" in done.stderr.decode()
    [row] = desk.runs()
    status = desk.remote(row.run_id) / "status"
    # Whether it had begun by then, and could save, is the machine's pace; test_deadman_hosts.py has one that does.
    phase = status / "phase"
    wait_until(lambda: phase.exists() and phase.read_text() == "ended\n", seconds=90, what="its host has stopped it")
    assert (status / "stop_requested").exists()
