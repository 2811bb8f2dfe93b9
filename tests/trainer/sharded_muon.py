"""Muon whose matrices are spread over ranks beside one that has them whole: both are given the same gradients."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from trainer.config import ModelConfig, OptimConfig, TrainConfig
from trainer.loop.distributed import World
from trainer.loop.optim import make_optimizer, set_lr
from trainer.loop.wrapping import wrapped
from trainer.models.build import build_model

MUON = OptimConfig(kind="muon", lr=3e-3, matrix_lr=0.02, matrix_weight_decay=0.1, head_lr=1e-3)
STEPS = 4
_LR = 2e-3


def difference(world: World) -> float:
    """The largest one between weights, and between what the optimizers keep, after STEPS on this rank."""
    torch.manual_seed(0)
    # 33 and 53 rows cannot be halved: the ranks hold unequal parts, and `qkv` is cut where no part ends.
    whole = build_model(ModelConfig(d_model=33, n_layers=2, n_heads=3, max_seq_len=16, vocab_size=53))
    sharded = wrapped(copy.deepcopy(whole), world, TrainConfig(parallel="fsdp"))
    optimizers = [make_optimizer(model, MUON) for model in (whole, sharded)]
    pairs = list(zip(whole.parameters(), sharded.parameters(), strict=True))
    assert all(isinstance(part, DTensor) for _, part in pairs)
    for step in range(STEPS):
        for parameter, part in pairs:
            parameter.grad = torch.sin(3 * parameter.detach() + step)
            part.grad = _spread(parameter.grad, part)
        for optimizer in optimizers:
            set_lr(optimizer, _LR)
            optimizer.step()
    kept = [
        (optimizers[0].state[parameter][name], optimizers[1].state[part][name])
        for parameter, part in pairs
        for name in optimizers[0].state[parameter]
    ]
    return max(float((one - _whole(other)).abs().max()) for one, other in [*pairs, *kept])


def _spread(gradient: Tensor, like: nn.Parameter) -> Tensor:
    assert isinstance(like, DTensor)
    return distribute_tensor(gradient, like.device_mesh, like.placements)


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
