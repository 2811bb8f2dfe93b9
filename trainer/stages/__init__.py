"""The stages this version can run, by the names a user types."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trainer.config import RunConfig
from trainer.console import Console
from trainer.loop.distributed import World
from trainer.stages.base import Batch, LossOutput, Stage
from trainer.stages.dpo import open_dpo
from trainer.stages.grpo import open_grpo
from trainer.stages.orpo import open_orpo
from trainer.stages.ppo import open_ppo
from trainer.stages.pretrain import open_pretrain
from trainer.stages.reward import open_reward
from trainer.stages.rgpo import open_rgpo
from trainer.stages.sft import open_sft

__all__ = ["Batch", "LossOutput", "Stage", "open_stage"]

_STAGES: dict[str, Callable[[RunConfig, World, Console], Stage[Any]]] = {
    "pretrain": open_pretrain,
    "sft": open_sft,
    "dpo": open_dpo,
    "orpo": open_orpo,
    "reward": open_reward,
    "ppo": open_ppo,
    "grpo": open_grpo,
    "rgpo": open_rgpo,
}


def open_stage(name: str, config: RunConfig, world: World, console: Console) -> Stage[Any]:
    """The stage, its data made ready. Every rank calls this at the same time. Raises DataError."""
    return _STAGES[name](config, world, console)
