"""Losses over pairs of answers: pure functions of log-probabilities, a value a pair.

| name | from |
|---|---|
| sigmoid | Rafailov et al. 2023, DPO, equation 7; with `label_smoothing` it is Mitchell's conservative DPO |
| hinge | Zhao et al. 2023, SLiC-HF |
| ipo | Azar et al. 2023, IPO, equation 17; on sums of token log-probabilities or on their means, which differ much |
| odds ratio | Hong et al. 2024, ORPO, equations 6 and 7 |
"""

# P = pairs

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

_ROUNDING = 1e-6
"""Of a sum of log-probabilities in fp32, by its size: the same rows in other batches were seen to differ by 1e-7."""

PreferenceLoss = Literal["sigmoid", "hinge", "ipo_sum", "ipo_mean"]


def log_ratio_margin(
    chosen_P: Tensor, rejected_P: Tensor, reference_chosen_P: Tensor, reference_rejected_P: Tensor
) -> Tensor:
    """How much more the policy prefers the chosen answer than the reference does: (πw − πl) − (rw − rl)."""
    return (chosen_P - rejected_P) - (reference_chosen_P - reference_rejected_P)


def is_preferred(margin_P: Tensor, *parts_P: Tensor) -> Tensor:
    """1 where the margin of these parts is positive, 0 where it is negative, 0.5 where it is what rounding left: a
    policy that is the reference prefers nothing."""
    rounding_P = _ROUNDING * torch.stack(parts_P).abs().sum(0)
    return 0.5 * (1 + torch.where(margin_P.abs() > rounding_P, margin_P.sign(), 0.0))


def dpo_sigmoid(margin_P: Tensor, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """−(1 − ε) log σ(β·margin) − ε log σ(−β·margin). `label_smoothing` ε is the share of labels taken to be wrong."""
    scaled_P = beta * margin_P
    return -(1 - label_smoothing) * F.logsigmoid(scaled_P) - label_smoothing * F.logsigmoid(-scaled_P)


def dpo_hinge(margin_P: Tensor, beta: float) -> Tensor:
    """max(0, 1 − β·margin)"""
    return F.relu(1 - beta * margin_P)


def ipo(margin_P: Tensor, beta: float) -> Tensor:
    """(margin − 1/(2β))². The margin is of sums, or of means over each answer's tokens."""
    return (margin_P - 1 / (2 * beta)) ** 2


def log_odds_ratio(chosen_mean_P: Tensor, rejected_mean_P: Tensor) -> Tensor:
    """log of odds(chosen) / odds(rejected), with odds(p) = p / (1 − p) and p the mean token probability's exponent."""
    odds_chosen_P = chosen_mean_P - torch.log1p(-torch.exp(chosen_mean_P))
    odds_rejected_P = rejected_mean_P - torch.log1p(-torch.exp(rejected_mean_P))
    return odds_chosen_P - odds_rejected_P


def orpo(chosen_mean_P: Tensor, rejected_mean_P: Tensor, beta: float) -> Tensor:
    """−mean log p(chosen) − β log σ(log odds ratio): the SFT term and the odds-ratio term of a pair."""
    return -chosen_mean_P - beta * F.logsigmoid(log_odds_ratio(chosen_mean_P, rejected_mean_P))
