"""Which checkpoints stay, and whether there is room for them."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from tests.trainer.tiny import checkpoints, train_tiny
from trainer import manifest
from trainer.checkpoints.keeping import MARGIN_BYTES, require_room, require_space, rotate
from trainer.errors import CheckpointError


def made(folder: Path, *steps: int) -> Path:
    for step in steps:
        building = folder / f"{manifest.step_name(step)}.tmp"
        building.mkdir(parents=True)
        (building / "weights").write_bytes(b"x" * 1000)
        manifest.publish(building)
    return folder


def steps_in(folder: Path) -> list[int]:
    return [manifest.step_of(path.name) or 0 for path in manifest.checkpoints(folder)]


def test_the_last_the_best_and_every_kth_stay(tmp_path: Path) -> None:
    folder = made(tmp_path, *range(10, 101, 10))
    gone = rotate(folder, keep_last=2, keep_step=50, keep_every_steps=40)
    assert steps_in(folder) == [40, 50, 80, 90, 100]
    assert [manifest.step_of(path.name) for path in gone] == [10, 20, 30, 60, 70]
    assert rotate(folder, keep_last=2, keep_step=50, keep_every_steps=40) == []


def test_without_a_best_and_a_kth_only_the_last_stay(tmp_path: Path) -> None:
    folder = made(tmp_path, 1, 2, 3, 4)
    rotate(folder, keep_last=2, keep_step=None)
    assert steps_in(folder) == [3, 4]


def test_a_run_keeps_what_its_configuration_says(tmp_path: Path) -> None:
    kept = ("checkpoint.every_steps=1", "checkpoint.keep_last=2", "checkpoint.keep_every_steps=3")
    train_tiny(tmp_path, *kept, "checkpoint.keep_best=false", "train.max_steps=8", "eval.every_steps=8")
    assert checkpoints(tmp_path) == [3, 6, 7, 8]


Usage = namedtuple("Usage", "total used free")


def test_a_disk_that_holds_fewer_than_two_checkpoints_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = MARGIN_BYTES + 2_000_000
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10 * free, 9 * free, free))
    require_room(tmp_path, 1_000_000)
    with pytest.raises(CheckpointError, match="has no room for two checkpoints") as caught:
        require_room(tmp_path, 1_000_001)
    assert caught.value.hint.startswith("df -h ")
    made(tmp_path, 1, 2)  # what lies there already will make room
    require_room(tmp_path, 1_001_000)
    require_space(tmp_path, free)
    with pytest.raises(CheckpointError, match="has no room for a checkpoint"):
        require_space(tmp_path, free + 1)


def test_a_training_does_not_begin_on_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1, 1, MARGIN_BYTES))
    with pytest.raises(CheckpointError, match="has no room for two checkpoints"):
        train_tiny(tmp_path)
    assert checkpoints(tmp_path) == []
