"""One optimizer step: gradients of a global sum divided once, clipped, applied.

Over R ranks DDP leaves the mean of their gradients; each rank's loss is therefore R times its sum over the units of
*all* ranks and micro-batches. That is exact however ragged the batches are. It knows nothing of logging, of
checkpoints, or of what the loss means.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trainer.checkpoints.snapshot import whole
from trainer.errors import EngineError
from trainer.loop.crew import lost_peers_named
from trainer.loop.distributed import World
from trainer.loop.optim import set_lr
from trainer.loop.wrapping import no_reduction
from trainer.stages.base import Batch, Stage

_SMALLEST_SCALE = 2.0**-14


@dataclass(frozen=True)
class Gradients:
    """What all micro-batches of a step amount to, the same on every rank. The gradients themselves are in place."""

    loss: float
    """Mean over the units of all ranks."""
    grad_norm: float
    """Before clipping."""
    tokens: int
    metrics: dict[str, float]
    """The stage's own, each a mean over the units."""
    is_finite: bool
    """On every rank, so that a step with them leaves the weights finite. A scaler skips by itself what overflows."""
    attention_asked: bool
    """On some rank: by a signal, or by a checkpoint that could not be written."""


class Stepper:
    """Takes optimizer steps with one policy."""

    def __init__(
        self, policy: nn.Module, optimizer: torch.optim.Optimizer, stage: Stage[Any], world: World, grad_clip: float
    ) -> None:
        self._policy, self._optimizer, self._stage, self._world = policy, optimizer, stage, world
        self._grad_clip = grad_clip
        self._parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        # An fp16 gradient below 6e-8 would be zero; the scaler finds the largest factor that does not overflow.
        self.scaler = torch.amp.GradScaler(world.device.type) if world.precision == "fp16" else None

    def rehearse(self) -> None:
        """One backward for nothing, after which DDP has its final buckets.

        It lays them out anew after its first backward, and with more than two ranks the layout decides in which order
        a gradient's parts are added. Without this, the first step after a resume would round differently. What it
        draws from generators is for the caller to take back.
        """
        state = self._stage.state_dict()
        with _named_failures():
            self._backward(next(self._stage.batches(self._policy)), 1.0, {})
        self._stage.load_state_dict(state)
        self._optimizer.zero_grad(set_to_none=True)

    def accumulate(
        self, batches: Sequence[Batch], *, attention: bool = False, meanwhile: Callable[[], None] = lambda: None
    ) -> Gradients:
        """Run every micro-batch of one step forward and backward, and do `meanwhile` while a GPU is at it.

        Whether somebody asks for attention is this rank's to say, and is agreed on.
        """
        with _named_failures():
            units, tokens = self._world.totals([sum(b.num_units for b in batches), sum(b.num_tokens for b in batches)])
            assert units > 0, "a step without anything to learn from"
            sums = self._backward_all(batches, self._world.num_processes / units)
            norm = self._clip()
            meanwhile()
            # The only wait for the GPU in a step.
            values = torch.stack([norm.double(), *sums.values()]).tolist()
            broken = not math.isfinite(values[1]) or (self.scaler is None and not math.isfinite(values[0]))
            *totals, broken_ranks, asking_ranks = self._world.totals([*values[1:], float(broken), float(attention)])
        means = {name: total / units for name, total in zip(sums, totals, strict=True)}
        return Gradients(
            loss=means.pop("loss"),
            grad_norm=values[0],
            tokens=round(tokens),
            metrics=means,
            is_finite=broken_ranks == 0,
            attention_asked=asking_ranks > 0,
        )

    def skip(self) -> None:
        """Drop the gradients; a scaler learns from them that its scale is too high."""
        if self.scaler is not None:
            self.scaler.update()
        self._optimizer.zero_grad(set_to_none=True)

    def apply(self, lr: float) -> None:
        """Update the parameters. With a scaler, gradients that overflowed only lower the scale."""
        set_lr(self._optimizer, lr)
        with _named_failures():
            if self.scaler is None:
                self._optimizer.step()
            else:
                self._apply_scaled(self.scaler)
        self._optimizer.zero_grad(set_to_none=True)

    def _backward_all(self, batches: Sequence[Batch], factor: float) -> dict[str, Tensor]:
        """Add up the gradients; they are reduced over the ranks once, by the last micro-batch."""
        sums: dict[str, Tensor] = {}
        with no_reduction(self._policy, self._world):
            for batch in batches[:-1]:
                self._backward(batch, factor, sums)
        self._backward(batches[-1], factor, sums)
        return sums

    def _backward(self, batch: Batch, factor: float, sums: dict[str, Tensor]) -> None:
        output = self._stage.loss(self._policy, batch)
        loss = output.loss_sum * factor
        torch.autograd.backward(self.scaler.scale(loss) if self.scaler else loss)
        for name, value in {"loss": output.loss_sum, **output.metrics}.items():
            added = value.detach().double()
            sums[name] = sums[name] + added if name in sums else added

    def _clip(self) -> Tensor:
        if self.scaler is not None:
            self.scaler.unscale_(self._optimizer)
        if self._grad_clip == 0:
            norm = torch.nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None])
        else:
            norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._grad_clip)
        return whole(norm)

    def _apply_scaled(self, scaler: torch.amp.GradScaler) -> None:
        scaler.step(self._optimizer)
        scaler.update()
        if scaler.get_scale() < _SMALLEST_SCALE:
            raise EngineError(
                "the gradients overflow fp16 whatever they are scaled by",
                why=f"the loss scale fell to {scaler.get_scale():g}",
                hint="train in another format: `train.precision=fp32`, or with a lower `optim.lr`",
            )


@contextmanager
def _named_failures() -> Iterator[None]:
    """What a machine or another rank does to us, as an EngineError."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise EngineError(
            "the GPU has too little memory for this micro-batch",
            why=str(error).split(". ")[0],
            hint="halve it, the global batch stays the same: `train.micro_batch_size=...`",
        ) from error
    except RuntimeError as error:
        if "DefaultCPUAllocator" in str(error):
            raise EngineError(
                "this machine has too little memory for this micro-batch",
                why=str(error).splitlines()[0],
                hint="halve it, the global batch stays the same: `train.micro_batch_size=...`",
            ) from error
        with lost_peers_named():
            raise
