"""A request to stop is honoured wherever it comes: importing, preparing, loading, training."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.ragged import RaggedStage
from tests.trainer.test_engine import train_stage
from tests.trainer.tiny import (
    assert_same_run,
    checkpoints,
    finished,
    read_until,
    start_trainer,
    train_tiny,
    training_processes,
)
from trainer.config import TrainConfig
from trainer.errors import ExitCode
from trainer.loop.distributed import opened_world
from trainer.loop.signals import StopRequest, StopRequested, interruptible, stop_request

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


def tell(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_before_training_a_request_interrupts_what_may_be_interrupted(number: int) -> None:
    before = [signal.getsignal(each) for each in SIGNALS]
    with StopRequest(deaf_afterwards=False) as stop:
        with pytest.raises(StopRequested) as caught, interruptible():
            tell(number)
        assert caught.value.exit_code == ExitCode.STOPPED
        assert stop.reason == signal.Signals(number).name
    assert [signal.getsignal(each) for each in SIGNALS] == before


def test_a_request_outside_is_kept_until_something_may_be_interrupted() -> None:
    reached = []
    with stop_request():
        tell(signal.SIGTERM)
        reached.append("goes on")
        with pytest.raises(StopRequested), interruptible():
            reached.append("never")
    assert reached == ["goes on"]


def test_while_training_a_request_only_sets_the_flag() -> None:
    with stop_request() as stop, stop.training(), interruptible():
        tell(signal.SIGTERM)
        assert stop.reason == "SIGTERM"


def test_whoever_cleans_up_is_not_interrupted_again() -> None:
    cleaned = []

    def work() -> None:
        try:
            tell(signal.SIGTERM)
        finally:
            tell(signal.SIGTERM)
            cleaned.append(True)

    with stop_request(), pytest.raises(StopRequested), interruptible():
        work()
    assert cleaned == [True]


def test_the_first_to_listen_is_the_one_that_hears() -> None:
    with stop_request() as outer, stop_request() as inner:
        assert inner is outer
    with stop_request() as another:
        assert another is not outer


def test_a_request_travels_to_the_other_ranks_as_it_is() -> None:
    sent = StopRequested("SIGUSR1")
    received = pickle.loads(pickle.dumps(sent))
    assert (received.reason, str(received), received.exit_code) == ("SIGUSR1", str(sent), ExitCode.STOPPED)


@pytest.mark.parametrize("way", ["on_first", "on_all", "first_then_all"])
def test_the_worlds_acts_can_be_interrupted(way: str) -> None:
    with stop_request(), opened_world(TrainConfig(device="cpu")) as world:
        act: Callable[[Callable[[], None]], Any] = getattr(world, way)
        with pytest.raises(StopRequested):
            act(lambda: tell(signal.SIGTERM))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_preparing_data_is_left_at_once_and_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    import trainer.loop.start as start

    open_stage = start.open_stage

    def told_while_preparing(name: str, config: Any, world: Any, console: Any) -> Any:
        world.on_first(lambda: tell(number))
        return open_stage(name, config, world, console)

    monkeypatch.setattr(start, "open_stage", told_while_preparing)
    outcome = train_tiny(tmp_path)
    assert (outcome.step, outcome.checkpoint, outcome.stopped_by) == (0, None, signal.Signals(number).name)
    monkeypatch.undo()
    assert train_tiny(tmp_path).step == 12


def test_loading_a_checkpoint_is_left_at_once_and_the_checkpoint_is_named(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import trainer.loop.engine as engine

    def told_while_loading(checkpoint: Path) -> None:
        tell(signal.SIGTERM)

    monkeypatch.setattr(engine, "read_state", told_while_loading)
    outcome = train_tiny(finished_run, "train.max_steps=20")
    assert (outcome.step, outcome.stopped_by) == (12, "SIGTERM")
    assert outcome.checkpoint is not None
    assert outcome.checkpoint.name == "step_00000012"


def exit_codes(err: str) -> int:
    """torchrun ends with 1 whatever its processes said, and tells what that was."""
    return err.count(f"exitcode  : {ExitCode.STOPPED}")


@pytest.mark.slow
def test_two_processes_told_while_they_start_both_end_as_stopped(tmp_path: Path) -> None:
    started = start_trainer(tmp_path / "run", "train.max_steps=100000", processes=2)
    read_until(started, "2 x CPU")  # said before the data is prepared
    for process in training_processes(started):
        process.send_signal(signal.SIGTERM)
    _, err = finished(started)[1:]
    assert exit_codes(err) == 2, err


def test_a_stop_in_the_warm_up_is_saved_and_gone_on_from(tmp_path: Path) -> None:
    class Told(RaggedStage):
        def loss(self, policy: Any, batch: Any) -> Any:
            if self._next == 2 * 8:
                tell(signal.SIGTERM)
            return super().loss(policy, batch)

    overrides = ("train.micro_batch_size=8", "schedule.warmup_steps=6", "train.max_steps=8", "eval.every_steps=8")
    stopped = train_stage(tmp_path / "run", Told(8), *overrides)
    assert 0 < stopped.step < 6
    assert checkpoints(tmp_path / "run") == [stopped.step]
    train_stage(tmp_path / "run", RaggedStage(8), *overrides)
    train_stage(tmp_path / "straight", RaggedStage(8), *overrides)
    assert_same_run(tmp_path / "straight", tmp_path / "run", 8)
