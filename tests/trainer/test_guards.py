"""A step that is not finite is skipped, counted and named; several in a row end the run while good checkpoints last."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.trainer.ragged import RaggedBatch, RaggedStage
from tests.trainer.test_engine import train_stage
from tests.trainer.tiny import assert_same_run, checkpoint, checkpoints, rows, train_tiny
from trainer.checkpoints.checkpoint import read_state
from trainer.errors import EngineError
from trainer.stages import LossOutput


class Poisoned(RaggedStage):
    """Its loss is not a number in some steps, of one micro-batch each."""

    def __init__(self, *steps: int) -> None:
        super().__init__(8)
        self._steps = steps
        self._number = 0

    def loss(self, policy: nn.Module, batch: RaggedBatch) -> LossOutput:
        output = super().loss(policy, batch)
        self._number += torch.is_grad_enabled()
        factor = float("nan") if self._number in self._steps and torch.is_grad_enabled() else 1.0
        return LossOutput(output.loss_sum * factor, output.metrics)

    def load_state_dict(self, state: Any) -> None:
        super().load_state_dict(state)
        self._number = state["next"] // 8


ONE_BATCH = ("train.micro_batch_size=8", "schedule.warmup_steps=0", "model.dropout=0", "checkpoint.every_steps=1")


def guard_rows(out_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out_dir / "guards.jsonl").read_text().splitlines()]


def test_one_bad_step_changes_nothing_and_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = train_stage(tmp_path, Poisoned(3), *ONE_BATCH, "train.max_steps=5", "checkpoint.keep_last=9")
    assert outcome.step == 5
    assert "skipped step 3/5: loss nan, gradient norm nan (1 in a row, 5 end the run)" in capsys.readouterr().out
    assert checkpoints(tmp_path) == [1, 2, 4, 5]  # none while nothing is known of the weights
    losses = {row["step"]: row["loss"] for row in rows(tmp_path) if "loss" in row}
    assert losses[3] is None
    assert math.isfinite(losses[4])
    assert [row for row in rows(tmp_path) if "skipped_steps" in row] == [{"step": 3, "skipped_steps": 1}]
    state = read_state(checkpoint(tmp_path, 5))
    assert (state.skipped_steps, state.skipped_in_a_row, state.tokens) == (1, 0, 4 * 8 * 32)


def test_the_samples_of_a_bad_step_are_written_down(tmp_path: Path) -> None:
    class Numbered(Poisoned):
        def _batch(self, first: int, end: int) -> RaggedBatch:
            batch = super()._batch(first, end)
            object.__setattr__(batch, "sample_ids", tuple(range(first, end)))
            return batch

    train_stage(tmp_path, Numbered(2), *ONE_BATCH, "train.max_steps=3")
    (row,) = guard_rows(tmp_path)
    assert (row["step"], row["loss"], row["skipped_steps"]) == (2, "nan", 1)
    assert row["micro_batches_by_rank"] == [[list(range(8))]]


def test_pretraining_says_which_samples_a_batch_is_made_of(tmp_path: Path) -> None:
    # The rate destroys the weights in the first step, so that every step after it is bad.
    with pytest.raises(EngineError):
        train_tiny(tmp_path, "optim.lr=1e38", "schedule.warmup_steps=0", "train.max_skipped_steps=1")
    row = guard_rows(tmp_path)[0]
    first = (row["step"] - 1) * 8
    assert row["micro_batches_by_rank"] == [[[first + 2 * n, first + 2 * n + 1] for n in range(4)]]


def test_so_many_in_a_row_end_the_run_and_name_the_last_good_checkpoint(tmp_path: Path) -> None:
    limit = (*ONE_BATCH, "train.max_skipped_steps=3")
    with pytest.raises(EngineError) as caught:
        train_stage(tmp_path, Poisoned(4, 5, 6), *limit)
    assert "step 6 is not finite: and the 2 before it, loss nan" in caught.value.what
    assert "the last good checkpoint is" in caught.value.why
    assert "step_00000003" in caught.value.why
    assert "optim.lr=0.0005" in caught.value.hint
    assert checkpoints(tmp_path)[-1] == 3
    assert [row["in_a_row"] for row in guard_rows(tmp_path)] == [1, 2, 3]


def test_bad_steps_with_good_ones_between_end_nothing(tmp_path: Path) -> None:
    outcome = train_stage(tmp_path, Poisoned(2, 4, 6), *ONE_BATCH, "train.max_skipped_steps=2", "train.max_steps=7")
    assert outcome.step == 7
    assert read_state(checkpoint(tmp_path, 7)).skipped_steps == 3


def test_a_limit_of_one_stops_at_the_first(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="step 1 is not finite: loss nan") as caught:
        train_stage(tmp_path, Poisoned(1), *ONE_BATCH, "train.max_skipped_steps=1")
    assert "there is no checkpoint yet" in caught.value.why


def test_a_run_that_skipped_steps_goes_on_to_the_bit(tmp_path: Path) -> None:
    constant = (*ONE_BATCH, "schedule.kind=constant", "eval.every_steps=3")
    train_stage(tmp_path / "straight", Poisoned(3, 6), *constant, "train.max_steps=8")
    for max_steps in (4, 8):
        train_stage(tmp_path / "pieces", Poisoned(3, 6), *constant, f"train.max_steps={max_steps}")
    ours, theirs = tmp_path / "straight", tmp_path / "pieces"
    assert guard_rows(ours) == guard_rows(theirs)
    assert read_state(checkpoint(theirs, 8)).skipped_steps == 2
    drop_final_evaluations(theirs)
    assert_same_run(ours, theirs, 8)


def drop_final_evaluations(out_dir: Path) -> None:
    """A piece evaluates at its last step, which the straight run had no reason to do."""
    path = out_dir / "metrics.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("".join(f"{line}\n" for line in lines if not ('"step": 4' in line and "val_loss" in line)))
