"""A checkpoint is written while the training goes on, from a copy, and its troubles are not lost."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.trainer.ragged import RaggedBatch, RaggedStage
from tests.trainer.test_engine import train_stage
from tests.trainer.tiny import checkpoint, checkpoints, rows, tiny_config
from trainer import manifest
from trainer.checkpoints.snapshot import Camera
from trainer.config import TokenizerConfig
from trainer.errors import CheckpointError
from trainer.loop.optim import make_optimizer
from trainer.loop.writer import Writer
from trainer.models.model import GPT
from trainer.stages import LossOutput
from trainer.tokenizer import open_tokenizer

PLAIN = ("train.micro_batch_size=8", "schedule.warmup_steps=0", "schedule.kind=constant", "eval.every_steps=100")
PATIENCE_SECONDS = 120


class Disk:
    """A tokenizer that is written by `save`: a disk as slow, or as full, as a test wants it."""

    def __init__(self, save: Callable[[], None]) -> None:
        self._real, self._save = open_tokenizer(TokenizerConfig(kind="bytes")), save

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def save(self, folder: Path) -> None:
        self._save()
        self._real.save(folder)


class OnDisk(RaggedStage):
    """Calls `at_step` before the forward of every step."""

    def __init__(self, disk: Disk, at_step: Callable[[int], None] = lambda step: None) -> None:
        super().__init__(8)
        self.tokenizer: Any = disk
        self._at_step, self._step = at_step, 0

    def loss(self, policy: nn.Module, batch: RaggedBatch) -> LossOutput:
        if torch.is_grad_enabled():
            self._step += 1
            self._at_step(self._step)
        return super().loss(policy, batch)


def test_steps_go_on_while_a_checkpoint_is_written_and_do_not_get_into_it(tmp_path: Path) -> None:
    writes, gate = threading.Event(), threading.Event()
    published: dict[int, list[int]] = {}

    def save() -> None:
        writes.set()
        assert gate.wait(PATIENCE_SECONDS)

    def at_step(step: int) -> None:
        if step in (3, 4):
            assert writes.wait(PATIENCE_SECONDS)
            published[step] = checkpoints(tmp_path / "run")
        if step == 4:  # whose own checkpoint has to wait for this one
            gate.set()

    outcome = train_stage(
        tmp_path / "run", OnDisk(Disk(save), at_step), *PLAIN, "checkpoint.every_steps=2", "train.max_steps=5"
    )
    assert published == {3: [], 4: []}
    assert checkpoints(tmp_path / "run") == [2, 4, 5]
    assert outcome.checkpoint == checkpoint(tmp_path / "run", 5)  # the end waited for it
    train_stage(tmp_path / "short", RaggedStage(8), *PLAIN, "train.max_steps=2")
    ours, theirs = (manifest.verify(checkpoint(tmp_path / name, 2)).files for name in ("run", "short"))
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert ours[name] == theirs[name]


@pytest.mark.parametrize("max_steps", [2, 1000])
def test_a_checkpoint_that_cannot_be_written_ends_the_run_by_the_next_one(tmp_path: Path, max_steps: int) -> None:
    def fail() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(CheckpointError) as caught:
        train_stage(tmp_path, OnDisk(Disk(fail)), *PLAIN, "checkpoint.every_steps=2", f"train.max_steps={max_steps}")
    assert caught.value.why == "the disk is full"
    assert rows(tmp_path)[-1]["step"] <= 4
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_what_is_being_written_is_finished_before_another_error_ends_the_run(tmp_path: Path) -> None:
    writes, gate = threading.Event(), threading.Event()

    def save() -> None:
        writes.set()
        assert gate.wait(PATIENCE_SECONDS)

    def at_step(step: int) -> None:
        if step == 3:
            assert writes.wait(PATIENCE_SECONDS)
            gate.set()
            raise CheckpointError("something else")

    with pytest.raises(CheckpointError, match="something else"):
        train_stage(tmp_path, OnDisk(Disk(save), at_step), *PLAIN, "checkpoint.every_steps=2")
    assert checkpoints(tmp_path) == [2]


def test_a_snapshot_is_a_copy(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    model = GPT(config.model)
    snapshot = Camera().snapshot(model, make_optimizer(model, config.optim))
    assert snapshot is not None
    assert snapshot.moments == {}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert all(not torch.equal(snapshot.weights[name], value) for name, value in model.state_dict().items())
    assert Camera().snapshot(model, make_optimizer(model, config.optim), keep=False) is None


def test_a_writer_gives_its_result_to_whoever_waits_and_its_error_once() -> None:
    def fail() -> int:
        raise ValueError("no")

    writer = Writer[int]()
    assert writer.wait() is None
    writer.begin(lambda: 7)
    assert writer.wait() == 7
    assert not writer.failed
    writer.begin(fail)
    writer.join()
    assert writer.failed
    with pytest.raises(ValueError, match="no"):
        writer.wait()
    assert writer.wait() == 7
