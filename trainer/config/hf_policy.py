"""The model section of a causal LM of transformers, read from its `config.json`: `model.init_from: hf:FOLDER_OR_ID`.

No torch and no transformers here: sizes are read by the names that most architectures share.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HF = "hf:"
"""Before a folder or an id of the hub: any causal LM of transformers, run by transformers."""

_NAMES: dict[str, tuple[str, ...]] = {
    "d_model": ("hidden_size", "n_embd", "d_model"),
    "n_layers": ("num_hidden_layers", "n_layer", "num_layers"),
    "n_heads": ("num_attention_heads", "n_head", "num_heads"),
    "max_seq_len": ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"),
    "vocab_size": ("vocab_size",),
}
_NOT_THE_NETWORK = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures")
"""Keys of a config.json that say how it was written, not what is computed."""


def section_of(source: str) -> dict[str, Any]:
    """The keys of a model section that `hf:…` decides; of what is not in a folder here, only the architecture."""
    folder = Path(source.removeprefix(HF)).expanduser()
    try:
        return section_of_settings(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {"arch": "transformers"}  # loading the weights says what is wrong with the folder


def section_of_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same of the content of a config.json. Raises KeyError, naming what it does not say."""
    sizes = {key: int(_first(settings, names)) for key, names in _NAMES.items()}
    kept = {key: value for key, value in settings.items() if key not in _NOT_THE_NETWORK}
    tied = bool(settings.get("tie_word_embeddings", settings.get("model_type") == "gpt2"))
    return {"arch": "transformers", **sizes, "tied_head": tied, "transformers": kept}


def parameter_parts_of(settings: Mapping[str, Any], sizes: Mapping[str, int]) -> dict[str, int]:
    """Parameters by part: exact for Llama's family and GPT-2, an estimate for what is built otherwise."""
    D, L, heads = sizes["d_model"], sizes["n_layers"], sizes["n_heads"]
    if "n_embd" in settings:
        inside = settings.get("n_inner") or 4 * D
        return {
            "token_embedding": sizes["vocab_size"] * D,
            "position_embedding": sizes["max_seq_len"] * D,
            "attention": L * (4 * D * D + 4 * D),
            "mlp": L * (2 * D * inside + inside + D),
            "norms": (2 * L + 1) * 2 * D,
        }
    wide, narrow = attention_widths(settings, D, heads)
    biases = (wide + 2 * narrow + D) if settings.get("attention_bias") else 0
    return {
        "token_embedding": sizes["vocab_size"] * D,
        "attention": L * (2 * D * wide + 2 * D * narrow + biases),
        "mlp": L * 3 * D * inside_of(settings, D),
        "norms": (2 * L + 1) * D,
    }


def attention_widths(settings: Mapping[str, Any], d_model: int, n_heads: int) -> tuple[int, int]:
    """Of all queries together, and of all keys."""
    head_dim = settings.get("head_dim") or d_model // n_heads
    return n_heads * head_dim, (settings.get("num_key_value_heads") or n_heads) * head_dim


def positions_of(settings: Mapping[str, Any]) -> int | None:
    """The longest row; None where the network names none."""
    return next((int(settings[name]) for name in _NAMES["max_seq_len"] if settings.get(name)), None)


def inside_of(settings: Mapping[str, Any], d_model: int) -> int:
    """Width inside the MLP."""
    return int(settings.get("intermediate_size") or settings.get("n_inner") or 4 * d_model)


def _first(settings: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    for name in names:
        if settings.get(name) is not None:
            return settings[name]
    raise KeyError(names[0])
