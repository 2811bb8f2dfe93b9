"""AdamW as GPT-2 is trained with it: decay on matrices, none on biases and norms.

It draws no random numbers and holds no schedule: the engine sets `lr` in every
group before each step (trainer.schedule says which).
"""

from __future__ import annotations

import torch
from torch import nn

from trainer.config.training import OptimConfig


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over the parameters that learn: group 0 is decayed (two dimensions or more), group 1 is not."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    # One pass over memory instead of one for each of its ten or so operations.
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=True)
