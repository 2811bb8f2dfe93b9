"""A run that was interrupted is the run that was not, to the bit; and what may not go on is refused by name."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch

from tests.trainer.tiny import (
    assert_same_run,
    checkpoint,
    checkpoints,
    finished,
    kill_all,
    read_until,
    rows,
    run_trainer,
    start_trainer,
    tensors,
    train_tiny,
    training_processes,
)
from trainer.errors import CheckpointError

LONG = (
    "train.max_steps=100",
    "train.global_batch_size=12",  # for one, two and three processes
    "checkpoint.every_steps=20",
    "eval.every_steps=50",
    "eval.num_batches=2",
)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Runs that nobody disturbed, by number of processes."""
    folder = tmp_path_factory.mktemp("straight")
    runs = {processes: folder / f"run{processes}" for processes in (1, 2, 3)}
    for processes, out_dir in runs.items():
        run_to_the_end(out_dir, processes)
    return runs


def run_to_the_end(out_dir: Path, processes: int) -> None:
    """Alone in this process, which spares a start; else under torchrun."""
    if processes == 1:
        train_tiny(out_dir, *LONG)
    else:
        code, out, err = run_trainer(out_dir, *LONG, processes=processes)
        assert code == 0, out + err


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_killed_with_kill_9_and_started_again_equals_one_that_was_not(
    straight: dict[int, Path], tmp_path: Path, processes: int
) -> None:
    killed = start_trainer(tmp_path / "run", *LONG, processes=processes)
    read_until(killed, "step 50/100")
    kill_all(killed)
    assert 0 < max(checkpoints(tmp_path / "run")) < 100
    run_to_the_end(tmp_path / "run", processes)
    assert_same_run(straight[processes], tmp_path / "run", 100)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 3])  # from three on, the order in which ranks are summed could differ
def test_a_run_told_to_stop_saves_says_so_and_goes_on_to_the_bit(
    straight: dict[int, Path], tmp_path: Path, processes: int
) -> None:
    stopped = start_trainer(tmp_path / "run", *LONG, processes=processes)
    read_until(stopped, "step 30/100")
    training_processes(stopped)[-1].send_signal(signal.SIGTERM)  # one of them is enough: they agree
    code, out, err = finished(stopped)
    step = max(checkpoints(tmp_path / "run"))
    assert 30 <= step < 100, out + err
    assert f"stopped by SIGTERM after step {step}/100" in out
    # torchrun ends with 1 whatever its processes said, and tells what that was.
    assert code == 75 if processes == 1 else err.count("exitcode  : 75") == processes, err
    run_to_the_end(tmp_path / "run", processes)
    assert_same_run(straight[processes], tmp_path / "run", 100)


def test_stopping_and_going_on_twice_in_an_odd_place_changes_nothing(tmp_path: Path) -> None:
    constant = ("schedule.kind=constant", "train.precision=bf16")
    train_tiny(tmp_path / "straight", *constant)
    for max_steps in (5, 7, 12):  # its last step is saved, whatever checkpoint.every_steps is
        train_tiny(tmp_path / "pieces", f"train.max_steps={max_steps}", *constant)
    ours, theirs = tensors(tmp_path / "pieces", 12), tensors(tmp_path / "straight", 12)
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def test_another_number_of_processes_sees_the_same_samples_and_says_what_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run_trainer(tmp_path / "run", "train.max_steps=6", processes=2)
    assert code == 0, out + err
    train_tiny(tmp_path / "run", "train.max_steps=8")
    assert "2 processes became 1: same data order, other dropout" in capsys.readouterr().out
    state = json.loads((checkpoint(tmp_path / "run", 8) / "train_state.json").read_text())
    assert state["stage_state"]["next_sample"] == 64


def flip_a_byte(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def lose_a_file(folder: Path) -> None:
    (folder / "optimizer.safetensors").unlink()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (flip_a_byte, "skipped `step_00000012`: `model.safetensors` is not what was written (sha256 differs)"),
        (lose_a_file, "skipped `step_00000012`: `optimizer.safetensors` is missing"),
    ],
)
def test_a_broken_checkpoint_is_passed_by_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: object, words: str
) -> None:
    train_tiny(tmp_path / "straight")
    train_tiny(tmp_path / "run")
    assert callable(damage)
    damage(checkpoint(tmp_path / "run", 12))
    capsys.readouterr()
    train_tiny(tmp_path / "run")
    out = capsys.readouterr().out
    assert words in out
    assert "resumed from `step_00000008`: step 8/12" in out
    assert (tmp_path / "run" / "checkpoints" / "step_00000012.broken").is_dir()
    assert_same_run(tmp_path / "straight", tmp_path / "run", 12)


def test_where_no_checkpoint_is_whole_nothing_is_started_over(tmp_path: Path) -> None:
    train_tiny(tmp_path, "train.max_steps=4")
    flip_a_byte(checkpoint(tmp_path, 4))
    with pytest.raises(CheckpointError, match=r"none of the 1 checkpoints .* is whole"):
        train_tiny(tmp_path, "train.max_steps=4")
    assert checkpoints(tmp_path) == [4]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.d_model=64", "`model.d_model` was 32, is 64"),
        ("model.n_layers=3", "`model.n_layers` was 2, is 3"),
        ("seed=7", "`seed` was 1337, is 7"),
        ("train.global_batch_size=16", "`train.global_batch_size` was 8, is 16"),
        ("data.val_fraction=0.2", "`data.val_fraction` was 0.1, is 0.2"),
    ],
)
def test_a_setting_that_would_make_it_another_run_is_refused_by_name(
    finished_run: Path, override: str, words: str
) -> None:
    with pytest.raises(CheckpointError) as caught:
        train_tiny(finished_run, override)
    assert words in caught.value.why
    assert caught.value.hint
    assert checkpoints(finished_run) == [4, 8, 12]


def test_other_data_under_the_same_settings_is_refused(finished_run: Path, tmp_path: Path) -> None:
    text = tmp_path / "other.txt"
    text.write_text("to be or not to be, " * 500)
    with pytest.raises(CheckpointError, match="the training data is not the one this run began with"):
        train_tiny(finished_run, f"data.path={text}", "train.max_steps=20")


def test_a_harmless_change_is_accepted_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_tiny(tmp_path, "train.max_steps=4")
    capsys.readouterr()
    train_tiny(tmp_path, "train.max_steps=6", "train.micro_batch_size=4")
    out = capsys.readouterr().out
    assert "changed since then: train.max_steps 4 -> 6; train.micro_batch_size 2 -> 4" in out
    assert "other rounding from here on" in out


def test_resume_must_wants_a_checkpoint_and_never_wants_none(finished_run: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no checkpoint to go on from"):
        train_tiny(tmp_path / "fresh", "resume=must")
    with pytest.raises(CheckpointError, match="already holds checkpoints"):
        train_tiny(finished_run, "resume=never")


def test_metrics_beyond_the_step_resumed_from_are_dropped(tmp_path: Path) -> None:
    train_tiny(tmp_path, "train.max_steps=8", "log.every_steps=1")
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "loss": 1.0}\n{"step": 10, "lo')
    train_tiny(tmp_path, "train.max_steps=10", "log.every_steps=1")
    steps = [row["step"] for row in rows(tmp_path) if "loss" in row]
    assert steps == list(range(1, 11))


def test_a_run_that_is_done_stays_as_it_is(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in (finished_run / "checkpoints").rglob("*")}
    outcome = train_tiny(finished_run)
    assert outcome.step == 12
    assert {path: path.stat().st_mtime_ns for path in (finished_run / "checkpoints").rglob("*")} == before
