"""The size of the model in a folder, or of a published one, read without torch and without its weights.

So a configuration that begins with other weights need not repeat their shape. What cannot be known here (a model of
the hub that is not in the list, a folder that only exists on the host) is left out; loading then compares.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer import manifest
from trainer.config.hf_policy import HF, section_of
from trainer.config.problems import ConfigError
from trainer.config.yaml import load_yaml

_SIZE_KEYS = (
    "arch",
    "d_model",
    "n_layers",
    "n_heads",
    "max_seq_len",
    "vocab_size",
    "bias",
    "qkv_bias",
    "tied_head",
    "activation",
    "rope_base",
    "transformers",
)
"""The keys of a model section that decide the names and shapes of its weights, and what they compute."""

_GPT2_DEFAULTS = {"n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024, "vocab_size": 50257}


def shape_of(source: str, presets: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The keys of a model section that `source` decides; {} where that is not known here."""
    if source.startswith(HF):
        return section_of(source)
    name = source.removeprefix("openai-community/")
    if name.startswith("gpt2") and name in presets and not Path(source).is_dir():
        return {"vocab_size": 50257, "max_seq_len": 1024, **presets[name]}
    folder = Path(source).expanduser()
    try:
        if (ours := our_config(folder)) is not None:
            return of_ours(load_yaml(ours))
        if (theirs := folder / "config.json").is_file():
            return of_transformers(json.loads(theirs.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ConfigError):
        pass  # loading the weights says what is wrong with the folder
    return {}


def our_config(folder: Path) -> Path | None:
    """config.yaml of a checkpoint of ours, or of the newest one in a run's folder; None where there is none."""
    if (folder / manifest.FILE_NAME).is_file():
        return folder / "config.yaml"
    found = manifest.checkpoints(folder) or manifest.checkpoints(folder / "checkpoints")
    return found[-1] / "config.yaml" if found else None


def of_transformers(config: Mapping[str, Any]) -> dict[str, Any]:
    """The model section of a `config.json` of transformers; {} for an architecture that is not ours."""
    readers = {"gpt2": _of_gpt2, "nanochat": _of_nanochat, "qwen3": _of_qwen3}
    reader = readers.get(str(config.get("model_type")))
    return reader(config) if reader else {}


def of_ours(config: Any) -> dict[str, Any]:
    """The model section of a resolved configuration of ours, sizes alone; {} where it has none."""
    section = config.get("model") if isinstance(config, Mapping) else None
    return {key: section[key] for key in _SIZE_KEYS if key in section} if isinstance(section, Mapping) else {}


def _of_gpt2(config: Mapping[str, Any]) -> dict[str, Any]:
    seen = {**_GPT2_DEFAULTS, **config}
    return {
        "arch": "gpt2",
        "d_model": seen["n_embd"],
        "n_layers": seen["n_layer"],
        "n_heads": seen["n_head"],
        "max_seq_len": seen["n_positions"],
        "vocab_size": seen["vocab_size"],
        "tied_head": bool(seen.get("tie_word_embeddings", True)),
    }


def _of_nanochat(config: Mapping[str, Any]) -> dict[str, Any]:
    return {**_of_llama_like(config), "activation": "relu2"}


def _of_qwen3(config: Mapping[str, Any]) -> dict[str, Any]:
    return {**_of_llama_like(config), "activation": "swiglu"}


def _of_llama_like(config: Mapping[str, Any]) -> dict[str, Any]:
    rope = config.get("rope_parameters") or config
    return {
        "arch": "modern",
        "d_model": config["hidden_size"],
        "n_layers": config["num_hidden_layers"],
        "n_heads": config["num_attention_heads"],
        "max_seq_len": config["max_position_embeddings"],
        "vocab_size": config["vocab_size"],
        "tied_head": bool(config.get("tie_word_embeddings", False)),
        "rope_base": float(rope.get("rope_theta", 10000.0)),
    }
