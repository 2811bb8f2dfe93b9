"""The losses of reinforcement learning have their known values."""

from __future__ import annotations

import math

import pytest
import torch

from trainer.stages import rl_losses as losses


def values(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def test_advantages_of_a_group_have_trls_values() -> None:
    rewards = values(1, 0, 0, 1)[None]
    assert float(rewards.std()) == pytest.approx(0.577350, abs=1e-6)
    by_std = losses.group_advantages(rewards, by_std=True)[0]
    assert by_std.tolist() == pytest.approx([0.865875, -0.865875, -0.865875, 0.865875], abs=1e-6)
    assert losses.group_advantages(rewards, by_std=False)[0].tolist() == [0.5, -0.5, -0.5, 0.5]


def test_a_group_without_signal_has_none_even_after_rounding() -> None:
    rewards = torch.stack([values(0.1, 0.1, 0.1), values(0.1 + 0.2, 0.3, 0.3), values(0, 1, 0)])
    assert losses.has_signal(rewards).tolist() == [False, False, True]
    assert not losses.group_advantages(rewards, by_std=True)[:2].any()


def test_a_completion_without_a_reward_stays_out_of_its_group() -> None:
    nan = math.nan
    rewards = torch.stack([values(1, nan, 0), values(nan, nan, nan), values(nan, nan, 1)])
    found = losses.group_advantages(rewards, by_std=False)
    assert found[0].tolist() == [0.5, 0.0, -0.5]
    assert not found[1:].any()


def test_generalised_advantages_have_their_known_values() -> None:
    advantages, returns = losses.gae(values(0, 0, 1), values(0.5, 0.6, 0.7), 1.0, 0.95)
    assert advantages.tolist() == pytest.approx([0.465750, 0.385000, 0.300000])
    assert returns.tolist() == pytest.approx([0.965750, 0.985000, 1.0])


def test_both_estimators_of_kl_have_their_known_values() -> None:
    reference, policy = values(-0.3, 0.0, 0.2), values(0, 0, 0)
    assert losses.kl_k1(policy, reference).tolist() == pytest.approx([0.3, 0.0, -0.2])
    assert losses.kl_k3(policy, reference).tolist() == pytest.approx([0.0408182, 0.0, 0.0214028], abs=1e-7)


def test_the_surrogate_is_clipped_only_where_a_step_would_go_too_far() -> None:
    old = values(0, 0, 0, 0)
    logps = values(1.5, 1.5, 0.5, 0.5).log().requires_grad_()
    advantages = values(1, -1, 1, -1)
    found = losses.clipped_surrogate(logps, old, advantages, 0.2, 0.2)
    assert found.tolist() == pytest.approx([-1.2, 1.5, -0.5, 0.8])
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert logps.grad is not None
    assert (logps.grad == 0).tolist() == [True, False, False, True]
    assert losses.is_clipped(logps, old, advantages, 0.2, 0.2).tolist() == [1, 0, 0, 1]


def test_a_first_step_on_what_was_sampled_is_reinforce() -> None:
    logps, advantages = values(-1.0, -2.0).requires_grad_(), values(0.5, -0.25)
    losses.clipped_surrogate(logps, logps.detach(), advantages, 0.2, 0.2).sum().backward()  # type: ignore[no-untyped-call]
    assert logps.grad is not None
    assert torch.equal(logps.grad, -advantages)


def test_a_value_that_moved_too_far_the_wrong_way_is_still_corrected() -> None:
    found = losses.value_loss(values(1.0, 0.3), values(0.0, 0.0), values(2.0, 2.0), 0.2)
    assert found.tolist() == pytest.approx([0.5 * 1.8**2, 0.5 * 1.8**2])


def test_whitening_and_the_controller_do_what_their_papers_say() -> None:
    white = losses.whitened(values(1, 2, 3, 6))
    assert float(white.mean()) == pytest.approx(0, abs=1e-12)
    assert float(white.var(correction=0)) == pytest.approx(1, abs=1e-6)
    assert losses.adapted_beta(0.1, 12.0, 6.0, 100, 1000) == pytest.approx(0.1 * 1.02)
    assert losses.adapted_beta(0.1, 5.4, 6.0, 100, 1000) == pytest.approx(0.1 * 0.99)
