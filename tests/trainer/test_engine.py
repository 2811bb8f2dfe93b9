"""One loop for every stage: exact sums, nothing disturbed by looking, an orderly end."""

from __future__ import annotations

import math
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.ragged import RaggedStage
from tests.trainer.tiny import (
    assert_same_run,
    checkpoints,
    largest_difference,
    rows,
    run_trainer,
    tiny_config,
    train_tiny,
    weights,
)
from trainer.console import Console
from trainer.loop.distributed import opened_world
from trainer.loop.engine import Outcome, train
from trainer.loop.signals import StopRequest

EXACT = ("model.dropout=0", "train.max_steps=5", "eval.every_steps=5", "schedule.warmup_steps=0")


def train_stage(out_dir: Path, stage: RaggedStage, *overrides: str) -> Outcome:
    config = tiny_config(out_dir, *overrides)
    out_dir.mkdir(exist_ok=True)
    with opened_world(config.train) as world:
        return train(config, stage, world, Console(world.is_first))


def test_micro_batches_add_up_to_the_whole_batch(tmp_path: Path) -> None:
    for micro in (8, 2, 1):
        train_tiny(tmp_path / str(micro), *EXACT, f"train.micro_batch_size={micro}")
    for micro in (2, 1):
        assert largest_difference(weights(tmp_path / "8", 5), weights(tmp_path / str(micro), 5)) < 1e-6


def test_ragged_micro_batches_add_up_to_the_whole_batch(tmp_path: Path) -> None:
    for micro in (8, 1):
        train_stage(tmp_path / str(micro), RaggedStage(micro), *EXACT, f"train.micro_batch_size={micro}")
    assert largest_difference(weights(tmp_path / "8", 5), weights(tmp_path / "1", 5)) < 1e-6
    for whole, parts in zip(rows(tmp_path / "8"), rows(tmp_path / "1"), strict=True):
        assert parts == pytest.approx(whole, rel=1e-5)


def test_the_logged_loss_is_the_mean_over_the_units(tmp_path: Path) -> None:
    train_stage(tmp_path, RaggedStage(2), *EXACT)
    first = rows(tmp_path)[0]
    assert first["loss"] == pytest.approx(math.log(257), rel=0.05)
    assert first["twice_loss"] == pytest.approx(2 * first["loss"])
    assert first["tokens"] == 8 * 32


def test_looking_does_not_change_what_is_learnt(tmp_path: Path) -> None:
    train_tiny(tmp_path / "blind", "eval.every_steps=100", "log.every_steps=100", "checkpoint.every_steps=100")
    looking = ("eval.every_steps=1", "sample.every_steps=1", "sample.max_tokens=5", "checkpoint.every_steps=3")
    train_tiny(tmp_path / "looking", *looking)
    ours, theirs = weights(tmp_path / "blind", 12), weights(tmp_path / "looking", 12)
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    samples = [row for row in rows(tmp_path / "looking") if "sample" in row]
    assert [row["step"] for row in samples] == list(range(1, 13))


def test_the_same_seed_gives_the_same_run_and_another_seed_another(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train_tiny(tmp_path / name, f"seed={seed}", "train.max_steps=4")
    assert_same_run(tmp_path / "a", tmp_path / "b", 4)
    assert rows(tmp_path / "a") != rows(tmp_path / "c")


def test_it_learns_and_says_how(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = train_tiny(tmp_path, "train.max_steps=100", "optim.lr=1e-2", "log.every_steps=50", "model.dropout=0")
    said = capsys.readouterr().out
    assert outcome.val_loss is not None
    assert outcome.val_loss < 3.4
    assert "step 50/100  loss " in said
    assert "step 100/100  val loss " in said
    assert "saved `step_00000100` (" in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_ends_the_run_at_the_edge_of_a_step_even_while_validating(
    tmp_path: Path, number: signal.Signals
) -> None:
    asked: list[bool] = []

    def ask_once() -> None:
        if not asked:
            asked.append(True)
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    outcome = train_stage(tmp_path / "run", RaggedStage(2, ask_once))
    assert (outcome.step, outcome.stopped_by) == (6, number.name)
    assert checkpoints(tmp_path / "run")[-1] == 6
    assert [row for row in rows(tmp_path / "run") if "val_loss" in row] == []
    assert signal.getsignal(number) is before
    # What the stop kept from being measured is measured first when the run goes on.
    train_stage(tmp_path / "run", RaggedStage(2))
    train_stage(tmp_path / "straight", RaggedStage(2))
    assert rows(tmp_path / "run") == rows(tmp_path / "straight")


def test_a_signal_before_the_first_step_leaves_nothing(tmp_path: Path) -> None:
    class Impatient(RaggedStage):
        def batches(self, policy: Any) -> Any:
            os.kill(os.getpid(), signal.SIGTERM)
            return super().batches(policy)

    outcome = train_stage(tmp_path, Impatient(2))
    assert (outcome.step, outcome.stopped_by, outcome.checkpoint) == (0, "SIGTERM", None)


def test_a_second_ctrl_c_does_not_wait() -> None:
    with StopRequest(deaf_afterwards=False) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.reason == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_after_a_training_of_many_a_signal_cannot_change_the_exit_code() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
    try:
        with StopRequest(deaf_afterwards=True):
            pass
        os.kill(os.getpid(), signal.SIGTERM)  # with the usual handler, that would be the end of this test
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_a_compiled_model_that_recomputes_its_blocks_trains_the_same_and_its_checkpoint_shows_neither(
    tmp_path: Path,
) -> None:
    looking = ("sample.every_steps=3", "sample.max_tokens=3", "eval.every_steps=3")
    small = ("train.max_steps=3", "model.dropout=0", "model.n_layers=1")
    both = ("train.compile=true", "train.activation_checkpointing=true")
    code, out, err = run_trainer(tmp_path / "compiled", *both, *small, *looking)
    assert code == 0, out + err
    train_tiny(tmp_path / "plain", *small, "eval.every_steps=3")
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "plain"), rel=1e-5)
    assert largest_difference(weights(tmp_path / "compiled", 3), weights(tmp_path / "plain", 3)) < 1e-5


def losses(out_dir: Path) -> list[float]:
    """Of training and validation, in the order they were logged."""
    return [row[name] for row in rows(out_dir) for name in ("loss", "val_loss") if name in row]
