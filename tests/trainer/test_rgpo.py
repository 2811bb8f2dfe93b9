"""RGPO: REINFORCE with a running mean, which the toy task is learnt by."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trainer.toy_task import LEARNING, column, toy_config, toy_files
from trainer.config import ConfigError
from trainer.errors import DataError
from trainer.loop.start import run_stage


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_files(tmp_path_factory.mktemp("toy"))


def test_the_toy_task_is_learnt(toy: Path, tmp_path: Path) -> None:
    run_stage("rgpo", toy_config(toy, tmp_path / "run", *LEARNING))
    first, *_, last = column(tmp_path / "run", "reward")
    assert first < 0.2
    assert last > 0.9


def test_the_baseline_is_the_mean_of_the_rollouts_before(toy: Path, tmp_path: Path) -> None:
    run_stage("rgpo", toy_config(toy, tmp_path / "run", "rgpo.baseline_decay=0.75"))
    rewards, baselines = column(tmp_path / "run", "reward"), column(tmp_path / "run", "baseline")
    expected = [rewards[0], rewards[0]]
    for reward in rewards[1:-1]:
        expected.append(0.75 * expected[-1] + 0.25 * reward)
    assert baselines == pytest.approx(expected)


def test_a_rollout_for_more_than_one_step_is_refused(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one step per rollout"):
        run_stage("rgpo", toy_config(toy, tmp_path / "run", "rollout.completions=16"))


def test_equal_rewards_end_the_run_in_words(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing to learn"):
        run_stage("rgpo", toy_config(toy, tmp_path / "run", reward="equal"))
