"""Watching: one look after the other until everything is home, over every loss of the network."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from launcher.books.ledger import InstanceState, Ledger, RunState
from launcher.clock import SystemClock
from launcher.errors import Busy, GptopsError, NotFound, NotVerified, Unreachable
from launcher.paths import LocalRun
from launcher.providers.local_processes import sshd_process
from launcher.remote.ssh import SshTransport
from launcher.remote.transport import Transport
from launcher.running.connection import connection_to
from launcher.running.status import Phase
from launcher.running.tick import Talk, Watched, watching
from launcher.running.watch import look_once, watch_until_home
from tests.conftest import FakeClock
from tests.launcher.checkpoint_maker import Scene, ended, names, register, silent, training, tree
from tests.launcher.conftest import SshHost, answers
from tests.launcher.waiting import wait_until

TRAIN = """
import pathlib, sys, time
from trainer import manifest
root = pathlib.Path("..")
for step in (1, 2, 3, 4):
    building = root / "checkpoints" / f"step_{step:08d}.tmp"
    building.mkdir(parents=True)
    (building / "model.safetensors").write_bytes(bytes(1000 * step))
    print("step", step)
    with (root / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"step": %d}\\n' % step)
    manifest.publish(building)
"""


@pytest.fixture(scope="module")
def transport(ssh_host: SshHost) -> Iterator[SshTransport]:
    opened = ssh_host.transport()
    yield opened
    opened.close()


@pytest.fixture
def scene(ssh_host: SshHost, transport: SshTransport, tmp_path: Path) -> Iterator[Scene]:
    with Ledger(tmp_path / "ledger.sqlite3", SystemClock()) as ledger:
        yield Scene(ssh_host, transport, LocalRun(tmp_path / "run"), ledger)


@dataclasses.dataclass
class Heard:
    """What the user was told."""

    notices: list[str] = dataclasses.field(default_factory=list)

    @property
    def text(self) -> str:
        return "\n".join(self.notices)


@contextmanager
def watched(
    scene: Scene, clock: SystemClock | FakeClock, heard: Heard, max_hours: float | None = None
) -> Iterator[Watched]:
    talk = Talk(silent, scene.announced.append, heard.notices.append)
    run = scene.ledger.run(scene.run_id)
    state = scene.host.state
    with watching(run, scene.ledger, state=state, clock=clock, talk=talk, what="a test", max_hours=max_hours) as opened:
        yield opened


def run_until_home(
    scene: Scene, connect: Callable[[], Transport] | None = None, clock: FakeClock | None = None
) -> Heard:
    heard = Heard()
    with watched(scene, clock or FakeClock(), heard) as opened:
        watch_until_home(opened, connect or scene.host.transport, every_seconds=1.0)
    return heard


def test_a_living_run_is_watched_to_its_end_and_everything_is_home(scene: Scene) -> None:
    training(scene.host, scene.run_id, TRAIN)
    started = scene.host.home / scene.remote.root / "run.sh"
    subprocess.run(["sh", str(started), "start", "1"], check=True, capture_output=True)
    heard = Heard()
    with watched(scene, SystemClock(), heard) as opened:
        last = watch_until_home(opened, scene.host.transport, every_seconds=0.1)
    assert (last.status.phase, last.status.exit_code) == (Phase.ENDED, 0)
    assert (scene.steps_here(), scene.steps_there()) == (names(1, 2, 3, 4), [])
    assert scene.home.log.read_text() == "step 1\nstep 2\nstep 3\nstep 4\n"
    assert scene.home.metrics.read_bytes() == (scene.host.home / scene.remote.metrics).read_bytes()
    assert scene.ledger.run(scene.run_id).state is RunState.ENDED
    assert not scene.home.incoming.exists()
    assert heard.notices == []


def test_a_lost_network_is_waited_out_longer_each_time_and_the_user_is_told(scene: Scene) -> None:
    scene.publish(1, 2)
    ended(scene.host, scene.run_id)
    failures = iter([Unreachable("could not reach it", why="no route")] * 4)
    clock = FakeClock()

    def connect() -> Transport:
        for error in failures:
            raise error
        return scene.host.transport()

    heard = run_until_home(scene, connect, clock)
    assert clock.slept == [2.0, 4.0, 8.0, 16.0]
    assert heard.notices[0] == "could not reach it (no route); trying again in 2 s"
    assert heard.notices[-1] == f"`{scene.host.host.name}` answers again"
    assert (scene.steps_here(), scene.steps_there()) == (names(1, 2), [])


def test_a_host_that_is_away_for_a_while_is_waited_for(tmp_path: Path, fresh_host: Callable[[], SshHost]) -> None:
    host = fresh_host()
    with Ledger(tmp_path / "ledger.sqlite3", SystemClock()) as ledger:
        scene = Scene(host, host.transport(), LocalRun(tmp_path / "run"), ledger)
        training(host, scene.run_id, "import time; time.sleep(60)")
        script = str(host.home / scene.remote.root / "run.sh")
        subprocess.run(["sh", script, "start", "1"], check=True, capture_output=True)
        scene.publish(1, 2, 3)
        clock = HostGoesAway(host, script)
        heard = run_until_home(scene, clock=clock)
        scene.transport.close()
    # The ssh that several transfers share may find out late that its connection is dead: that costs further tries.
    waited = clock.slept[1:-1]
    assert (clock.slept[0], clock.slept[-1]) == (1.0, 1.0)
    assert waited == [2.0, 4.0, 8.0, 16.0][: len(waited)] != []
    assert "trying again in 2 s" in heard.notices[0]
    assert heard.notices[-1] == f"`{host.host.name}` answers again"
    assert scene.steps_here() == names(1, 2, 3)


class HostGoesAway(FakeClock):
    """At the first pause sshd dies with all connections, at the second it is back; at the next look that went well the
    run is stopped."""

    def __init__(self, host: SshHost, script: str) -> None:
        super().__init__()
        self.host, self.script, self.sshd = host, script, [""]

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        if len(self.slept) == 1:
            self.sshd = kill_sshd(self.host)
        if len(self.slept) == 2:
            subprocess.run(self.sshd, check=True, capture_output=True)
            # The pauses of this clock take no time: without this the tries would be over before it listens.
            wait_until(lambda: answers(self.host.address), seconds=60, what="sshd answers again")
        if len(self.slept) > 2 and seconds == 1.0:
            subprocess.run(["sh", self.script, "stop", "5"], check=True, capture_output=True)


def kill_sshd(host: SshHost) -> list[str]:
    """End the host's sshd and its connections, but nothing of the run. Returns what starts it again."""
    listener = sshd_process(host.folder / "sshd_config")
    assert listener is not None
    sshds = [child for child in listener.children(recursive=True) if child.name().startswith("sshd")]
    argv = [str(shutil.which("sshd", path="/usr/sbin:/usr/bin:/sbin")), "-f", str(host.folder / "sshd_config")]
    for process in (listener, *sshds):
        process.kill()
    psutil.wait_procs([listener, *sshds], timeout=5)
    return argv


