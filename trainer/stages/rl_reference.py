"""The frozen policy that KL terms compare with: where the policy began, `model.init_from`.

With adapters it is in memory already: the policy with its adapters off. No second model is then held.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from torch import nn

from trainer.config import RunConfig
from trainer.config.problems import ConfigError, Problem
from trainer.loop.distributed import World
from trainer.models.build import build_model
from trainer.models.init_from import initial_weights
from trainer.tokenizer import Tokenizer

Reference = Callable[[nn.Module], AbstractContextManager[nn.Module]]
"""Given the bare policy, the model to compare with, for as long as the context lasts."""


def open_reference(config: RunConfig, stage: str, tokenizer: Tokenizer, world: World) -> Reference:
    """In evaluation mode, without gradients. Every rank calls this. Raises ConfigError and CheckpointError."""
    if not config.model.init_from:
        key = f"{stage}.beta"
        raise ConfigError(
            [Problem("training configuration", key, "is not 0, and the reference is where a policy begins")],
            hint=f"model.init_from=RUN_OR_CHECKPOINT, or {key}=0",
        )
    if config.lora.rank:
        from trainer.models.lora import without_adapters  # late: with PEFT, for those who adapt

        return without_adapters
    weights = world.on_all(lambda: initial_weights(config.model, tokenizer.identity))
    model = build_model(config.model)
    model.load_state_dict(weights)
    frozen = model.to(world.device).eval().requires_grad_(False)
    return lambda policy: nullcontext(frozen)
