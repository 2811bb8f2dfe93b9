"""The network a configuration describes."""

from __future__ import annotations

from trainer.config.model import ModelConfig
from trainer.models.language_model import LanguageModel
from trainer.models.model import GPT
from trainer.models.modern import ModernGPT

NETWORKS: dict[str, type[LanguageModel]] = {"gpt2": GPT, "modern": ModernGPT}
"""Our own, by `model.arch`."""


def build_model(config: ModelConfig) -> LanguageModel:
    """The network with new weights, drawn from torch's global generator. `init_from` is not looked at."""
    if config.arch == "transformers":
        from trainer.models.hf_policy import TransformersPolicy  # late: it is for those who name one

        return TransformersPolicy(config)
    return NETWORKS[config.arch](config)
