"""The network, as a configuration says it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, PositiveInt, model_validator

from trainer.config.strict import Model

PRESETS: dict[str, dict[str, int]] = {
    # Radford et al. 2019, table 2; the head counts are those of the published checkpoints.
    "gpt2": {"d_model": 768, "n_layers": 12, "n_heads": 12},
    "gpt2-medium": {"d_model": 1024, "n_layers": 24, "n_heads": 16},
    "gpt2-large": {"d_model": 1280, "n_layers": 36, "n_heads": 20},
    "gpt2-xl": {"d_model": 1600, "n_layers": 48, "n_heads": 25},
}


class ModelConfig(Model):
    """A GPT-2: learned positions, tanh GELU, pre-norm, tied head. A preset, a size of your own, or both."""

    preset: Literal["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "none"] = "none"
    """Fills d_model, n_layers and n_heads; what is written beside it wins."""
    d_model: PositiveInt = 256
    """Width of the residual stream. Must be a multiple of n_heads."""
    n_layers: PositiveInt = 4
    """Number of blocks."""
    n_heads: PositiveInt = 4
    """Attention heads per block."""
    max_seq_len: PositiveInt = 1024
    """Positions the model has; training rows are this long."""
    vocab_size: PositiveInt = 50257
    """Rows of the embedding. Left out, it is the tokenizer's; a larger value (50304) pads."""
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Dropout of embeddings, attention and residuals. GPT-2 trained with 0.1."""
    bias: bool = True
    """Biases in linear layers and LayerNorms. GPT-2 has them."""

    @model_validator(mode="before")
    @classmethod
    def _fill_preset(cls, section: Any) -> Any:
        if isinstance(section, Mapping) and section.get("preset") in PRESETS:
            return {**PRESETS[section["preset"]], **section}
        return section

    @model_validator(mode="after")
    def _heads_divide_width(self) -> ModelConfig:
        if self.d_model % self.n_heads:
            raise ValueError(f"d_model {self.d_model} is not a multiple of n_heads {self.n_heads}")
        return self
