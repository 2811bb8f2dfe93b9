"""Proximal policy optimisation: a value head says what to expect, and each token is worth what came better.

The reward of a completion is given at its last token; each token is charged beta times its log-ratio to the reference.
Generalised advantage estimation spreads both back. A rollout serves several passes of minibatches, while the clip, and
where asked for a bound on the KL to the sampling policy, keep the policy near. Log-probabilities and values come from
one forward.
"""

# T = sampled tokens of a completion

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainer.config import RunConfig
from trainer.console import Console
from trainer.loop.distributed import World
from trainer.models.language_model import LanguageModel
from trainer.models.value_head import add_value_head
from trainer.rollouts.rows import Floats, RolloutRow
from trainer.stages import rl_losses as losses
from trainer.stages.base import LossOutput
from trainer.stages.rl_batch import RlBatch, policy_metrics
from trainer.stages.rl_collect import Collected, Rollout
from trainer.stages.rl_parts import RlParts, open_parts
from trainer.stages.rl_stage import RolloutStage, ready


class PpoStage(RolloutStage):
    """PPO with a value head."""

    name = "ppo"

    def __init__(self, parts: RlParts) -> None:
        super().__init__(parts)
        settings = self.config.ppo
        self.epochs, self.beta = settings.epochs, settings.beta
        parts.collector.rescores = True  # values are needed, and come with log-probabilities
        self._current_beta = settings.beta
        self._moved: tuple[float, float] = (0.0, 0.0)
        """KL to the sampling policy and tokens, summed over all ranks since the last step began."""

    def extend(self, policy: LanguageModel) -> None:
        """Give it a value head."""
        add_value_head(policy)

    def learnt(self, rollout: Rollout) -> tuple[list[RolloutRow], dict[str, float]]:
        rewards = [each.score.total for each in rollout.completions]
        known = [reward for reward in rewards if reward is not None]
        differ = bool(known) and max(known) - min(known) > losses.SMALLEST_SPREAD
        rows = [
            self._row(each, reward, is_learnt=reward is not None and (differ or self.beta > 0))
            for each, reward in zip(rollout.completions, rewards, strict=True)
        ]
        stats = {"explained_variance": _explained_variance(rows)}
        if self.beta:
            kl = math.fsum(float(_sampled(row, "old_logps", "reference_logps").sum()) for row in rows) / len(rows)
            stats |= {"kl": kl, "beta": self._current_beta}
            if self.config.ppo.kl == "adaptive":
                target, horizon = self.config.ppo.kl_target, self.config.ppo.kl_horizon
                self._current_beta = losses.adapted_beta(self._current_beta, kl, target, len(rows), horizon)
        self._moved = (0.0, 0.0)
        return (_whitened(rows) if self.config.ppo.whiten else rows), stats

    def loss_of(self, policy: nn.Module, batch: RlBatch) -> LossOutput:
        settings = self.config.ppo
        output = policy(batch.ids_BT, batch.labels_BT, per_token=True, temperature=self.config.rollout.temperature)
        old_BT, advantages_BT = batch.tokens["old_logps"], batch.tokens["advantages"]
        clip = (settings.clip_eps, settings.clip_eps)
        policy_BT = losses.clipped_surrogate(output.logps, old_BT, advantages_BT, *clip)
        old_values_BT, returns_BT = batch.tokens["values"], batch.tokens["returns"]
        values_BT = losses.value_loss(output.values, old_values_BT, returns_BT, settings.value_clip)
        logps_BT = output.logps.detach()
        metrics = policy_metrics(batch, logps_BT, old_BT)
        metrics["clipped"] = batch.weighted(losses.is_clipped(logps_BT, old_BT, advantages_BT, *clip))
        metrics["value_loss"] = batch.weighted(values_BT.detach())
        if settings.stop_kl is not None and torch.is_grad_enabled():
            self._note_moved(metrics["moved_kl"], batch)
        return LossOutput(batch.weighted(policy_BT + settings.value_weight * values_BT), metrics)

    def is_left_early(self) -> bool:
        kl, tokens = self._moved
        self._moved = (0.0, 0.0)
        limit = self.config.ppo.stop_kl
        return limit is not None and tokens > 0 and kl / tokens > limit

    def own_state(self) -> dict[str, Any]:
        return {"beta": self._current_beta, "moved": list(self._moved)}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        self._current_beta = state["beta"]
        kl, tokens = state["moved"]
        self._moved = (kl, tokens)

    def _note_moved(self, kl_sum: Tensor, batch: RlBatch) -> None:
        """Every rank has as many micro-batches, so all come by here together."""
        kl, tokens = self._parts.world.totals([float(kl_sum), float(batch.num_units)])
        self._moved = (self._moved[0] + kl, self._moved[1] + tokens)

    def _row(self, each: Collected, reward: float | None, *, is_learnt: bool) -> RolloutRow:
        """With `advantages` and `returns` at the tokens that were sampled; what stands between them is skipped."""
        places = np.flatnonzero(each.row.is_sampled[1:])
        rewards_T = torch.zeros(len(places))
        if self.beta:
            rewards_T -= self._current_beta * torch.from_numpy(_sampled(each.row, "old_logps", "reference_logps"))
        rewards_T[-1] += reward or 0.0
        values_T = torch.from_numpy(each.row.tokens["values"][places])
        found = losses.gae(rewards_T, values_T, self.config.ppo.gamma, self.config.ppo.gae_lambda)
        advantages, returns = (_placed(each.row, places, part) for part in found)
        return each.row.having(is_learnt=is_learnt, advantages=advantages, returns=returns)


def _sampled(row: RolloutRow, name: str, less: str) -> Floats:
    """The difference of two numbers at the tokens that were sampled."""
    difference: Floats = (row.tokens[name] - row.tokens[less])[row.is_sampled[1:]]
    return difference


def _placed(row: RolloutRow, places: np.ndarray[Any, Any], numbers_T: Tensor) -> Floats:
    placed: Floats = np.zeros(len(row.ids) - 1, dtype=np.float32)
    placed[places] = numbers_T.numpy()
    return placed


def _whitened(rows: list[RolloutRow]) -> list[RolloutRow]:
    """Their advantages with mean 0 and variance 1 over the tokens that are learnt."""
    masks = [row.is_sampled[1:] & row.is_learnt for row in rows]
    numbers = np.concatenate([row.tokens["advantages"][mask] for row, mask in zip(rows, masks, strict=True)])
    if len(numbers) < 2:
        return rows
    white = np.split(
        losses.whitened(torch.from_numpy(numbers).double()).float().numpy(), np.cumsum([mask.sum() for mask in masks])
    )
    found = []
    for row, mask, part in zip(rows, masks, white, strict=False):
        placed = np.zeros(len(row.ids) - 1, dtype=np.float32)
        placed[mask] = part
        found.append(row.having(is_learnt=row.is_learnt, advantages=placed))
    return found


def _explained_variance(rows: list[RolloutRow]) -> float:
    """Share of the returns' variance that the values knew of; 0 where they are no better than a constant."""
    values, returns = (
        np.concatenate([row.tokens[name][row.is_sampled[1:]] for row in rows]) for name in ("values", "returns")
    )
    spread = float(returns.var())
    return 1.0 - float((returns - values).var()) / spread if spread > 0 else 0.0


def open_ppo(config: RunConfig, world: World, console: Console) -> PpoStage:
    """The stage with its prompts and functions; every rank calls this. Raises TrainerError."""
    return ready(PpoStage(open_parts(config, world, console)))
