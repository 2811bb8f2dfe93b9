"""Rows of a rollout as one micro-batch, with the weight each token has in the sum; and prompts, to validate with."""

# B = rows, T = tokens

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from trainer.models.branched import BranchedRows
from trainer.rollouts.prompts import EncodedPrompt
from trainer.rollouts.rows import RolloutRow, padded_rows
from trainer.stages import rl_losses as losses

Unit = Literal["token", "completion"]
"""What the loss is a mean over: all sampled tokens alike, or completions, each by the mean of its tokens."""


@dataclass(frozen=True)
class RlBatch:
    """B completions."""

    ids_BT: Tensor
    labels_BT: Tensor
    tokens: Mapping[str, Tensor]
    weight_BT: Tensor
    """What each token's loss is multiplied by before it is summed; 0 where nothing is learnt."""
    num_units: int
    sample_ids: tuple[int, ...]
    branched: BranchedRows | None = None
    """The same, each prompt once, where that is less work."""

    @property
    def num_tokens(self) -> int:
        return self.ids_BT.numel() if self.branched is None else self.branched.ids_BS.numel()

    def weighted(self, numbers_BT: Tensor) -> Tensor:
        """The sum over the batch's units."""
        return (numbers_BT * self.weight_BT).sum()


@dataclass(frozen=True)
class PromptBatch:
    """Prompts to be answered and rewarded; nothing is learnt of them."""

    prompts: Sequence[EncodedPrompt]
    first: int
    """The place of the first one."""

    @property
    def num_units(self) -> int:
        return len(self.prompts)

    @property
    def num_tokens(self) -> int:
        return sum(len(prompt.ids) for prompt in self.prompts)


def rl_batch(rows: Sequence[RolloutRow], *, unit: Unit, is_dry: bool, pad_id: int, device: torch.device) -> RlBatch:
    """The rows; those without signal weigh nothing and are no units.

    `is_dry`: no row of the whole step has any, so that all are counted, with a loss of 0.
    """
    padded = padded_rows(rows, pad_id, device)
    counted = [row for row in rows if row.is_learnt or is_dry]
    weights = torch.tensor(
        [0.0 if not row.is_learnt else 1.0 if unit == "token" else 1.0 / max(1, row.num_sampled) for row in rows],
        device=device,
    )
    return RlBatch(
        padded.ids_BT,
        padded.labels_BT,
        padded.tokens,
        (padded.labels_BT >= 0) * weights[:, None],
        sum(row.num_sampled for row in counted) if unit == "token" else len(counted),
        tuple(row.sample for row in rows),
        padded.branched,
    )


def policy_metrics(batch: RlBatch, logps_BT: Tensor, old_BT: Tensor) -> dict[str, Tensor]:
    """How far the policy is from the one that sampled."""
    return {
        "ratio": batch.weighted((logps_BT - old_BT).exp()),
        "moved_kl": batch.weighted(losses.kl_k3(logps_BT, old_BT)),
    }
