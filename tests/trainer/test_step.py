"""One optimizer step: what is skipped, what is read ahead, and what a loss scaler does."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.trainer.ragged import RaggedBatch, RaggedStage
from tests.trainer.tiny import largest_difference, tiny_config
from trainer.config import OptimConfig
from trainer.loop.distributed import opened_world
from trainer.loop.optim import make_optimizer
from trainer.loop.step import Stepper
from trainer.loop.supply import Supply
from trainer.models.model import GPT
from trainer.stages import LossOutput


class Counting(RaggedStage):
    """Notes every batch that is taken from it."""

    def __init__(self, *, samples_from_policy: bool = False) -> None:
        super().__init__(2)
        self.samples_from_policy = samples_from_policy
        self.taken = 0

    def batches(self, policy: nn.Module) -> Iterator[RaggedBatch]:
        for batch in super().batches(policy):
            self.taken += 1
            yield batch


def test_the_next_steps_batches_are_taken_while_this_one_is_at_work() -> None:
    stage = Counting()
    supply = Supply(stage, nn.Identity(), 4)
    first = supply.take()
    supply.look_ahead()
    assert stage.taken == 8
    assert supply.state == {"next": 8}  # where a run goes on that ends now
    second = supply.take()
    assert stage.taken == 8
    assert supply.state == {"next": 16}
    plain = list(itertools.islice(RaggedStage(2).batches(nn.Identity()), 8))
    for ours, theirs in zip([*first, *second], plain, strict=True):
        assert torch.equal(ours.ids_BT, theirs.ids_BT)


def test_a_stage_that_samples_from_its_policy_is_asked_only_when_the_policy_is_up_to_date() -> None:
    stage = Counting(samples_from_policy=True)
    supply = Supply(stage, nn.Identity(), 4)
    supply.take()
    supply.look_ahead()
    assert stage.taken == 4
    assert supply.state == {"next": 8}


@pytest.mark.parametrize("grad_clip", [0.0, 1.0])
def test_the_batches_are_read_before_the_result_is_waited_for(tmp_path: Path, grad_clip: float) -> None:
    config = tiny_config(tmp_path, "model.dropout=0")
    model, stage = GPT(config.model), RaggedStage(8)
    seen: list[bool] = []
    with opened_world(config.train) as world:
        stepper = Stepper(model, make_optimizer(model, OptimConfig()), stage, world, grad_clip)
        batch = [next(stage.batches(model))]
        gradients = stepper.accumulate(batch, meanwhile=lambda: seen.append(model.final_norm.weight.grad is not None))
    assert seen == [True]
    assert gradients.is_finite
    assert not gradients.attention_asked


def test_a_skipped_step_leaves_no_gradient_behind(tmp_path: Path) -> None:
    class NotANumber(RaggedStage):
        def loss(self, policy: nn.Module, batch: RaggedBatch) -> LossOutput:
            return LossOutput(super().loss(policy, batch).loss_sum * float("inf"))

    config = tiny_config(tmp_path)
    model, stage = GPT(config.model), NotANumber(8)
    with opened_world(config.train) as world:
        stepper = Stepper(model, make_optimizer(model, OptimConfig()), stage, world, 1.0)
        gradients = stepper.accumulate([next(stage.batches(model))], attention=True)
        assert not gradients.is_finite
        assert gradients.attention_asked
        stepper.skip()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_loss_that_is_not_finite_lowers_the_loss_scale_too(tmp_path: Path) -> None:
    class NotANumber(RaggedStage):
        def loss(self, policy: nn.Module, batch: RaggedBatch) -> LossOutput:
            return LossOutput(super().loss(policy, batch).loss_sum * float("nan"))

    config = tiny_config(tmp_path)
    model, stage = GPT(config.model), NotANumber(8)
    with opened_world(config.train) as world:
        stepper = Stepper(model, make_optimizer(model, OptimConfig()), stage, world, 1.0)
        stepper.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        for scale in (2.0**9, 2.0**8):
            assert not stepper.accumulate([next(stage.batches(model))]).is_finite
            stepper.skip()
            assert stepper.scaler.get_scale() == scale


def test_a_loss_scale_that_overflows_skips_the_step_and_is_halved(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, "model.dropout=0")
    model, stage = GPT(config.model), RaggedStage(8)
    optimizer = make_optimizer(model, OptimConfig())
    with opened_world(config.train) as world:
        stepper = Stepper(model, optimizer, stage, world, 1.0)
        # What a GPU without bf16 gets, on a CPU: only the scale is tried here, not the format.
        stepper.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        batch = [next(stage.batches(model))]
        gradients = stepper.accumulate(batch)
        assert not math.isfinite(gradients.grad_norm)
        assert gradients.is_finite  # the scaler skips by itself
        stepper.apply(1e-3)
        assert largest_difference(before, model.state_dict()) == 0
        assert stepper.scaler.get_scale() == 2.0**126
        stepper.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        gradients = stepper.accumulate(batch)
        stepper.apply(1e-3)
        assert largest_difference(before, model.state_dict()) > 0
