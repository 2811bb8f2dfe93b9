"""The policy a run begins with: the network, its first weights, adapters, and what its stage puts beside it."""

from __future__ import annotations

from typing import Any

import torch

from trainer.checkpoints.adapters import base_sha256
from trainer.config import RunConfig
from trainer.loop.distributed import World
from trainer.models.build import build_model
from trainer.models.init_from import initial_weights
from trainer.models.language_model import LanguageModel
from trainer.stages.base import Extending, Stage


def policy_to_begin_with(config: RunConfig, stage: Stage[Any], world: World, *, resumes: bool) -> LanguageModel:
    """On the CPU, but for a base in 4 bits. What a checkpoint will bring is not read where the run `resumes`; a frozen
    base always is.

    Every rank calls this. Draws from torch's global generator. Raises CheckpointError and EngineError.
    """
    if config.lora.rank:
        model = _adapted(config, stage, world)
    else:
        model = build_model(config.model)
        if config.model.init_from and not resumes:
            model.load_state_dict(world.on_all(lambda: initial_weights(config.model, stage.tokenizer.identity)))
    if isinstance(stage, Extending):
        stage.extend(model)
    return model


def _adapted(config: RunConfig, stage: Stage[Any], world: World) -> LanguageModel:
    # Late: with PEFT, for those who adapt.
    from trainer.models.lora import add_lora
    from trainer.models.quantized import base_model

    weights = world.on_all(lambda: initial_weights(config.model, stage.tokenizer.identity))
    is_quantized = config.lora.quantize != "none"
    model = base_model(config, weights, world.device if is_quantized else torch.device("cpu"))
    add_lora(model, config.lora, config.model.init_from, base_sha256(weights))
    return model
