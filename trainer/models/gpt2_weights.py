"""GPT-2's own names and layout, both ways: the only place where they are spelled.

Hugging Face keeps GPT-2's four matrices per block as (in, out), we keep them as (out, in). One of them is square, so
no shape check would notice a missing transpose; a test against transformers does. What our model cannot compute
exactly (another activation, an untied head) is refused, never approximated. A model without biases is written with
biases of zero, which computes the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
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
    "tie_word_embeddings": True,
}


def to_gpt2(state: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Our state dict as that of `GPT2LMHeadModel`, head left out because it is the token embedding."""
    gpt2 = {}
    for ours, theirs in _names(config):
        tensor = state.get(ours)
        if tensor is None:  # a model without biases
            tensor = torch.zeros(state[ours.removesuffix("bias") + "weight"].shape[0])
        gpt2[_PREFIX + theirs] = (tensor.t() if theirs.endswith(_TRANSPOSED) else tensor).contiguous()
    return gpt2


def from_gpt2(gpt2: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """The state dict of `GPT2LMHeadModel` or `GPT2Model` as ours. Raises CheckpointError where it is another network.

    `config` must have biases. Causal masks that old files carry (`attn.bias`, `attn.masked_bias`) are left out.
    """
    assert config.bias, "GPT-2 has biases"
    bare = {name.removeprefix(_PREFIX): tensor for name, tensor in gpt2.items()}
    masks = {name for name in bare if name.endswith((".attn.bias", ".attn.masked_bias"))}
    head = bare.pop(_HEAD, None)
    names = dict(_names(config))
    _require_same_names(bare.keys() - masks, set(names.values()))
    if head is not None and not torch.equal(head, bare["wte.weight"]):
        raise CheckpointError(f"`{_HEAD}` differs from the token embedding", why="our models have a tied head")
    return {
        ours: (bare[theirs].t() if theirs.endswith(_TRANSPOSED) else bare[theirs]).contiguous()
        for ours, theirs in names.items()
    }


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
        **_FIXED,
    }


def model_config(gpt2: Mapping[str, Any], *, source: str) -> ModelConfig:
    """The ModelConfig of a GPT-2 `config.json`; `source` names it in errors. Raises CheckpointError.

    Dropout is not taken over: it says how a model was trained, and the one who trains on says how he will.
    """
    defaults = {**_FIXED, "model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024}
    seen = {**defaults, "vocab_size": 50257, **gpt2}
    for key, value in {**_FIXED, "model_type": "gpt2"}.items():
        if seen[key] != value:
            raise CheckpointError(f"{source}: `{key}` is `{seen[key]}`", why=f"our models have `{value}`")
    if seen.get("n_inner") not in (None, 4 * seen["n_embd"]):
        raise CheckpointError(f"{source}: `n_inner` is {seen['n_inner']}", why="our models have 4 × n_embd")
    return ModelConfig(
        d_model=seen["n_embd"],
        n_layers=seen["n_layer"],
        n_heads=seen["n_head"],
        max_seq_len=seen["n_positions"],
        vocab_size=seen["vocab_size"],
    )


def write_gpt2(folder: Path, state: Mapping[str, Tensor], config: ModelConfig, eot_id: int | None = None) -> None:
    """Write `config.json` and `model.safetensors` so that `GPT2LMHeadModel.from_pretrained(folder)` reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(gpt2_config(config, eot_id), indent=2) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")
    save_file(to_gpt2(state, config), folder / "model.safetensors", metadata={"format": "pt"})


def read_gpt2(folder: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """The configuration and our state dict of a GPT-2 that transformers wrote. Raises CheckpointError."""
    config_file, weights_file = folder / "config.json", folder / "model.safetensors"
    try:
        config = model_config(json.loads(config_file.read_text(encoding="utf-8")), source=str(config_file))
        return config, from_gpt2(load_file(weights_file), config)
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(
            f"no GPT-2 can be read from {folder}",
            why=str(error).splitlines()[0],
            hint="the folder must hold `config.json` and `model.safetensors`, as `save_pretrained` writes them",
        ) from error


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
