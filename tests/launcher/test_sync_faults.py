"""What machines do to a sync: full disks, missing permissions, missing programs, checkpoints that move under it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from launcher.books.ledger import Ledger
from launcher.checkpoints import pull
from launcher.checkpoints.sync import sync_once
from launcher.clock import SystemClock
from launcher.errors import HostUnfit, LocalFault, Unreachable
from launcher.paths import LocalRun
from launcher.remote.ssh import SshTransport
from tests.launcher.checkpoint_maker import FILES, Scene, names, only_these_programs, silent, tree
from tests.launcher.conftest import SshHost

MIB = 1 << 20


@pytest.fixture(scope="module")
def transport(ssh_host: SshHost) -> Iterator[SshTransport]:
    opened = ssh_host.transport()
    yield opened
    opened.close()


@pytest.fixture
def scene(ssh_host: SshHost, transport: SshTransport, tmp_path: Path) -> Iterator[Scene]:
    with Ledger(tmp_path / "ledger.sqlite3", SystemClock()) as ledger:
        yield Scene(ssh_host, transport, LocalRun(tmp_path / "run"), ledger)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a tmpfs here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_without_room_for_a_checkpoint_nothing_is_transferred_and_nothing_deleted(
    scene: Scene, small_disk: Path
) -> None:
    scene.home = LocalRun(small_disk / "run")
    scene.publish(1, 2)
    with pytest.raises(LocalFault) as caught:
        scene.sync(has_ended=True)
    assert caught.value.what == "no room at home for `step_00000002`"
    assert "are free" in caught.value.why
    assert (scene.steps_here(), scene.steps_there()) == ([], names(1, 2))


def test_files_that_have_arrived_need_no_room_again_but_half_ones_do(
    scene: Scene, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull, "SPARE_BYTES", MIB // 4)
    scene.home = LocalRun(small_disk / "run")
    scene.publish(1, files={"a.bin": os.urandom(4 * MIB), "b.bin": os.urandom(2 * MIB)})
    [checkpoint] = scene.listing().whole
    arriving = scene.home.incoming / checkpoint.name
    pull.prepare(arriving, checkpoint)
    shutil.copy2(scene.there / checkpoint.name / "a.bin", arriving / "a.bin")
    (arriving / pull.PARTIAL).mkdir()
    (arriving / pull.PARTIAL / "b.bin").write_bytes(bytes(MIB + MIB // 2))
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(MIB))  # 1.5 MiB are left: too little for all of the half file
    with pytest.raises(LocalFault, match="no room at home"):
        scene.sync(has_ended=True)
    ballast.unlink()
    assert scene.sync(has_ended=True).pruned == [1]


def test_a_disk_that_fills_up_during_a_transfer_stops_cleanly_and_goes_on_when_there_is_room(
    scene: Scene, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull, "SPARE_BYTES", -100 * MIB)  # as if somebody else took the room right after we looked
    scene.home = LocalRun(small_disk / "run")
    scene.publish(1, files={"model.safetensors": os.urandom(5 * MIB)})
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(5 * MIB))
    with pytest.raises(LocalFault) as caught:
        scene.sync(has_ended=True)
    assert caught.value.what == "the disk is full here"
    assert (scene.steps_here(), scene.steps_there()) == ([], names(1))
    ballast.unlink()
    before = tree(scene.there)
    assert scene.sync(has_ended=True).pruned == [1]
    assert tree(scene.here) == before
    assert not scene.home.incoming.exists()


def test_a_home_that_may_not_be_written_is_a_local_fault(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    scene.publish(1)
    scene.home = LocalRun(tmp_path / "file" / "run")
    checkpoint = scene.listing().whole[0]
    puller = pull.Puller(scene.transport, scene.remote.checkpoints, scene.home, SystemClock(), silent, lock=0)
    with pytest.raises(LocalFault) as caught:
        puller.pull(checkpoint)
    assert "could not be stored" in caught.value.what
    assert caught.value.why == "Not a directory"


def test_a_checkpoint_that_rotation_takes_during_the_pull_is_not_missed(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.publish(1, 2, 3)
    with scene.opened() as sync:
        listing = scene.listing()
        shutil.rmtree(scene.there / "step_00000001")  # after it was listed, before it is fetched
        earlier, look = iter([listing]), pull.list_remote
        monkeypatch.setattr(pull, "list_remote", lambda *where: next(earlier, None) or look(*where))
        done = sync_once(sync, has_ended=False)
    assert (done.problems, done.missing) == ([], [])
    assert scene.steps_here() == names(2, 3)
    assert not scene.home.incoming.exists()


def test_a_file_the_host_may_not_read_is_named(scene: Scene) -> None:
    scene.publish(1)
    path = scene.there / "step_00000001" / "train_state.json"
    path.unlink()
    path.mkdir()  # root may read everything; nobody can read a folder as a file
    done = scene.sync(has_ended=True)
    assert done.missing == [1]
    assert "`train_state.json`" in done.problems[0].error.why
    assert scene.steps_there() == names(1)


def test_a_host_without_rsync_is_unfit_and_says_how_to_get_it(
    tmp_path: Path, fresh_host: Callable[[], SshHost]
) -> None:
    host = fresh_host()
    only_these_programs(host, tmp_path / "tools", "sh", "python3")
    with Ledger(tmp_path / "ledger.sqlite3", SystemClock()) as ledger:
        scene = Scene(host, host.transport(), LocalRun(tmp_path / "run"), ledger)
        scene.publish(1)
        with pytest.raises(HostUnfit) as caught:
            scene.sync(has_ended=True)
        scene.transport.close()
    assert caught.value.what == f"rsync is not installed on `{host.host.name}`"
    assert "install -y rsync" in caught.value.hint
    assert scene.steps_there() == names(1)


def test_a_host_without_python_is_unfit_and_says_how_to_get_it(
    tmp_path: Path, fresh_host: Callable[[], SshHost]
) -> None:
    host = fresh_host()
    only_these_programs(host, tmp_path / "tools", "sh", "rsync")
    with Ledger(tmp_path / "ledger.sqlite3", SystemClock()) as ledger:
        scene = Scene(host, host.transport(), LocalRun(tmp_path / "run"), ledger)
        scene.publish(1)
        with pytest.raises(HostUnfit) as caught:
            scene.sync(has_ended=True)
        scene.transport.close()
    assert caught.value.why == "there is no python3 there"
    assert caught.value.hint == f"gptops ssh {host.host.name} -- apt-get install -y python3"


def test_a_closed_host_is_unreachable(tmp_path: Path, fresh_host: Callable[[], SshHost]) -> None:
    host = fresh_host()
    with Ledger(tmp_path / "ledger.sqlite3", SystemClock()) as ledger:
        scene = Scene(host, host.transport(), LocalRun(tmp_path / "run"), ledger)
        scene.publish(1)
        scene.sync()
        before = tree(scene.here)
        host.destroy()
        with pytest.raises(Unreachable):
            scene.sync(has_ended=True)
        scene.transport.close()
    assert tree(scene.here) == before


def test_progress_reaches_the_whole_size(scene: Scene) -> None:
    scene.publish(1)
    seen: list[tuple[str, float, list[float]]] = []

    @contextmanager
    def progress(description: str, total: float) -> Iterator[Callable[[float], None]]:
        seen.append((description, total, []))
        yield seen[-1][2].append

    with scene.opened() as sync:
        puller = pull.Puller(
            sync.puller.transport, sync.puller.folder, scene.home, sync.puller.clock, progress, sync.puller.lock
        )
        puller.pull(scene.listing().whole[0])
    [(description, total, steps)] = seen
    assert description == "step_00000001"
    assert steps == sorted(steps)
    assert steps[-1] == total == sum(len(content) for content in FILES.values())
