"""Names and layout of `arch: modern` in transformers, both ways: NanoChat for ReLU², Qwen3 for SwiGLU.

NanoChat is the same network; only its rotation turns the other way, which swapping the halves of each head of queries
and keys undoes. Qwen3 has norms with weights, written as ones; it does not norm its embedding, so the embedding is
written normed, and the head always apart from it. What those networks have and ours has not is refused when read.
"""

# V = vocabulary, D = d_model, N = heads, H = head dim

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from trainer.config.model import ModelConfig
from trainer.errors import CheckpointError
from trainer.models.modern import RMS_NORM_EPS, rms_norm

_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"
_MLP = {
    "nanochat": {"up": "fc1", "down": "fc2"},
    "qwen3": {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"},
}
_QWEN3_NORMS = ("input_layernorm", "post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm")


def published_as(config: ModelConfig) -> str:
    """The `model_type` in transformers that computes what `config` describes."""
    return "nanochat" if config.activation == "relu2" else "qwen3"


def to_transformers(state: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Our state dict as that of `NanoChatForCausalLM` or `Qwen3ForCausalLM`."""
    kind, theirs = published_as(config), {}
    for layer in range(config.n_layers):
        ours, at = f"blocks.{layer}", f"model.layers.{layer}"
        for part, matrix in zip("qkv", state[f"{ours}.attention.qkv.weight"].chunk(3), strict=True):
            theirs[f"{at}.self_attn.{part}_proj.weight"] = _turned(matrix, config) if part != "v" else matrix
        theirs[f"{at}.self_attn.o_proj.weight"] = state[f"{ours}.attention.proj.weight"]
        theirs |= {f"{at}.mlp.{name}.weight": state[f"{ours}.mlp.{our}.weight"] for our, name in _MLP[kind].items()}
    embedding = state["token_embedding.weight"]
    theirs[_EMBEDDING] = embedding
    if kind == "qwen3":
        theirs |= {name: torch.ones(size) for name, size in _norm_sizes(config)}
        theirs[_EMBEDDING] = rms_norm(embedding)
    if kind == "qwen3" or not config.tied_head:
        theirs[_HEAD] = embedding if config.tied_head else state["head.weight"]
    return {name: tensor.clone() for name, tensor in theirs.items()}


def from_transformers(theirs: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """The other way. Raises CheckpointError where it is another network.

    A Qwen3 of ours comes back with the normed embedding, which computes the same, and with a head of its own.
    """
    kind, left = published_as(config), dict(theirs)
    for name, size in _norm_sizes(config) if kind == "qwen3" else ():
        if not torch.equal(_taken(left, name).float(), torch.ones(size)):
            raise CheckpointError(f"the norm `{name}` has weights", why="norms of arch `modern` have none")
    ours = {"token_embedding.weight": _taken(left, _EMBEDDING)}
    for layer in range(config.n_layers):
        at, to = f"model.layers.{layer}", f"blocks.{layer}"
        parts = [(part, _taken(left, f"{at}.self_attn.{part}_proj.weight")) for part in "qkv"]
        ours[f"{to}.attention.qkv.weight"] = torch.cat([_turned(m, config) if p != "v" else m for p, m in parts])
        ours[f"{to}.attention.proj.weight"] = _taken(left, f"{at}.self_attn.o_proj.weight")
        ours |= {f"{to}.mlp.{our}.weight": _taken(left, f"{at}.mlp.{n}.weight") for our, n in _MLP[kind].items()}
    head = left.pop(_HEAD, None)
    if not config.tied_head:
        ours["head.weight"] = ours["token_embedding.weight"].clone() if head is None else head
    if left:
        raise CheckpointError("the weights are not those of this network", why=f"unknown: `{min(left)}`")
    return {name: tensor.contiguous() for name, tensor in ours.items()}


def transformers_config(config: ModelConfig, eot_id: int | None = None) -> dict[str, Any]:
    """The content of the `config.json` beside the weights; `eot_id` is where a text may stop."""
    kind = published_as(config)
    shared = {
        "model_type": kind,
        "architectures": ["NanoChatForCausalLM" if kind == "nanochat" else "Qwen3ForCausalLM"],
        "hidden_size": config.d_model,
        "intermediate_size": config.d_ff,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_heads,
        "head_dim": config.d_model // config.n_heads,
        "max_position_embeddings": config.max_seq_len,
        "vocab_size": config.vocab_size,
        "attention_dropout": config.dropout,
        "bos_token_id": eot_id,
        "eos_token_id": eot_id,
        "pad_token_id": None,
        "dtype": "float32",
    }
    return {**shared, **_fixed(config)}


def require_same_network(theirs: Mapping[str, Any], config: ModelConfig, source: str) -> None:
    """Raises CheckpointError where a `config.json` says what `arch: modern` cannot be told to compute."""
    defaults = {"final_logit_softcapping": 15.0} if published_as(config) == "nanochat" else {}
    seen = {**defaults, "num_key_value_heads": theirs.get("num_attention_heads"), **theirs}
    wanted = {**_fixed(config), "num_key_value_heads": config.n_heads, "intermediate_size": config.d_ff}
    wanted.pop("tie_word_embeddings")
    wanted.pop("rope_parameters")
    for key, value in wanted.items():
        if key in seen and seen[key] != value:
            raise CheckpointError(f"{source}: `{key}` is `{seen[key]}`", why=f"arch `modern` has `{value}`")


def _fixed(config: ModelConfig) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": config.rope_base}
    shared = {"attention_bias": False, "rms_norm_eps": RMS_NORM_EPS, "rope_parameters": rope}
    if published_as(config) == "nanochat":
        own = {"hidden_act": "relu2", "final_logit_softcapping": None, "tie_word_embeddings": config.tied_head}
    else:
        own = {"hidden_act": "silu", "use_sliding_window": False, "tie_word_embeddings": False}
    return {**shared, **own}


def _norm_sizes(config: ModelConfig) -> Iterator[tuple[str, int]]:
    yield "model.norm.weight", config.d_model
    for layer in range(config.n_layers):
        for norm in _QWEN3_NORMS:
            size = config.d_model // config.n_heads if norm.startswith("self_attn") else config.d_model
            yield f"model.layers.{layer}.{norm}.weight", size


def _turned(matrix_DD: Tensor, config: ModelConfig) -> Tensor:
    """Queries or keys for NanoChat's rotation, which turns the other way: the halves of each head swapped."""
    if published_as(config) == "qwen3":
        return matrix_DD
    return matrix_DD.view(config.n_heads, 2, -1, config.d_model).flip(1).reshape(matrix_DD.shape)


def _taken(weights: dict[str, Tensor], name: str) -> Tensor:
    try:
        return weights.pop(name)
    except KeyError:
        raise CheckpointError("the weights are not those of this network", why=f"missing: `{name}`") from None
