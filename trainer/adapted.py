"""What LoRA changes in the sizes of a model, by arithmetic alone. Part of the doorway `trainer.sizing`.

Exact for our networks, GPT-2 and Llama's family; for what is built otherwise as if it were one of those.
"""

from __future__ import annotations

from trainer.config.adapters import LoraConfig
from trainer.config.hf_policy import attention_widths
from trainer.config.model import ModelConfig

Layers = dict[str, tuple[int, int]]
"""Of one block, the linear layers by name: inputs and outputs."""

BYTES_IN_4_BITS = 4.127 / 8
"""Bytes of a weight in NF4 with double quantization: Dettmers et al. 2023, section 3, has 0.127 bits of constants."""


def linear_layers(model: ModelConfig) -> Layers:
    """Those of one block, all that can be adapted."""
    D, F = model.d_model, model.d_ff
    settings = model.transformers
    if model.arch != "transformers":
        gate = {"mlp.gate": (D, F)} if model.activation == "swiglu" else {}
        return {"attention.qkv": (D, 3 * D), "attention.proj": (D, D), **gate, "mlp.up": (D, F), "mlp.down": (F, D)}
    if "n_embd" in settings:
        return {"attn.c_attn": (D, 3 * D), "attn.c_proj": (D, D), "mlp.c_fc": (D, F), "mlp.c_proj": (F, D)}
    wide, narrow = attention_widths(settings, D, model.n_heads)
    attention = {"q_proj": (D, wide), "k_proj": (D, narrow), "v_proj": (D, narrow), "o_proj": (wide, D)}
    mlp = {"gate_proj": (D, F), "up_proj": (D, F), "down_proj": (F, D)}
    return {f"self_attn.{name}": shape for name, shape in attention.items()} | {
        f"mlp.{name}": shape for name, shape in mlp.items()
    }


def adapted_layers(model: ModelConfig, lora: LoraConfig) -> Layers:
    """Those of one block that get adapters; all where no name is known: loading the weights says what is wrong."""
    layers = linear_layers(model)
    named = {
        name: shape
        for name, shape in layers.items()
        if any(name == target or f".{name}".endswith(f".{target}") for target in lora.targets)
    }
    return named or layers


def adapter_parameters(model: ModelConfig, lora: LoraConfig) -> int:
    """All that learns: two matrices of the rank beside each adapted layer."""
    per_block = sum(lora.rank * (inputs + outputs) for inputs, outputs in adapted_layers(model, lora).values())
    return model.n_layers * per_block


def matrix_parameters(model: ModelConfig) -> int:
    """Weights of the blocks' linear layers: what 4 bits are for."""
    return model.n_layers * sum(inputs * outputs for inputs, outputs in linear_layers(model).values())


def inputs_saved(model: ModelConfig, lora: LoraConfig, width: int) -> int:
    """Bytes a token and block that are kept for adapters, less what their frozen layers need not keep any more.

    A frozen layer keeps no input. Each adapter keeps its own copy, and what comes out of its first matrix. A dropout
    mask is a byte a number, as on a GPU.
    """
    freed = width * (2 * model.d_model + model.d_ff)  # both norms' results, and what the MLP's last matrix takes in
    layers = adapted_layers(model, lora).values()
    return sum(width * (inputs + lora.rank) + (inputs if lora.dropout else 0) for inputs, _ in layers) - freed
