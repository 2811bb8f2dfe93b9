"""The switch as gptops uses it: over SSH, on a host with real runs, and in the ledger."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launcher.books.ledger import InstanceState, Ledger
from launcher.clock import SystemClock
from launcher.errors import HostUnfit, UsageError
from launcher.hosts import deadman
from launcher.hosts.deadman import Armer, SwitchPlan, switch_plan
from launcher.paths import RemoteRun
from launcher.providers.base import OffSwitch
from launcher.remote.ssh import SshTransport
from tests.conftest import FakeClock
from tests.launcher.conftest import SshHost
from tests.launcher.running import PRINTS_UNTIL_STOPPED, start_training
from tests.launcher.waiting import wait_until


@pytest.fixture
def box(fresh_host: Callable[[], SshHost]) -> SshHost:
    """A host whose switches look around often."""
    host = fresh_host()
    host.export("GPTOPS_SWITCH_PULSE", "0.1")
    host.export("GPTOPS_SWITCH_HOOK", str(host.home / "onstart.sh"))
    return host


@pytest.fixture
def there(box: SshHost) -> Iterator[SshTransport]:
    transport = box.transport()
    yield transport
    transport.close()


@pytest.mark.parametrize(
    ("hours", "deadline", "final", "renewable"),
    [(None, 84_600, 86_400, True), (10.0, 34_200, 36_000, False), (1.0, 2_700, 3_600, False), (0.0, 45, 60, False)],
)
def test_a_plan_ends_the_bill_when_the_money_does_and_stops_the_runs_before(
    hours: float | None, deadline: int, final: int, renewable: bool
) -> None:
    plan = switch_plan(OffSwitch.VAST, hours=hours, idle_minutes=30)
    assert plan == SwitchPlan(OffSwitch.VAST, deadline, final, 1800, renewable)
    assert switch_plan(OffSwitch.VAST, idle_minutes=None).idle_seconds == 0


def test_the_plan_names_the_same_api_as_the_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VAST_URL", raising=False)
    assert "api=https://console.vast.ai\n" in switch_plan(OffSwitch.VAST).text
    monkeypatch.setenv("VAST_URL", "http://127.0.0.1:8080/")
    assert "api=http://127.0.0.1:8080\n" in switch_plan(OffSwitch.VAST).text
    monkeypatch.setenv("VAST_URL", "http://x\nkind=none")
    with pytest.raises(UsageError, match="VAST_URL is no URL"):
        assert switch_plan(OffSwitch.VAST).text


def test_a_machine_is_armed_over_ssh_and_its_deadline_is_in_the_ledger(
    box: SshHost, there: SshTransport, fake_clock: FakeClock
) -> None:
    said: list[str] = []
    box.export("CONTAINER_ID", "1")
    box.export("CONTAINER_API_KEY", "k")
    with Ledger(box.state.ledger, fake_clock) as ledger:
        row = ledger.intend_instance(
            label="gptops:p:1", name="box", provider="vast", project="p", price_per_hour=2, gpus=1, gpu_name="A"
        )
        armer = Armer(ledger, box.state, fake_clock, said.append)
        armed = armer.arm(row, OffSwitch.VAST, there, hours=10.0, idle_minutes=30)
        assert armed.deadline == pytest.approx(fake_clock.now() + 36_000, abs=600)
    assert said == ["`box` ends itself in 10.0 h at most, or when nothing runs and nobody comes for 30 min"]
    switch = deadman.read(there)
    assert switch is not None
    assert (switch.phase, switch.watching, switch.can_end) == ("armed", True, True)


def test_one_that_cannot_end_its_bill_is_told_and_has_no_deadline_in_the_ledger(
    box: SshHost, there: SshTransport, fake_clock: FakeClock
) -> None:
    said: list[str] = []
    with Ledger(box.state.ledger, fake_clock) as ledger:
        row = ledger.intend_instance(
            label="gptops:p:1", name="box", provider="lambda_cloud", project="p", price_per_hour=2, gpus=1, gpu_name="A"
        )
        armed = Armer(ledger, box.state, fake_clock, said.append).arm(row, OffSwitch.NONE, there)
        assert armed.deadline is None
    assert "cannot end its own bill" in said[0]
    assert "`gptops down box` alone" in said[0]


def test_a_machine_that_nobody_bills_is_left_alone(box: SshHost, there: SshTransport, fake_clock: FakeClock) -> None:
    with Ledger(box.state.ledger, fake_clock) as ledger:
        row = ledger.intend_instance(
            label="gptops:p:1", name="box", provider="local", project="p", price_per_hour=0, gpus=0, gpu_name=""
        )
        armer = Armer(ledger, box.state, fake_clock, print)
        assert armer.arm(row, OffSwitch.LOCAL, there, hours=1.0) == row
    assert deadman.read(there) is None
    assert deadman.renew(there, RemoteRun("demo-1"), {}) is None


def test_a_visit_marks_what_is_at_home(box: SshHost, there: SshTransport) -> None:
    run = RemoteRun("demo-1")
    checkpoint = box.home / run.checkpoints / "step_00000500"
    checkpoint.mkdir(parents=True)
    (checkpoint / "MANIFEST.json").write_text("{}")
    (box.home / run.status).mkdir()
    deadman.arm(there, SwitchPlan(OffSwitch.NONE, 0, 0, 1, renewable=False))
    wait_until(lambda: deadman.read(there).phase == "saving", seconds=90, what="idle")  # type: ignore[union-attr]
    sha256 = hashlib.sha256(b"{}").hexdigest()
    # Somebody came: it is armed again, and then finds nothing to wait for.
    assert deadman.renew(there, run, {"step_00000500": sha256}) is not None
    assert (box.home / run.status / "home" / "step_00000500").read_text() == sha256 + "\n"
    wait_until(lambda: deadman.read(there).phase == "over", seconds=90, what="over")  # type: ignore[union-attr]


def test_a_real_run_is_stopped_by_its_own_host_and_saves(box: SshHost, there: SshTransport, tmp_path: Path) -> None:
    training = start_training(box, there, tmp_path / "home", PRINTS_UNTIL_STOPPED)
    try:
        training.wait_for_log()
        assert deadman.limit_run(there, training.run, hours=0.0).watching
        wait_until(lambda: training.status().is_over, seconds=90, what="the run has ended")
        assert training.status().was_stopped
        assert b"saved" in training.remote_log.read_bytes()
    finally:
        training.end()


def test_a_host_that_cannot_keep_a_switch_is_unfit(box: SshHost, there: SshTransport) -> None:
    (box.home / "gptops").write_text("in the way")
    with pytest.raises(HostUnfit, match="cannot keep a dead-man's switch") as raised:
        deadman.arm(there, switch_plan(OffSwitch.NONE))
    assert raised.value.hint


def test_the_switch_ends_with_its_host(fresh_host: Callable[[], SshHost]) -> None:
    host = fresh_host()
    transport = host.transport()
    deadman.arm(transport, switch_plan(OffSwitch.NONE))
    transport.close()
    host.destroy()
    assert not host.folder.exists()


def test_the_ledger_forgets_a_deadline_that_nothing_keeps(box: SshHost, fake_clock: FakeClock) -> None:
    with Ledger(box.state.ledger, fake_clock) as ledger:
        row = ledger.intend_instance(
            label="gptops:p:1", name="box", provider="vast", project="p", price_per_hour=2, gpus=1, gpu_name="A"
        )
        ledger.set_deadline(row.label, 5.0)
        dead = deadman.Switch("armed", "", watching=False, can_end=True, final_left_seconds=60)
        assert deadman.note_deadline(ledger, SystemClock(), row.label, dead).deadline is None
        assert ledger.instance(row.label).state is InstanceState.INTENDED
