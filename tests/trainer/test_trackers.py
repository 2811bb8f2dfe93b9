"""Whoever follows a run beside metrics.jsonl: one curve over every resume, and never a training lost for it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.tiny import checkpoint, rows, run_trainer, tiny_config, train_tiny
from trainer import manifest
from trainer.checkpoints.checkpoint import read_state
from trainer.cli import main
from trainer.console import Console
from trainer.errors import EngineError, ExitCode
from trainer.trackers import TrackedRun, Trackers, by_name, require_trackers, several
from trainer.trackers.run_id import run_id
from trainer.trackers.weights_and_biases import require_key

SHORT = ("checkpoint.every_steps=4", "eval.every_steps=4", "sample.every_steps=4", "sample.max_tokens=3")


class Notebook:
    """A tracker that writes down what it is told, and fails from a step on."""

    def __init__(self, fails_from: float = math.inf) -> None:
        self.rows: list[tuple[int, dict[str, Any]]] = []
        self.closed = False
        self._fails_from = fails_from

    def log(self, step: int, row: Mapping[str, float | str]) -> None:
        if step >= self._fails_from:
            raise ConnectionError("the service is gone")
        self.rows.append((step, dict(row)))

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[Notebook, TrackedRun]]:
    """Notebooks in place of `tensorboard` and `trackio`, the second of which fails from step 3 on."""
    there: dict[str, tuple[Notebook, TrackedRun]] = {}

    def open_tracker(name: str, run: TrackedRun) -> Notebook:
        there[name] = (Notebook(3 if name == "trackio" else math.inf), run)
        return there[name][0]

    monkeypatch.setattr(several, "open_tracker", open_tracker)
    monkeypatch.setattr(by_name, "find_spec", lambda name: object())
    return there


def test_a_tracker_is_told_every_row_and_one_that_fails_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], opened: dict[str, tuple[Notebook, TrackedRun]]
) -> None:
    outcome = train_tiny(tmp_path / "run", *SHORT, "train.max_steps=8", "log.trackers=[tensorboard, trackio, trackio]")
    assert outcome.step == 8
    (told, run), (failing, _) = opened["tensorboard"], opened["trackio"]
    written = [(row.pop("step"), row) for row in rows(tmp_path / "run")]
    assert [
        (step, {k: v for k, v in row.items() if k in there})
        for (step, there), (_, row) in zip(told.rows, written, strict=True)
    ] == written
    assert told.closed
    assert not failing.closed
    assert [step for step, _ in failing.rows] == [1, 2]
    assert capsys.readouterr().out.count("tracker `trackio` failed and is left out from here on") == 1
    assert (run.name, run.project, run.step, run.folder) == ("run", "gptops", 0, tmp_path / "run")
    assert run.config["train"]["max_steps"] == 8
    # The id is the run's, whoever goes on with it.
    train_tiny(tmp_path / "run", *SHORT, "train.max_steps=9", "log.trackers=[tensorboard]")
    again = opened["tensorboard"][1]
    assert (again.id, again.step) == (run.id, 8)
    assert read_state(checkpoint(tmp_path / "run", 9)).run_id == run.id


def test_a_row_gives_its_finite_numbers_and_its_texts(opened: dict[str, tuple[Notebook, TrackedRun]]) -> None:
    trackers = Trackers(["tensorboard"], Console(False))
    trackers.log({"step": 1, "loss": 1.0})  # nobody is there yet
    trackers.open(TrackedRun("0" * 32, "run", "project", Path("."), {}, 0))
    trackers.log({"step": 2, "loss": math.nan, "lr": 1e-3, "mfu": None, "sample": "text"})
    trackers.log({"step": 3, "loss": None})
    trackers.close()
    trackers.log({"step": 4, "loss": 1.0})
    assert opened["tensorboard"][0].rows == [(2, {"lr": 1e-3, "sample": "text"})]


def test_a_tracker_that_does_not_open_ends_the_run_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_tracker(name: str, run: TrackedRun) -> Notebook:
        raise ValueError("wrong\nproject")

    monkeypatch.setattr(several, "open_tracker", open_tracker)
    monkeypatch.setattr(by_name, "find_spec", lambda name: object())
    with pytest.raises(EngineError, match="the tracker `mlflow` could not be opened") as caught:
        train_tiny(tmp_path, "log.trackers=[mlflow]")
    assert caught.value.why == "ValueError: wrong project"


def test_an_id_comes_from_the_checkpoint_else_from_the_folder_else_it_is_new(tmp_path: Path) -> None:
    first = run_id(tmp_path)
    assert len(first) == 32
    assert run_id(tmp_path) == first
    assert run_id(tmp_path, "f" * 32) == "f" * 32 == run_id(tmp_path)


def test_a_package_that_is_missing_is_named_before_anything_takes_long(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(by_name, "find_spec", lambda name: None)
    with pytest.raises(EngineError, match="the tracker `tensorboard` is not installed here") as caught:
        train_tiny(tmp_path / "run", "log.trackers=[tensorboard]")
    assert caught.value.hint == "pip install 'gptops[trackers]'"
    assert not (tmp_path / "run" / "data").exists()
    with pytest.raises(EngineError) as caught:
        require_trackers(["aim"])
    assert caught.value.hint == "pip install aim"
    assert "the tracker `tensorboard`" in (tmp_path / "run" / "console.log").read_text()


@pytest.mark.parametrize("extra", [{}, {"WANDB_MODE": "online"}, {"WANDB_API_KEY": ""}])
def test_weights_and_biases_without_a_key_is_an_error_that_names_the_offline_mode(
    tmp_path: Path, extra: dict[str, str]
) -> None:
    with pytest.raises(EngineError, match="Weights & Biases has no key") as caught:
        require_key({"HOME": str(tmp_path), **extra})
    assert "WANDB_MODE=offline" in caught.value.hint
    assert "api.wandb.ai" in caught.value.why


def test_weights_and_biases_with_a_key_of_any_kind_is_not(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    require_key({**home, "WANDB_API_KEY": "k" * 40})
    require_key({**home, "WANDB_MODE": "offline"})
    require_key({**home, "WANDB_MODE": "disabled"})
    (tmp_path / ".netrc").write_text("machine wandb.example login user password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    require_key({**home, "WANDB_BASE_URL": "https://wandb.example:8080"})
    with pytest.raises(EngineError):
        require_key(home)
    (tmp_path / ".netrc").write_text("machine machine machine\n")
    with pytest.raises(EngineError):
        require_key(home)


def test_a_name_that_no_tracker_has_is_an_error_with_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", "log.trackers=[wand]"]) == ExitCode.CONFIG
    assert "did you mean `wandb`?" in capsys.readouterr().err


def test_a_run_keeps_a_log_with_times_unless_the_launcher_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    train_tiny(tmp_path / "alone", "train.max_steps=3")
    said = [line for line in capsys.readouterr().out.splitlines() if line]
    logged = [line for line in (tmp_path / "alone" / "console.log").read_text().splitlines() if line]
    assert [line.split("  ", 1)[1] for line in logged] == said
    train_tiny(tmp_path / "silent", "train.max_steps=3", "log.file=false")
    monkeypatch.setenv("GPTOPS_RUN_ID", "run-1")
    train_tiny(tmp_path / "launched", "train.max_steps=3")
    assert not (tmp_path / "silent" / "console.log").exists()
    assert not (tmp_path / "launched" / "console.log").exists()


def test_a_tracked_configuration_can_be_told_as_json(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, "log.trackers=[wandb]").model_dump(mode="json")
    assert json.loads(json.dumps(config))["log"]["trackers"] == ["wandb"]


def test_tensorboard_shows_one_curve_over_a_resume(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    code, out, err = run_trainer(tmp_path / "run", *SHORT, "train.max_steps=8", "log.trackers=[tensorboard]")
    assert code == 0, out + err
    # As after a crash beyond the last checkpoint: rows 5 to 8 were told, and come again.
    manifest.remove(checkpoint(tmp_path / "run", 8))
    code, out, err = run_trainer(tmp_path / "run", *SHORT, "train.max_steps=10", "log.trackers=[tensorboard]")
    assert code == 0, out + err
    assert "resumed from `step_00000004`" in out
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == list(range(1, 11))
    assert [event.step for event in events.Scalars("val_loss")] == [4, 8, 10]


@pytest.mark.slow
def test_weights_and_biases_keeps_a_run_on_disk_under_one_id(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    for max_steps in (4, 8):
        code, out, err = run_trainer(
            tmp_path / "run", f"train.max_steps={max_steps}", "log.trackers=[wandb]", WANDB_MODE="offline"
        )
        assert code == 0, out + err
    known = read_state(checkpoint(tmp_path / "run", 8)).run_id
    kept = [path.name for path in (tmp_path / "run" / "wandb").glob("offline-run-*")]
    assert len(kept) == 2
    assert all(name.endswith(known) for name in kept)
