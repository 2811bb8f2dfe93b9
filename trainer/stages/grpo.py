"""Group relative policy optimisation: several completions of a prompt, each worth what it is better than the others.

Groups whose rewards are all equal say nothing; they are left out of the loss, and their share is reported. Where a
rollout serves one step the policy is the one that sampled, and the ratio is exactly 1.
"""

# P = prompts, G = completions of a prompt

from __future__ import annotations

import math

import torch
from torch import nn

from trainer.config import RunConfig
from trainer.console import Console
from trainer.loop.distributed import World
from trainer.models.branched import label_logps
from trainer.rollouts.rows import RolloutRow
from trainer.stages import rl_losses as losses
from trainer.stages.base import LossOutput
from trainer.stages.rl_batch import RlBatch, policy_metrics
from trainer.stages.rl_collect import Rollout
from trainer.stages.rl_parts import RlParts, open_parts
from trainer.stages.rl_stage import RolloutStage, ready


class GrpoStage(RolloutStage):
    """GRPO with the normalisations of DAPO, GRPO and Dr. GRPO."""

    name = "grpo"

    def __init__(self, parts: RlParts) -> None:
        super().__init__(parts)
        settings = self.config.grpo
        self.group_size, self.epochs, self.beta = settings.group_size, settings.epochs, settings.beta
        self.unit = "token" if settings.loss == "dapo" else "completion"

    def learnt(self, rollout: Rollout) -> tuple[list[RolloutRow], dict[str, float]]:
        rewards = [math.nan if each.score.total is None else each.score.total for each in rollout.completions]
        rewards_PG = torch.tensor(rewards, dtype=torch.float64).view(-1, self.group_size)
        advantages = losses.group_advantages(rewards_PG, by_std=self.config.grpo.advantage == "std").flatten().tolist()
        signal_P = losses.has_signal(rewards_PG)
        has_signal = signal_P.repeat_interleave(self.group_size).tolist()
        rows = [
            each.row.having(is_learnt=signal and not math.isnan(reward), advantages=each.row.spread(advantage))
            for each, advantage, reward, signal in zip(
                rollout.completions, advantages, rewards, has_signal, strict=True
            )
        ]
        return rows, {"groups_without_signal": 1 - float(signal_P.double().mean())}

    def loss_of(self, policy: nn.Module, batch: RlBatch) -> LossOutput:
        settings = self.config.grpo
        given = (batch.ids_BT, batch.labels_BT, batch.branched, self.config.rollout.temperature)
        logps_BT, advantages_BT = label_logps(policy, *given), batch.tokens["advantages"]
        old_BT = batch.tokens.get("old_logps", logps_BT.detach())
        clip = (settings.clip_low, settings.clip_high)
        loss_BT = losses.clipped_surrogate(logps_BT, old_BT, advantages_BT, *clip)
        metrics = policy_metrics(batch, logps_BT.detach(), old_BT)
        metrics["clipped"] = batch.weighted(losses.is_clipped(logps_BT.detach(), old_BT, advantages_BT, *clip))
        if self.beta:
            kl_BT = losses.kl_k3(logps_BT, batch.tokens["reference_logps"])
            loss_BT = loss_BT + self.beta * kl_BT
            metrics["kl"] = batch.weighted(kl_BT.detach())
        if settings.loss == "dr_grpo":  # sums over the longest length there may be, not over each completion's own
            sampled_B1 = (batch.labels_BT >= 0).sum(-1, keepdim=True)
            loss_BT = loss_BT * sampled_B1 / self.config.rollout.max_tokens
        return LossOutput(batch.weighted(loss_BT), metrics)


def open_grpo(config: RunConfig, world: World, console: Console) -> GrpoStage:
    """The stage with its prompts and functions; every rank calls this. Raises TrainerError."""
    return ready(GrpoStage(open_parts(config, world, console)))
