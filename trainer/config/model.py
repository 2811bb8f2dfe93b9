"""The network, as a configuration says it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from trainer.config.hf_policy import HF, inside_of
from trainer.config.initial import shape_of
from trainer.config.strict import Model

Preset = Literal[
    "gpt2",
    "gpt2-medium",
    "gpt2-large",
    "gpt2-xl",
    "gpt2-dropout",
    "gpt-25m",
    "gpt-125m-2k",
    "gpt-164m-2k",
    "modern-124m",
    "modern-350m",
    "modern-774m",
    "none",
]

_SEED_2 = {"d_model": 768, "n_layers": 12, "n_heads": 12, "max_seq_len": 2000, "qkv_bias": False}

PRESETS: dict[str, dict[str, Any]] = {
    # Radford et al. 2019, table 2; the head counts are those of the published checkpoints.
    "gpt2": {"d_model": 768, "n_layers": 12, "n_heads": 12},
    "gpt2-medium": {"d_model": 1024, "n_layers": 24, "n_heads": 16},
    "gpt2-large": {"d_model": 1280, "n_layers": 36, "n_heads": 20},
    "gpt2-xl": {"d_model": 1600, "n_layers": 48, "n_heads": 25},
    "gpt2-dropout": {"d_model": 768, "n_layers": 12, "n_heads": 12, "dropout": 0.1},
    # Sizes other small trainers use; docs/models.md has their parameter counts.
    "gpt-25m": {"d_model": 256, "n_layers": 16, "n_heads": 8, "max_seq_len": 1024},
    "gpt-125m-2k": _SEED_2,
    "gpt-164m-2k": {**_SEED_2, "tied_head": False},
    # The widths and depths of GPT-2 with heads of 128, as nanochat has them, which GPUs compute faster.
    "modern-124m": {"arch": "modern", "d_model": 768, "n_layers": 12, "n_heads": 6},
    "modern-350m": {"arch": "modern", "d_model": 1024, "n_layers": 24, "n_heads": 8},
    "modern-774m": {"arch": "modern", "d_model": 1280, "n_layers": 36, "n_heads": 10},
}


class ModelConfig(Model):
    """A GPT: a preset, a size of your own, or both."""

    preset: Preset = "none"
    """Fills the keys that make a size; what is written beside it wins."""
    init_from: str = ""
    """Weights to begin with: `gpt2` or another model of the hub, a folder that transformers wrote, a checkpoint or run
    of ours. `hf:FOLDER` or `hf:OWNER/NAME` takes any causal LM of transformers, and its network too. The size is taken
    from it where that is known before the download; what is written beside it must agree."""
    arch: Literal["gpt2", "modern", "transformers"] = "gpt2"
    """`gpt2` is exactly GPT-2: learned positions, LayerNorm, tanh GELU. `modern` has rotary positions, RMSNorm without
    weights, normed queries and keys, no biases, and output projections that begin at zero. `transformers` is what
    `init_from: hf:…` names."""
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
    """Biases in linear layers and LayerNorms. GPT-2 has them, `modern` never has."""
    qkv_bias: bool = True
    """Biases of queries, keys and values, where there are biases at all."""
    tied_head: bool = True
    """The head is the token embedding. `false` gives it a matrix of its own."""
    activation: Literal["gelu", "relu2", "swiglu"] = "gelu"
    """Of the MLP: `gelu` (tanh) for `gpt2`, `relu2` (default) or `swiglu` for `modern`."""
    rope_base: PositiveFloat = 10000.0
    """Base of the wavelengths of `modern`'s rotary positions."""
    transformers: dict[str, Any] = Field({})
    """The `config.json` of an `hf:` policy; taken from it, not written by hand."""
    backend: Literal["transformers", "unsloth"] = "transformers"
    """What runs an `hf:` policy. Unsloth needs a GPU and its own package."""

    @property
    def d_ff(self) -> int:
        """Width inside the MLP: 4 × d_model; for SwiGLU, which has three matrices, 8/3 of it in whole 32s."""
        if self.arch == "transformers":
            return inside_of(self.transformers, self.d_model)
        return 4 * self.d_model if self.activation != "swiglu" else -(-8 * self.d_model // 96) * 32

    @model_validator(mode="before")
    @classmethod
    def _completed(cls, section: Any) -> Any:
        return completed(section)

    @model_validator(mode="after")
    def _parts_fit_together(self) -> ModelConfig:
        if self.arch == "transformers":
            return self._require_theirs()
        if self.backend != "transformers":
            raise ValueError(f"backend `{self.backend}` runs policies of transformers: `init_from: hf:OWNER/NAME`")
        if self.d_model % self.n_heads:
            raise ValueError(f"d_model {self.d_model} is not a multiple of n_heads {self.n_heads}")
        if self.arch == "gpt2" and self.activation != "gelu":
            raise ValueError(f"activation `{self.activation}` is not GPT-2's, which is `gelu`; or choose arch `modern`")
        if self.arch == "modern":
            self._require_modern()
        return self

    @property
    def is_known(self) -> bool:
        """Whether its sizes are: those of an `hf:` policy of the hub are not, before it is here."""
        return self.arch != "transformers" or bool(self.transformers)

    def _require_theirs(self) -> ModelConfig:
        if not self.init_from.startswith(HF) and not self.transformers:
            raise ValueError("arch `transformers` needs `init_from: hf:FOLDER` or `hf:OWNER/NAME`")
        return self

    def _require_modern(self) -> None:
        if self.bias:
            raise ValueError("arch `modern` has no biases; leave `bias` out")
        if self.activation == "gelu":
            raise ValueError("arch `modern` has activation `relu2` or `swiglu`, not `gelu`")
        if self.d_model // self.n_heads % 2:
            raise ValueError(
                f"rotary positions turn pairs of numbers: d_model {self.d_model} / n_heads {self.n_heads} is odd"
            )


def completed(section: Any) -> Any:
    """A model section with what its preset, its `init_from` and its arch say where it is silent itself."""
    if not isinstance(section, Mapping):
        return section
    preset, source = section.get("preset"), section.get("init_from")
    filled: dict[str, Any] = {}
    if isinstance(preset, str):
        filled |= PRESETS.get(preset, {})
    if isinstance(source, str) and source:
        filled |= shape_of(source, PRESETS)
    filled |= section
    if filled.get("arch") == "modern":
        filled = {"bias": False, "qkv_bias": False, "activation": "relu2", **filled}
    return filled