def watch_by_ledger(scene: Scene, heard: Heard) -> None:
    with watched(scene, FakeClock(), heard) as opened:
        watch_until_home(
            opened, lambda: connection_to(opened.run, scene.ledger, scene.host.state, SystemClock()), every_seconds=1.0
        )


def test_a_host_that_was_closed_ends_the_watch_and_says_what_is_at_home(scene: Scene) -> None:
    register(scene.host, scene.ledger)
    scene.publish(1)
    scene.sync()
    scene.ledger.mark_instance(scene.host.instance.label, InstanceState.CLOSED)
    with pytest.raises(NotFound) as caught:
        watch_by_ledger(scene, Heard())
    assert caught.value.what == f"`{scene.host.host.name}` was closed"
    assert (
        caught.value.why
        == "`gptops down` ended it; the newest at home is `step_00000001`, and nothing newer was seen there"
    )


def test_a_host_that_vanished_names_the_checkpoints_that_went_with_it(scene: Scene, tmp_path: Path) -> None:
    scene.publish(1, 2)
    (scene.there / "step_00000002" / "model.safetensors").write_bytes(b"damaged")
    training(scene.host, scene.run_id, "import time; time.sleep(60)")
    script = str(scene.host.home / scene.remote.root / "run.sh")
    subprocess.run(["sh", script, "start", "1"], check=True, capture_output=True)
    turns = iter([scene.host.transport()])

    def connect() -> Transport:
        for opened in turns:
            return LosesItself(opened)
        raise NotFound("it does not exist any more", why="it was ended elsewhere")

    try:
        with pytest.raises(NotVerified) as caught:
            run_until_home(scene, connect)
    finally:
        subprocess.run(["sh", script, "stop", "0"], check=True, capture_output=True)
    assert caught.value.what == "it does not exist any more"
    assert "not at home: step_00000002; the newest at home is `step_00000001`" in caught.value.why


