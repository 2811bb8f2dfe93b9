"""A run ends early when validation no longer falls, and stays ended."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from tests.trainer.ragged import RaggedStage
from tests.trainer.test_engine import train_stage
from tests.trainer.tiny import checkpoint, checkpoints, rows
from trainer.checkpoints.checkpoint import read_state
from trainer.config import RunConfig
from trainer.loop.distributed import opened_world
from trainer.loop.signals import StopRequest
from trainer.loop.validation import Validation
from trainer.stages import LossOutput

# The rate is far too high: validation is best early.
WORSE = ("optim.lr=0.5", "schedule.warmup_steps=0", "eval.every_steps=1", "train.max_steps=40", "eval.patience=3")


def test_it_ends_after_so_many_evaluations_without_a_lower_loss_and_stays_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = train_stage(tmp_path, RaggedStage(2), *WORSE)
    losses = [row["val_loss"] for row in rows(tmp_path) if "val_loss" in row]
    best = losses.index(min(losses))
    assert outcome.step == len(losses) == best + 1 + 3 < 40
    assert outcome.ended_early == f"no validation loss below {min(losses):.4f} in 3 evaluations"
    assert "(no lower in 2 of 3)" in capsys.readouterr().out
    assert checkpoints(tmp_path)[-1] == outcome.step
    assert read_state(checkpoint(tmp_path, outcome.step)).evaluations_since_lowest == 3
    again = train_stage(tmp_path, RaggedStage(2), *WORSE)
    assert (again.step, again.ended_early) == (outcome.step, outcome.ended_early)
    more = train_stage(tmp_path, RaggedStage(2), *WORSE, f"train.max_steps={outcome.step + 2}", "eval.patience=0")
    assert (more.step, more.ended_early) == (outcome.step + 2, "")


def test_the_count_survives_a_stop(tmp_path: Path) -> None:
    straight = train_stage(tmp_path / "straight", RaggedStage(2), *WORSE, "schedule.kind=constant")
    half = straight.step - 1
    train_stage(tmp_path / "run", RaggedStage(2), *WORSE, "schedule.kind=constant", f"train.max_steps={half}")
    resumed = train_stage(tmp_path / "run", RaggedStage(2), *WORSE, "schedule.kind=constant")
    assert resumed == type(straight)(
        straight.step, checkpoint(tmp_path / "run", straight.step), straight.val_loss, "", straight.ended_early
    )


def test_a_loss_that_is_no_number_is_not_lower(tmp_path: Path) -> None:
    class Scripted(RaggedStage):
        losses = iter([math.nan, 3.0, math.nan, 2.0])

        def validation_batches(self):  # type: ignore[no-untyped-def]
            yield self._batch(0, 1)

        def loss(self, policy, batch):  # type: ignore[no-untyped-def]
            return LossOutput(torch.tensor(next(self.losses) * batch.num_units))

    config = RunConfig()
    with opened_world(config.train) as world, StopRequest(deaf_afterwards=False) as stop:
        validation = Validation(Scripted(2), torch.nn.Identity(), world, 2)
        seen = []
        for _ in range(4):
            assert not validation.measure(stop)
            seen.append((validation.lowest, validation.since_lowest, validation.exhausted))
    assert seen == [(None, 1, False), (3.0, 0, False), (3.0, 1, False), (2.0, 0, False)]


def test_without_patience_it_never_ends_early(tmp_path: Path) -> None:
    outcome = train_stage(tmp_path, RaggedStage(2), *WORSE, "eval.patience=0", "train.max_steps=12")
    assert (outcome.step, outcome.ended_early) == (12, "")
