"""The optimizer of a configuration: AdamW as GPT-2 is trained with it, or Muon beside it for the hidden matrices.

It draws no random numbers and holds no schedule: before each step the engine says the learning rate with `set_lr`
(trainer.schedule knows which). Every group keeps its own peak as a ratio to `optim.lr`, so one schedule serves all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from trainer.config.training import OptimConfig
from trainer.loop.optim_muon import MuonWithAdamW

Group = dict[str, Any]


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """The optimizer over the parameters of `model` that learn."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if config.kind == "muon":
        return _muon(named, config)
    groups: list[Group] = [
        {"params": [p for _, p in named if p.dim() >= 2], "weight_decay": config.weight_decay, "lr_ratio": 1.0},
        {"params": [p for _, p in named if p.dim() < 2], "weight_decay": 0.0, "lr_ratio": 1.0},
    ]
    return _adamw(groups, config)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Put the learning rate of the next step in place; `lr` is that of the parameters whose peak is `optim.lr`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_ratio", 1.0)


def _adamw(groups: list[Group], config: OptimConfig) -> torch.optim.AdamW:
    # One pass over memory instead of one for each of its ten or so operations.
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=True)


def _muon(named: list[tuple[str, nn.Parameter]], config: OptimConfig) -> MuonWithAdamW:
    """Groups: embeddings, head, whatever else is no hidden matrix; then the matrices, queries to values apart."""
    lrs = {"embedding": config.embedding_lr or config.lr, "head": config.head_lr or config.lr, "other": config.lr}
    kinds = {name: _kind(name, parameter) for name, parameter in named}
    others: list[Group] = [
        {"params": [p for name, p in named if kinds[name] == kind], "weight_decay": 0.0, "lr_ratio": lr / config.lr}
        for kind, lr in lrs.items()
    ]
    matrices: list[Group] = [
        {
            "params": [p for name, p in named if kinds[name] == kind],
            "parts": parts,
            "weight_decay": config.matrix_weight_decay,
            "momentum": config.momentum,
            "ns_steps": config.ns_steps,
            "lr": config.matrix_lr,
            "lr_ratio": config.matrix_lr / config.lr,
        }
        for kind, parts in (("matrix", 1), ("qkv", 3))
    ]
    rest = list(_filled(others))
    return MuonWithAdamW(matrices=list(_filled(matrices)), adamw=_adamw(rest, config) if rest else None)


def _kind(name: str, parameter: nn.Parameter) -> str:
    """What Muon is for: the matrices of numbered layers. Embeddings and the head are tables, of one row per token."""
    parts = name.split(".")
    if parameter.dim() == 2 and any(part.isdigit() for part in parts):
        return "qkv" if parts[-2] == "qkv" else "matrix"
    if parts[-2:] in (["head", "weight"], ["lm_head", "weight"]):
        return "head"
    return "embedding" if parameter.dim() == 2 else "other"


def _filled(groups: list[Group]) -> Iterator[Group]:
    return (group for group in groups if group["params"])
