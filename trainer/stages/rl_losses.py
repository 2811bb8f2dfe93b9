"""Advantages and losses of reinforcement learning: pure functions of tensors, each with where it comes from.

Log-probabilities are under the sampling temperature, `logps` of the policy that learns, `old` of the one that sampled,
`reference` of the frozen one. Nothing here is divided by a number of tokens: whoever sums up says what a unit is.
"""

# B = rows, T = tokens, P = prompts, G = completions of a prompt

from __future__ import annotations

import torch
from torch import Tensor

_STD_EPS = 1e-4
"""As TRL has it beside the deviation."""
SMALLEST_SPREAD = 1e-6
"""Rewards that differ by less are equal: what rounding leaves must not become an advantage."""


def group_advantages(rewards_PG: Tensor, *, by_std: bool) -> Tensor:
    """(r - mean) / (std + 1e-4) within each group, the deviation unbiased (Shao et al. 2024); without it, r - mean
    (Liu et al. 2025). Rewards that are no number stay out of the group and have the advantage 0, as has a group
    without signal."""
    has_PG = ~rewards_PG.isnan()
    count_P1 = has_PG.sum(-1, keepdim=True)
    known_PG = rewards_PG.nan_to_num(0.0)
    mean_P1 = known_PG.sum(-1, keepdim=True) / count_P1.clamp(min=1)
    away_PG = (known_PG - mean_P1) * has_PG
    if by_std:
        variance_P1 = away_PG.square().sum(-1, keepdim=True) / (count_P1 - 1).clamp(min=1)
        away_PG = away_PG / (variance_P1.sqrt() + _STD_EPS)
    return away_PG * has_signal(rewards_PG)[:, None]


def has_signal(rewards_PG: Tensor) -> Tensor:
    """(P,): whether rewards within the group differ."""
    high_P = rewards_PG.nan_to_num(nan=-torch.inf).amax(-1)
    low_P = rewards_PG.nan_to_num(nan=torch.inf).amin(-1)
    return high_P - low_P > SMALLEST_SPREAD


def clipped_surrogate(logps: Tensor, old: Tensor, advantages: Tensor, low: float, high: float) -> Tensor:
    """-min(ratio A, clip(ratio, 1 - low, 1 + high) A), each token (Schulman et al. 2017, eq. 7)."""
    ratio = (logps - old).exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)


def is_clipped(logps: Tensor, old: Tensor, advantages: Tensor, low: float, high: float) -> Tensor:
    """1 where the clip ends the gradient of a token, else 0."""
    ratio = (logps - old).exp()
    return (((ratio > 1 + high) & (advantages > 0)) | ((ratio < 1 - low) & (advantages < 0))).float()


def kl_k1(logps: Tensor, reference: Tensor) -> Tensor:
    """log π - log π_ref: unbiased, of either sign (Schulman 2020)."""
    return logps - reference


def kl_k3(logps: Tensor, reference: Tensor) -> Tensor:
    """exp(log π_ref - log π) - (log π_ref - log π) - 1: unbiased, never negative (Schulman 2020)."""
    return torch.expm1(reference - logps) - (reference - logps)


def gae(rewards_T: Tensor, values_T: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Advantages and returns of one completion, whose end is worth 0 (Schulman et al. 2016, eq. 16)."""
    advantages_T = torch.zeros_like(rewards_T)
    later, next_value = rewards_T.new_zeros(()), rewards_T.new_zeros(())
    for t in reversed(range(len(rewards_T))):
        later = rewards_T[t] + gamma * next_value - values_T[t] + gamma * lam * later
        advantages_T[t], next_value = later, values_T[t]
    return advantages_T, advantages_T + values_T


def value_loss(values: Tensor, old: Tensor, returns: Tensor, clip: float) -> Tensor:
    """Half the larger square, of the value and of the value kept within `clip` of the old one, each token."""
    kept = old + (values - old).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns).square(), (kept - returns).square())


def whitened(numbers_N: Tensor) -> Tensor:
    """Mean 0 and variance 1."""
    return (numbers_N - numbers_N.mean()) * torch.rsqrt(numbers_N.var(correction=0) + 1e-8)


def adapted_beta(beta: float, kl: float, target: float, completions: int, horizon: int) -> float:
    """The KL coefficient after so many completions with this KL (Ziegler et al. 2019, section 2.2)."""
    error = min(max(kl / target - 1.0, -0.2), 0.2)
    return beta * (1.0 + error * completions / horizon)
