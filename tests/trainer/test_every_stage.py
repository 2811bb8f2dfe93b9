"""Every stage: two processes learn what one does, and a run that was stopped goes on to the bit."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.every_stage import RUNS, STEPS, config_of, write_rows
from tests.trainer.tiny import ROOT, assert_same_run, checkpoint, largest_difference, rows, weights
from trainer import stages
from trainer.loop.start import run_stage

TOGETHER = ("sft", "sft-rows", "sft-lora", "dpo", "orpo", "reward", "ppo", "grpo", "grpo-tools", "rgpo")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def together(folder: Path) -> Path:
    """The runs of two processes, by name."""
    out = folder / "together"
    out.mkdir()
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*start, "-m", "tests.trainer.every_stage", str(folder), str(out), *TOGETHER],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_no_stage_is_missing_here() -> None:
    assert {stage for stage, _ in RUNS.values()} | {"pretrain"} == set(stages._STAGES)


@pytest.mark.slow
@pytest.mark.parametrize("name", TOGETHER)
def test_two_processes_learn_what_one_does(folder: Path, together: Path, tmp_path: Path, name: str) -> None:
    """Rows of 1 to 23 learnt tokens: one process takes four at a time, two take one each."""
    run_stage(RUNS[name][0], config_of(name, folder, tmp_path / "one", "model.dropout=0", "lora.dropout=0"))
    assert largest_difference(weights(tmp_path / "one", STEPS), weights(together / name, STEPS)) <= 1e-6
    for one, two in zip(measured(tmp_path / "one"), measured(together / name), strict=True):
        assert two == pytest.approx(one, rel=1e-3, abs=1e-5)


def measured(out_dir: Path) -> list[dict[str, Any]]:
    """What was logged, but for what depends on how many rows stand side by side: padding, and draws of a validation."""
    drawn = any("reward" in row for row in rows(out_dir))
    return [{k: v for k, v in row.items() if k != "tokens" and not (drawn and "val" in k)} for row in rows(out_dir)]


@pytest.mark.parametrize("name", RUNS)
def test_a_stopped_run_goes_on_to_the_bit(folder: Path, tmp_path: Path, name: str) -> None:
    stage, whole, parts = RUNS[name][0], tmp_path / "whole", tmp_path / "parts"
    run_stage(stage, config_of(name, folder, whole))
    shutil.copytree(whole, parts)
    for step in (4, STEPS):
        shutil.rmtree(checkpoint(parts, step))
    run_stage(stage, config_of(name, folder, parts))
    assert_same_run(whole, parts, STEPS)