class LosesItself:
    """A transport whose host is gone after the first look: the second status is never answered."""

    def __init__(self, inner: SshTransport) -> None:
        self.inner, self.statuses = inner, 0

    def __getattr__(self, name: str):  # type: ignore[no-untyped-def]
        return getattr(self.inner, name)

    def run(self, command, *, timeout_seconds: float = 60.0):  # type: ignore[no-untyped-def]
        self.statuses += command.argv[-1] == "status"
        if self.statuses > 1:
            raise Unreachable("lost it", why="gone")
        return self.inner.run(command, timeout_seconds=timeout_seconds)


def test_an_emptied_host_is_an_error_and_takes_nothing_from_home(scene: Scene) -> None:
    scene.publish(1)
    scene.sync()
    before = tree(scene.home.root)
    shutil.rmtree(scene.host.home / scene.remote.root)
    with pytest.raises(NotFound) as caught:
        run_until_home(scene)
    assert caught.value.what == "the run is not on the host any more"
    assert "the newest at home is `step_00000001`" in caught.value.why
    assert tree(scene.home.root) == before


def test_a_run_that_ended_with_a_corrupt_checkpoint_brings_the_others_and_fails(scene: Scene) -> None:
    scene.publish(1, 2, 3)
    (scene.there / "step_00000002" / "model.safetensors").write_bytes(b"damaged")
    ended(scene.host, scene.run_id)
    heard = Heard()
    with (
        pytest.raises(NotVerified, match="`step_00000002` did not come home whole"),
        watched(scene, FakeClock(), heard) as opened,
    ):
        watch_until_home(opened, scene.host.transport, every_seconds=1.0)
    assert (scene.steps_here(), scene.steps_there()) == (names(1, 3), names(2))
    assert len(heard.notices) == 1


def test_a_lost_run_keeps_its_newest_checkpoints_on_the_host(scene: Scene) -> None:
    scene.publish(1, 2, 3)
    ended(scene.host, scene.run_id)
    (scene.host.home / scene.remote.status / "phase").write_text("running\n")
    heard = Heard()
    with watched(scene, FakeClock(), heard) as opened:
        last = watch_until_home(opened, scene.host.transport, every_seconds=1.0)
    assert last.status.phase is Phase.LOST
    assert (scene.steps_here(), scene.steps_there()) == (names(1, 2, 3), names(2, 3))


def test_a_run_over_its_hours_is_stopped_and_what_it_saved_comes_home(scene: Scene) -> None:
    training(
        scene.host,
        scene.run_id,
        "import signal; signal.signal(15, lambda *_: exit(75)); print('ready'); signal.pause()",
    )
    script = str(scene.host.home / scene.remote.root / "run.sh")
    subprocess.run(["sh", script, "start", "1"], check=True, capture_output=True)
    heard = Heard()
    clock = FakeClock(start=3600.0 * 3)  # the run was created at 0
    with watched(scene, clock, heard, max_hours=2.5) as opened:
        last = watch_until_home(opened, scene.host.transport, every_seconds=1.0)
    assert last.status.phase is Phase.ENDED
    assert "stopped the run: it has used its 2.5 hours" in heard.notices


def test_a_run_that_is_being_prepared_is_waited_for(scene: Scene) -> None:
    scene.ledger.mark_run(scene.run_id, RunState.PREPARING)

    class Starts(FakeClock):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            if len(self.slept) == 2:
                scene.publish(1)
                ended(scene.host, scene.run_id)

    run_until_home(scene, clock=Starts())
    assert scene.steps_here() == names(1)


def test_two_watchers_at_once_are_one_too_many(scene: Scene) -> None:
    with watched(scene, FakeClock(), Heard()), pytest.raises(Busy) as caught, watched(scene, FakeClock(), Heard()):
        pass
    assert caught.value.what == f"another gptops works on {scene.run_id}"
    assert "a test" in caught.value.why


def test_a_single_look_does_not_wait(scene: Scene) -> None:
    scene.publish(1)
    clock = FakeClock()
    with watched(scene, clock, Heard()) as opened:
        assert look_once(opened, scene.host.transport).is_home
    assert clock.slept == []


def test_errors_of_the_host_are_ours(scene: Scene) -> None:
    def connect() -> Transport:
        raise NotFound("gone", why="for good")

    with pytest.raises(GptopsError):
        run_until_home(scene, connect)
