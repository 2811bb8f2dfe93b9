"""Killed at every step: whoever dies, the same command again finds the truth and finishes, with no half file left."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from launcher.books.ledger import Ledger, RunState
from launcher.clock import SystemClock
from launcher.paths import LocalRun, StatePaths
from tests.launcher.checkpoint_maker import Scene, ended, names, register, tree
from tests.launcher.command_line import Finished, gptops, gptops_in_background
from tests.launcher.conftest import SshHost, open_local_host, require_programs
from tests.launcher.waiting import wait_until
from trainer import manifest

BIG = {"a.bin": os.urandom(1_500_000), "model.safetensors": os.urandom(1_500_000)}


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshHost]:
    """A host whose rsync is slow while `slow` lies beside it."""
    require_programs()
    folder = tmp_path_factory.mktemp("host")
    real = subprocess.run(["sh", "-c", "command -v rsync"], capture_output=True, text=True, check=True).stdout.strip()
    script = folder / "bin" / "rsync"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\n[ -f "{folder}/slow" ] && exec {real} "$@" --bwlimit=1500\nexec {real} "$@"\n')
    script.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        # First on the host's PATH is this machine's Python; rsync is not there, so ours is found next.
        patch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
        opened = open_local_host(StatePaths(folder / "state"))
    with Ledger(opened.state.ledger, SystemClock()) as ledger:
        register(opened, ledger)
    yield opened
    opened.destroy()


@pytest.fixture
def scene(host: SshHost, tmp_path: Path) -> Iterator[Scene]:
    transport = host.transport()
    with Ledger(host.state.ledger, SystemClock()) as ledger:
        yield Scene(host, transport, LocalRun(tmp_path / "run"), ledger)
    transport.close()


@pytest.fixture
def slow(host: SshHost) -> Iterator[None]:
    switch = host.state.root.parent / "slow"
    switch.touch()
    yield
    switch.unlink(missing_ok=True)


def sync(scene: Scene, *words: str, crash_at: str = "") -> Finished:
    return gptops("sync", scene.run_id, *words, home=scene.host.state.root, crash_at=crash_at)


def assert_all_is_home(scene: Scene, before: dict[str, bytes], *, left_there: list[str]) -> None:
    assert tree(scene.here) == before
    assert scene.steps_there() == left_there
    assert {path.name for path in scene.home.root.iterdir()} <= {"checkpoints", "train.log", "metrics.jsonl"}
    rows = scene.ledger.checkpoints(scene.run_id)
    assert [manifest.step_name(row.step) for row in rows] == scene.steps_here()


def test_gptops_killed_at_every_step_of_sync_in_turn_loses_nothing(scene: Scene) -> None:
    scene.publish(1, 2, 3)
    before = tree(scene.there)
    # Newest first: the third dies four times on its way home, the second when it is recorded, the first when it goes.
    for step in ("transferring", "transferred", "verified", "committed", "recorded", "prune", "pruned"):
        killed = sync(scene, crash_at=f"sync:{step}")
        assert killed.exit_code == -signal.SIGKILL, (step, killed.stderr)
        for name in scene.steps_here():
            manifest.verify(scene.here / name)
        assert {*scene.steps_here(), *scene.steps_there()} == {*names(1, 2, 3)}
    again = sync(scene)
    assert again.exit_code == 0, again.stderr
    assert_all_is_home(scene, before, left_there=names(2, 3))


def test_a_killed_watch_is_finished_by_the_next(scene: Scene) -> None:
    scene.publish(1, 2, 3)
    before = tree(scene.there)
    ended(scene.host, scene.run_id)
    assert sync(scene, "--watch", "--interval", "0.1", crash_at="sync:pruned").exit_code == -signal.SIGKILL
    again = sync(scene, "--watch", "--interval", "0.1")
    assert again.exit_code == 0, again.stderr
    assert_all_is_home(scene, before, left_there=[])
    assert scene.ledger.run(scene.run_id).state is RunState.ENDED


def start_slow_sync(scene: Scene) -> subprocess.Popen[bytes]:
    """A sync in the middle of its second file."""
    child = gptops_in_background("sync", scene.run_id, home=scene.host.state.root)
    wait_until(lambda: (scene.home.incoming / "step_00000001" / "a.bin").exists(), what="the first file has arrived")
    return child


def rsyncs_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return [child for child in psutil.Process(process.pid).children(recursive=True) if child.name() == "rsync"]


def rsyncs_on(host: SshHost) -> list[psutil.Process]:
    return [p for p in psutil.process_iter() if _is_sender_of(p, host)]


def _is_sender_of(process: psutil.Process, host: SshHost) -> bool:
    try:
        return (
            process.name() == "rsync" and "--sender" in process.cmdline() and process.cwd().startswith(str(host.home))
        )
    except psutil.Error:
        return False


def arrived(scene: Scene) -> int:
    """Bytes of the second file that wait at home."""
    folder = scene.home.incoming / "step_00000001"
    return max((p.stat().st_size for p in folder.rglob("*model.safetensors*") if p.is_file()), default=0)


def finish(scene: Scene, before: dict[str, bytes]) -> Finished:
    (scene.host.state.root.parent / "slow").unlink()
    again = sync(scene)
    assert again.exit_code == 0, again.stderr
    assert_all_is_home(scene, before, left_there=names(1))
    return again


def test_gptops_killed_in_the_middle_of_a_file_goes_on_there(scene: Scene, slow: None) -> None:
    scene.publish(1, files=BIG)
    before = tree(scene.there)
    child = start_slow_sync(scene)
    orphans = rsyncs_of(child)
    child.kill()
    child.communicate()
    assert orphans
    finish(scene, before)
    assert not any(orphan.is_running() and orphan.status() != psutil.STATUS_ZOMBIE for orphan in orphans)


def test_rsync_killed_here_in_the_middle_of_a_file_is_an_error_and_the_next_goes_on(scene: Scene, slow: None) -> None:
    scene.publish(1, files=BIG)
    before = tree(scene.there)
    child = start_slow_sync(scene)
    wait_until(lambda: arrived(scene) > 200_000)
    for process in rsyncs_of(child):
        process.kill()
    stderr = child.communicate()[1].decode()
    assert child.returncode == 12, stderr
    assert stderr.startswith("error: rsync was killed")
    kept = arrived(scene)
    assert kept > 0
    assert scene.steps_here() == []
    finish(scene, before)


@pytest.mark.parametrize("victim", ["rsync", "sshd"])
def test_a_transfer_cut_on_the_host_is_unreachable_and_the_next_goes_on(scene: Scene, slow: None, victim: str) -> None:
    scene.publish(1, files=BIG)
    before = tree(scene.there)
    child = start_slow_sync(scene)
    wait_until(lambda: arrived(scene) > 200_000)
    for sender in rsyncs_on(scene.host):
        sessions = [parent for parent in sender.parents() if parent.name().startswith("sshd")][:-1]
        for process in [sender] if victim == "rsync" else sessions:
            process.kill()
    stderr = child.communicate()[1].decode()
    assert child.returncode == 5, stderr
    assert "Traceback" not in stderr
    assert arrived(scene) > 0
    assert scene.steps_here() == []
    finish(scene, before)


def test_ctrl_c_in_the_middle_of_a_file_is_clean_and_keeps_what_has_arrived(scene: Scene, slow: None) -> None:
    scene.publish(1, files=BIG)
    before = tree(scene.there)
    child = start_slow_sync(scene)
    wait_until(lambda: arrived(scene) > 200_000)
    child.send_signal(signal.SIGINT)
    stderr = child.communicate()[1].decode()
    assert child.returncode == 130, stderr
    assert stderr.splitlines()[-1] == "interrupted"
    assert arrived(scene) > 0
    assert scene.steps_here() == []
    finish(scene, before)


def test_a_watch_goes_on_by_itself_when_its_transfer_is_cut(scene: Scene, slow: None) -> None:
    scene.publish(1, files=BIG)
    before = tree(scene.there)
    ended(scene.host, scene.run_id)
    child = gptops_in_background("sync", scene.run_id, "--watch", "--interval", "0.1", home=scene.host.state.root)
    wait_until(lambda: arrived(scene) > 200_000)
    for sender in rsyncs_on(scene.host):
        sender.kill()
    (scene.host.state.root.parent / "slow").unlink()
    stderr = child.communicate()[1].decode()
    assert child.returncode == 0, stderr
    assert "trying again in 2 s" in stderr
    assert "answers again" in stderr
    assert_all_is_home(scene, before, left_there=[])
