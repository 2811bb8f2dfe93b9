"""GPT-2's own names and layout, both ways: the only place where they are spelled.

Hugging Face keeps GPT-2's four matrices per block as (in, out), we keep them as (out, in). One of them is square, so
no shape check would notice a missing transpose; a test against transformers does. What our model cannot compute
exactly (another activation) is refused, never approximated. A model without some biases is written with biases of zero,
which computes the same, and read back from them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from trainer.config.model import ModelConfig
from trainer.errors import CheckpointError

_OUTER = {
    "token_embedding": "wte",
    "position_embedding": "wpe",
    "final_norm": "ln_f",
}
_IN_BLOCK = {
    "attention_norm": "ln_1",
    "attention.qkv": "attn.c_attn",
    "attention.proj": "attn.c_proj",
    "mlp_norm": "ln_2",
    "mlp.up": "mlp.c_fc",
    "mlp.down": "mlp.c_proj",
}
_TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
_PREFIX = "transformer."
_HEAD = "lm_head.weight"

_FIXED: dict[str, Any] = {
    # What every model of ours is; a config.json that says otherwise describes another network.
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}


def to_gpt2(state: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Our state dict as that of `GPT2LMHeadModel`; the head is left out where it is the token embedding."""
    gpt2 = {}
    for ours, theirs in _names(config):
        tensor = state.get(ours)
        if tensor is None:  # a model without this bias
            tensor = torch.zeros(state[ours.removesuffix("bias") + "weight"].shape[0])
        gpt2[_PREFIX + theirs] = (tensor.t() if theirs.endswith(_TRANSPOSED) else tensor).contiguous()
    return gpt2 if config.tied_head else {**gpt2, _HEAD: state["head.weight"].contiguous()}


def from_gpt2(gpt2: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """The state dict of `GPT2LMHeadModel` or `GPT2Model` as ours. Raises CheckpointError where it is another network.

    Causal masks that old files carry (`attn.bias`, `attn.masked_bias`) are left out, and so is a bias that `config`
    has not, provided that it is zero.
    """
    bare = {name.removeprefix(_PREFIX): tensor for name, tensor in gpt2.items()}
    masks = {name for name in bare if name.endswith((".attn.bias", ".attn.masked_bias"))}
    head = bare.pop(_HEAD, None)
    names = dict(_names(config))
    _require_same_names(bare.keys() - masks, set(names.values()))
    missing = [ours for ours in names if ours.endswith("bias") and not _has_bias(ours, config)]
    for ours in missing:
        _require_zero(names.pop(ours), bare)
    weights = {
        ours: (bare[theirs].t() if theirs.endswith(_TRANSPOSED) else bare[theirs]).contiguous()
        for ours, theirs in names.items()
    }
    return {**weights, **_head(head, bare["wte.weight"], config)}


def _head(head: Tensor | None, embedding: Tensor, config: ModelConfig) -> dict[str, Tensor]:
    if not config.tied_head:
        return {"head.weight": (embedding if head is None else head).clone()}
    if head is not None and not torch.equal(head, embedding):
        raise CheckpointError(
            f"`{_HEAD}` differs from the token embedding",
            why="`model.tied_head` is true: the head would be thrown away",
            hint="model.tied_head=false",
        )
    return {}


def _has_bias(ours: str, config: ModelConfig) -> bool:
    return config.bias and (config.qkv_bias or not ours.endswith("qkv.bias"))


def _require_zero(name: str, bare: Mapping[str, Tensor]) -> None:
    if bool(bare[name].any()):
        raise CheckpointError(
            f"`{name}` is not zero, and the model has no such bias",
            why="`model.bias` or `model.qkv_bias` is false",
            hint="model.bias=true model.qkv_bias=true",
        )


def gpt2_config(config: ModelConfig, eot_id: int | None = None) -> dict[str, Any]:
    """The content of the `config.json` that transformers reads beside the weights; `eot_id` is where it may stop."""
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "n_embd": config.d_model,
        "n_layer": config.n_layers,
        "n_head": config.n_heads,
        "n_positions": config.max_seq_len,
        "vocab_size": config.vocab_size,
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
        "bos_token_id": eot_id,
        "eos_token_id": eot_id,
        "dtype": "float32",
        "tie_word_embeddings": config.tied_head,
        **_FIXED,
    }


def require_gpt2(gpt2: Mapping[str, Any], *, source: str) -> None:
    """Raises CheckpointError where a `config.json`, named `source`, describes a network that is not exactly ours."""
    seen = {**_FIXED, "model_type": "gpt2", **gpt2}
    for key, value in {**_FIXED, "model_type": "gpt2"}.items():
        if seen[key] != value:
            raise CheckpointError(f"{source}: `{key}` is `{seen[key]}`", why=f"our models have `{value}`")
    width = seen.get("n_embd", 768)
    if seen.get("n_inner") not in (None, 4 * width):
        raise CheckpointError(f"{source}: `n_inner` is {seen['n_inner']}", why="our models have 4 × n_embd")


def _names(config: ModelConfig) -> Iterator[tuple[str, str]]:
    """Every parameter of GPT-2 as (our name, GPT-2's name without prefix), biases included."""
    for ours, theirs in _OUTER.items():
        for kind in ("weight", "bias") if ours == "final_norm" else ("weight",):
            yield f"{ours}.{kind}", f"{theirs}.{kind}"
    for layer in range(config.n_layers):
        for ours, theirs in _IN_BLOCK.items():
            for kind in ("weight", "bias"):
                yield f"blocks.{layer}.{ours}.{kind}", f"h.{layer}.{theirs}.{kind}"


def _require_same_names(seen: set[str], wanted: set[str]) -> None:
    if seen != wanted:
        missing, unknown = sorted(wanted - seen), sorted(seen - wanted)
        parts = [f"{len(missing)} missing (`{missing[0]}`)"] if missing else []
        parts += [f"{len(unknown)} unknown (`{unknown[0]}`)"] if unknown else []
        raise CheckpointError("the weights are not those of this GPT-2", why=", ".join(parts))
