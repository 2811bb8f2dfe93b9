"""What would be lost if the host ended now."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.books.ledger import Ledger
from launcher.checkpoints.safety import unsaved
from launcher.checkpoints.sync import Policy
from launcher.clock import SystemClock
from launcher.paths import LocalRun
from launcher.remote.ssh import SshTransport
from tests.launcher.checkpoint_maker import Scene
from tests.launcher.conftest import SshHost


@pytest.fixture
def scene(ssh_host: SshHost, transport: SshTransport, tmp_path: Path) -> Iterator[Scene]:
    with Ledger(tmp_path / "ledger.sqlite3", SystemClock()) as ledger:
        yield Scene(ssh_host, transport, LocalRun(tmp_path / "run"), ledger)


def lost(scene: Scene) -> list[int]:
    return unsaved(scene.transport, scene.remote, scene.home)


def test_nothing_is_lost_of_a_run_that_saved_nothing(scene: Scene) -> None:
    assert lost(scene) == []


def test_whole_checkpoints_that_are_only_there_would_be_lost(scene: Scene) -> None:
    scene.publish(1, 2)
    (scene.there / "step_00000003.tmp").mkdir()
    assert lost(scene) == [1, 2]


def test_what_is_verified_at_home_is_safe(scene: Scene) -> None:
    scene.publish(1, 2)
    scene.sync(policy=Policy(delete_remote=False))
    assert lost(scene) == []


def test_a_copy_at_home_that_was_damaged_since_is_not_safe_whatever_the_ledger_says(scene: Scene) -> None:
    scene.publish(1, 2, 3)
    scene.sync(policy=Policy(delete_remote=False))
    model = scene.here / "step_00000001" / "model.safetensors"
    model.write_bytes(bytes(len(model.read_bytes())))
    (scene.here / "step_00000002" / "train_state.json").unlink()
    assert lost(scene) == [1, 2]


def test_another_content_of_the_same_step_is_not_safe(scene: Scene) -> None:
    scene.publish(1)
    scene.sync(policy=Policy(delete_remote=False))
    for path in (scene.there / "step_00000001").iterdir():
        path.unlink()
    (scene.there / "step_00000001").rmdir()
    scene.publish(1, files={"model.safetensors": b"trained again"})
    assert lost(scene) == [1]
