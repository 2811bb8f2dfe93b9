"""PPO: the toy task is learnt, the first minibatch has ratio 1 and KL 0, and all it remembers outlives a stop."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from tests.trainer.tiny import assert_same_run, checkpoint, rows, weights
from tests.trainer.toy_task import LEARNING, column, toy_config, toy_files
from trainer.config import ConfigError
from trainer.console import Console
from trainer.loop.distributed import opened_world
from trainer.loop.start import run_stage
from trainer.models.build import build_model
from trainer.models.policies import open_policy
from trainer.rollouts.scored import token_logps
from trainer.stages.ppo import open_ppo

SEVERAL = ("rollout.completions=16", "ppo.epochs=2")
"""Four steps a rollout."""


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_files(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def base(toy: Path) -> Path:
    """A run to begin from."""
    run_stage("grpo", toy_config(toy, toy / "base", "train.max_steps=1", "schedule.warmup_steps=0"))
    return toy / "base"


def test_the_toy_task_is_learnt(toy: Path, tmp_path: Path) -> None:
    run_stage("ppo", toy_config(toy, tmp_path / "run", *LEARNING, "train.max_steps=70", "ppo.epochs=2"))
    first, *_, last = column(tmp_path / "run", "reward")
    assert first < 0.2
    assert last > 0.9


def test_on_the_first_minibatch_the_ratio_is_1_and_kl_is_0_and_a_stopped_run_goes_on_to_the_bit(
    toy: Path, base: Path, tmp_path: Path
) -> None:
    """Stopped within a rollout; the controller of beta, the head and its moments go on too."""
    given = (f"model.init_from={base}", "ppo.beta=0.1", "ppo.kl=adaptive", "ppo.stop_kl=10", "optim.lr=1e-2")
    settings = (*SEVERAL, *given, "train.max_steps=6", "checkpoint.every_steps=2")
    run_stage("ppo", toy_config(toy, tmp_path / "whole", *settings))
    assert column(tmp_path / "whole", "ratio")[0] == pytest.approx(1, abs=1e-5)
    assert column(tmp_path / "whole", "moved_kl")[0] == pytest.approx(0, abs=1e-9)
    assert column(tmp_path / "whole", "kl")[0] == pytest.approx(0, abs=1e-4)
    betas = column(tmp_path / "whole", "beta")
    assert betas[0] == 0.1
    assert betas[-1] != 0.1
    assert weights(tmp_path / "whole", 2)["value_head.weight"].any()
    run_stage("ppo", toy_config(toy, tmp_path / "parts", *settings))
    for step in (4, 6):
        checkpoint(tmp_path / "parts", step).rename(tmp_path / f"away{step}")
    run_stage("ppo", toy_config(toy, tmp_path / "parts", *settings))
    assert_same_run(tmp_path / "whole", tmp_path / "parts", 6)


def test_a_rollout_is_left_when_the_policy_has_moved_too_far(toy: Path, tmp_path: Path) -> None:
    settings = (*SEVERAL, "optim.lr=3e-2", "train.max_steps=5", "schedule.warmup_steps=0")
    run_stage("ppo", toy_config(toy, tmp_path / "bound", *settings, "ppo.stop_kl=1e-4"))
    run_stage("ppo", toy_config(toy, tmp_path / "free", *settings))
    # A new rollout begins with a ratio of 1: every second step here, since the first moves nothing measurable.
    begins = [abs(ratio - 1) < 1e-5 for ratio in column(tmp_path / "bound", "ratio")]
    assert begins == [True, False, True, False, True]
    assert [abs(ratio - 1) < 1e-5 for ratio in column(tmp_path / "free", "ratio")] == [True, False, False, False, True]


def test_what_ppo_trained_can_be_opened_and_begun_from_without_its_head(toy: Path, tmp_path: Path) -> None:
    run_stage("ppo", toy_config(toy, tmp_path / "run", "train.max_steps=2"))
    model, _ = open_policy(checkpoint(tmp_path / "run", 2), torch.device("cpu"))
    assert model.value_head is None
    run_stage("grpo", toy_config(toy, tmp_path / "next", "train.max_steps=1", f"model.init_from={tmp_path / 'run'}",
                                 "schedule.warmup_steps=0"))  # fmt: skip
    assert rows(tmp_path / "next")


def test_advantages_are_those_of_gae_and_white_over_what_is_learnt(toy: Path, tmp_path: Path) -> None:
    config = toy_config(toy, tmp_path / "run", "ppo.whiten=false", "ppo.gae_lambda=1.0")
    torch.manual_seed(0)
    policy = build_model(config.model)
    with opened_world(config.train) as world:
        stage = open_ppo(config, world, Console(False))
        stage.extend(policy)
        list(itertools.islice(stage.batches(policy), 2))
        plain = stage._rows
        white = open_ppo(toy_config(toy, tmp_path / "run"), world, Console(False))
        list(itertools.islice(white.batches(policy), 2))
    for row in plain:
        sampled = row.is_sampled[1:]
        # The head begins at 0 and lambda is 1: every token is worth the whole reward, and so is every return.
        assert len(set(row.tokens["advantages"][sampled].tolist())) == 1
        assert row.tokens["returns"][sampled].tolist() == pytest.approx(row.tokens["advantages"][sampled].tolist())
        assert not row.tokens["advantages"][~sampled].any()
    numbers = torch.cat([torch.from_numpy(row.tokens["advantages"][row.is_sampled[1:]]) for row in white._rows])
    assert float(numbers.mean()) == pytest.approx(0, abs=1e-6)
    assert float(numbers.var(correction=0)) == pytest.approx(1, abs=1e-4)


def test_dropout_is_off_wherever_log_probabilities_are_compared(toy: Path, tmp_path: Path) -> None:
    config = toy_config(toy, tmp_path / "run", "model.dropout=0.5")
    torch.manual_seed(0)
    policy = build_model(config.model).train()
    with opened_world(config.train) as world:
        stage = open_ppo(config, world, Console(False))
        stage.extend(policy)
        batch = next(iter(stage.batches(policy)))
        assert float(stage.loss(policy, batch).metrics["ratio"]) == pytest.approx(batch.num_units, rel=1e-5)
        again = token_logps(policy, stage._rows, temperature=1.0, pad_id=256, micro_batch_size=3)
    for row, (logps, _) in zip(stage._rows, again, strict=True):
        assert logps == pytest.approx(row.tokens["old_logps"], abs=1e-5)


def test_a_penalty_without_a_reference_is_refused(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ppo\.beta"):
        run_stage("ppo", toy_config(toy, tmp_path / "run", "ppo.beta=0.1"))
