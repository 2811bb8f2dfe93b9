"""The frozen policy that KL terms compare with: where the policy began, `model.init_from`."""

from __future__ import annotations

from torch import nn

from trainer.config import RunConfig
from trainer.config.problems import ConfigError, Problem
from trainer.loop.distributed import World
from trainer.models.build import build_model
from trainer.models.init_from import initial_weights
from trainer.tokenizer import Tokenizer


def open_reference(config: RunConfig, stage: str, tokenizer: Tokenizer, world: World) -> nn.Module:
    """In evaluation mode, without gradients. Every rank calls this. Raises ConfigError and CheckpointError."""
    if not config.model.init_from:
        key = f"{stage}.beta"
        raise ConfigError(
            [Problem("training configuration", key, "is not 0, and the reference is where a policy begins")],
            hint=f"model.init_from=RUN_OR_CHECKPOINT, or {key}=0",
        )
    weights = world.on_all(lambda: initial_weights(config.model, tokenizer.identity))
    model = build_model(config.model)
    model.load_state_dict(weights)
    return model.to(world.device).eval().requires_grad_(False)
