"""GRPO: the toy task is learnt, ratios begin at 1, a stopped run goes on to the bit, bad rewards end it in words."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch

from tests.trainer.tiny import assert_same_run, checkpoint
from tests.trainer.toy_task import LEARNING, column, toy_config, toy_files
from trainer.config import ConfigError
from trainer.console import Console
from trainer.errors import DataError, TrainerError
from trainer.loop.distributed import opened_world
from trainer.loop.start import run_stage
from trainer.models.build import build_model
from trainer.stages.grpo import open_grpo

SEVERAL = ("rollout.completions=16", "grpo.epochs=2")
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
    run_stage("grpo", toy_config(toy, tmp_path / "run", *LEARNING, "grpo.group_size=8"))
    first, *_, last = column(tmp_path / "run", "reward")
    assert first < 0.2
    assert last > 0.9
    assert column(tmp_path / "run", "val_reward")[-1] > 0.9


def test_on_the_first_minibatch_the_ratio_is_1_and_kl_is_0_and_later_they_are_not(toy: Path, base: Path) -> None:
    out_dir = toy / "several"
    given = (f"model.init_from={base}", "grpo.beta=0.1", "optim.lr=1e-2")
    run_stage("grpo", toy_config(toy, out_dir, *SEVERAL, *given))
    assert column(out_dir, "ratio")[0] == pytest.approx(1, abs=1e-5)
    for name in ("kl", "moved_kl"):
        begins, *later = column(out_dir, name)
        assert begins == pytest.approx(0, abs=1e-9)
        assert max(later) > 1e-5


def test_a_single_step_per_rollout_has_a_ratio_of_exactly_1(toy: Path, tmp_path: Path) -> None:
    run_stage("grpo", toy_config(toy, tmp_path / "run", "train.max_steps=3"))
    assert column(tmp_path / "run", "ratio") == pytest.approx([1.0] * 3, abs=1e-12)
    assert column(tmp_path / "run", "clipped") == [0.0] * 3


@pytest.mark.parametrize("stop_at", [4, 6])
def test_a_stopped_run_goes_on_to_the_bit_between_rollouts_and_within_one(
    toy: Path, tmp_path: Path, stop_at: int
) -> None:
    settings = (*SEVERAL, "train.max_steps=8", f"checkpoint.every_steps={stop_at}", "rollout.temperature=0.8")
    run_stage("grpo", toy_config(toy, tmp_path / "whole", *settings))
    run_stage("grpo", toy_config(toy, tmp_path / "parts", *settings))
    checkpoint(tmp_path / "parts", 8).rename(tmp_path / "away")
    state = json.loads((checkpoint(tmp_path / "parts", stop_at) / "train_state.json").read_text())["stage_state"]
    assert (state["rows"] is None) == (stop_at == 4)
    run_stage("grpo", toy_config(toy, tmp_path / "parts", *settings))
    assert_same_run(tmp_path / "whole", tmp_path / "parts", 8)


@pytest.mark.parametrize(
    ("loss", "units", "weight"), [("dapo", "tokens", 1.0), ("grpo", "rows", 0.125), ("dr_grpo", "rows", 0.125)]
)
def test_the_loss_is_a_sum_over_what_it_says_it_is_a_mean_of(
    toy: Path, tmp_path: Path, loss: str, units: str, weight: float
) -> None:
    config = toy_config(toy, tmp_path / "run", f"grpo.loss={loss}", "grpo.advantage=mean")
    torch.manual_seed(0)
    policy = build_model(config.model)
    with opened_world(config.train) as world:
        stage = open_grpo(config, world, Console(False))
        batches = list(itertools.islice(stage.batches(policy), 2))
        found = [stage.loss(policy, batch) for batch in batches]
    learnt = [row for row in stage._rows if row.is_learnt]
    assert sum(batch.num_units for batch in batches) == (
        sum(row.num_sampled for row in learnt) if units == "tokens" else len(learnt)
    )
    # With a ratio of 1 the loss of a token is its completion's advantage, negative.
    advantages = [float(row.tokens["advantages"][row.is_sampled[1:]][0]) for row in learnt]
    lengths = [row.num_sampled for row in learnt]
    per_row = {"dapo": lengths, "grpo": [1] * len(learnt), "dr_grpo": [length / 8 for length in lengths]}[loss]
    expected = -sum(a * n for a, n in zip(advantages, per_row, strict=True))
    assert float(sum(output.loss_sum.detach() for output in found)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("reward", "what", "why"),
    [
        ("raises", "every call of a reward function failed", "raises: ValueError: no idea, 8 times"),
        ("no_number", "every call of a reward function failed", "no finite number"),
        ("equal", "nothing to learn in the first 2 rollouts", "0.5"),
    ],
)
def test_rewards_that_say_nothing_end_the_run_in_words(
    toy: Path, tmp_path: Path, reward: str, what: str, why: str
) -> None:
    with pytest.raises(DataError) as caught:
        run_stage("grpo", toy_config(toy, tmp_path / "run", reward=reward))
    assert what in caught.value.what
    assert why in caught.value.why


def test_a_reward_that_hangs_ends_the_run_in_words(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        run_stage("grpo", toy_config(toy, tmp_path / "run", "reward.timeout_seconds=0.05", reward="hangs"))
    assert "no answer within 0.05 s, 8 times" in caught.value.why


def test_a_function_that_does_not_always_apply_is_learnt_from_where_it_does(toy: Path, tmp_path: Path) -> None:
    run_stage("grpo", toy_config(toy, tmp_path / "run", reward="sometimes"))
    shares = column(tmp_path / "run", "without_reward")
    assert any(0 < share < 1 for share in shares)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("reward.functions=[]",), "reward.functions"),
        (("grpo.group_size=5",), "no multiple of grpo.group_size 5"),
        (("rollout.completions=12",), "no multiple of train.global_batch_size 8"),
        (("grpo.beta=0.1",), "grpo.beta"),
        (("rollout.top_k=5",), "rollout.top_k"),
        (("rollout.max_tokens=40",), "no room for a prompt in rows of 40 tokens"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    toy: Path, tmp_path: Path, overrides: tuple[str, ...], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        run_stage("grpo", toy_config(toy, tmp_path / "run", *overrides))


def test_a_reference_that_is_not_there_is_refused(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match="nowhere"):
        run_stage("grpo", toy_config(toy, tmp_path / "run", "grpo.beta=0.1", "model.init_from=./nowhere"))


def test_other_prompts_are_not_gone_on_with(toy: Path, tmp_path: Path) -> None:
    run_stage("grpo", toy_config(toy, tmp_path / "run", "train.max_steps=2"))
    (tmp_path / "other.jsonl").write_text("".join(f'{{"prompt": "{i}"}}\n' for i in range(20)))
    with pytest.raises(TrainerError, match="not the ones this run began with"):
        run_stage("grpo", toy_config(toy, tmp_path / "run", f"data.path={tmp_path / 'other.jsonl'}"))
