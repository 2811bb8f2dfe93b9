"""The loss on the validation batches, and whether it still falls."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from trainer.checkpoints.checkpoint import TrainState
from trainer.loop.distributed import World
from trainer.loop.signals import StopRequest
from trainer.loop.wrapping import is_sharded, rest
from trainer.stages.base import Stage


class Validation:
    """The evaluations of one run. Every rank sees the same numbers."""

    def __init__(self, stage: Stage[Any], policy: nn.Module, world: World, patience: int) -> None:
        self._stage, self._policy, self._world, self._patience = stage, policy, world, patience
        self.loss: float | None = None
        """Of the weights as they are; None where they were not evaluated."""
        self.metrics: dict[str, float] = {}
        """The stage's own, each a mean over the units."""
        self.lowest: float | None = None
        self.since_lowest = 0
        """Evaluations in a row that were no lower."""

    def resume_from(self, state: TrainState) -> None:
        """Go on from there."""
        self.loss, self.lowest, self.since_lowest = (
            state.val_loss,
            state.lowest_val_loss,
            state.evaluations_since_lowest,
        )

    @property
    def exhausted(self) -> bool:
        """Whether the run should end early."""
        return 0 < self._patience <= self.since_lowest

    @property
    def verdict(self) -> str:
        """Why the run should end early, or ""."""
        if not self.exhausted:
            return ""
        below = f"below {self.lowest:.4f}" if self.lowest is not None else "that is a number"
        return f"no validation loss {below} in {self.since_lowest} evaluations"

    def measure(self, stop: StopRequest) -> bool:
        """Set `loss`. True where a stop was asked for meanwhile: no loss then. Every rank calls this."""
        total, units = torch.zeros((), dtype=torch.float64, device=self._world.device), 0
        sums: dict[str, float] = {}
        self._policy.eval()
        with torch.no_grad():
            for batch in self._stage.validation_batches():
                # A rank without rows of its own still has to hand its part of the weights to the others.
                if batch.num_units or is_sharded(self._policy):
                    found = self._stage.loss(self._policy, batch)
                    total += found.loss_sum
                    for name, value in found.metrics.items():
                        sums[name] = sums.get(name, 0.0) + float(value)
                    units += batch.num_units
                if self._world.any(bool(stop.reason)):
                    break
        rest(self._policy)
        self._policy.train()
        loss, all_units, asked = self._world.totals([total.item(), units, float(bool(stop.reason))])
        if asked:
            return True
        # A rank that had no batch has no names either.
        parts = self._world.gather(sums)
        names = {name: None for part in parts for name in part}
        self.metrics = {name: sum(part.get(name, 0.0) for part in parts) / all_units for name in names}
        self._note(loss / all_units)
        return False

    def _note(self, loss: float) -> None:
        self.loss = loss
        if math.isfinite(loss) and (self.lowest is None or loss < self.lowest):
            self.lowest, self.since_lowest = loss, 0
        else:
            self.since_lowest += 1
