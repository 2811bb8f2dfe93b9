"""A scalar head on a policy, one number a token: what PPO expects of the rest, or what a reward model says so far.

It reads the policy's last hidden state, so that log-probabilities and values come from one forward. Its weights are
saved with the policy's, under names that whoever has no use for them leaves out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.models.language_model import LanguageModel


class ValueHead(nn.Module):
    """A line through the hidden state; it begins at 0 everywhere, so that no first value misleads."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, d_model))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        return nn.functional.linear(hidden_BTD, self.weight, self.bias)


def add_value_head(policy: LanguageModel) -> None:
    """Give the policy a value head, on its device."""
    weight = next(policy.parameters())
    policy.value_head = ValueHead(policy.config.d_model).to(weight.device)
