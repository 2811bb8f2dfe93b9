"""Reward-guided policy optimisation: a completion is worth its reward less a running mean of the rewards.

REINFORCE with a baseline (Williams 1992): on-policy, one step per rollout, so that there is no ratio and no clip, and
no critic. Where GRPO compares a completion with others of the same prompt, here it is compared with what was usual in
the rollouts before: one completion a prompt is enough. The gradient is REINFORCE's, divided by the number of tokens
instead of completions. KL to the reference is optional.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from trainer.config import RunConfig
from trainer.config.problems import ConfigError, Problem
from trainer.console import Console
from trainer.loop.distributed import World
from trainer.rollouts.rows import RolloutRow
from trainer.stages import rl_losses as losses
from trainer.stages.base import LossOutput
from trainer.stages.rl_batch import RlBatch
from trainer.stages.rl_collect import Rollout
from trainer.stages.rl_parts import RlParts, open_parts
from trainer.stages.rl_stage import RolloutStage, ready


class RgpoStage(RolloutStage):
    """RGPO."""

    name = "rgpo"

    def __init__(self, parts: RlParts) -> None:
        super().__init__(parts)
        self.beta = self.config.rgpo.beta
        self._baseline: float | None = None
        """Running mean of the rewards; None before there was any."""

    def learnt(self, rollout: Rollout) -> tuple[list[RolloutRow], dict[str, float]]:
        rewards = [each.score.total for each in rollout.completions]
        mean = _mean([reward for reward in rewards if reward is not None])
        # Only the first rollout is compared with itself: a baseline must not know of what it is taken from.
        baseline = self._baseline if self._baseline is not None else mean
        advantages = [0.0 if reward is None or baseline is None else reward - baseline for reward in rewards]
        has_signal = max(map(abs, advantages)) > losses.SMALLEST_SPREAD
        rows = [
            each.row.having(is_learnt=has_signal and reward is not None, advantages=each.row.spread(advantage))
            for each, reward, advantage in zip(rollout.completions, rewards, advantages, strict=True)
        ]
        if mean is not None and baseline is not None:
            decay = self.config.rgpo.baseline_decay
            self._baseline = decay * baseline + (1 - decay) * mean
        return rows, {} if baseline is None else {"baseline": baseline}

    def loss_of(self, policy: nn.Module, batch: RlBatch) -> LossOutput:
        output = policy(batch.ids_BT, batch.labels_BT, per_token=True, temperature=self.config.rollout.temperature)
        loss_BT = -batch.tokens["advantages"] * output.logps
        metrics = {}
        if self.beta:
            kl_BT = losses.kl_k3(output.logps, batch.tokens["reference_logps"])
            loss_BT = loss_BT + self.beta * kl_BT
            metrics["kl"] = batch.weighted(kl_BT.detach())
        return LossOutput(batch.weighted(loss_BT), metrics)

    def own_state(self) -> dict[str, Any]:
        return {"baseline": self._baseline}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        self._baseline = state["baseline"]


def _mean(numbers: list[float]) -> float | None:
    return math.fsum(numbers) / len(numbers) if numbers else None


def open_rgpo(config: RunConfig, world: World, console: Console) -> RgpoStage:
    """The stage with its prompts and functions; every rank calls this. Raises TrainerError."""
    size, step = config.rollout.completions, config.train.global_batch_size
    if size not in (None, step):
        message = f"is {size}, and rgpo takes one step per rollout: train.global_batch_size is {step}"
        raise ConfigError([Problem("training configuration", "rollout.completions", message)])
    return ready(RgpoStage(open_parts(config, world, console)))
