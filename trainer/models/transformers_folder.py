"""A model as the folder that transformers writes and reads: config.json and weights.

Written so that `AutoModelForCausalLM.from_pretrained(folder)` computes the same logits; read from safetensors or .bin,
in one file or several. Which tensor is which is known by `gpt2_weights` and `modern_weights`.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from trainer.config.initial import of_transformers
from trainer.config.model import ModelConfig
from trainer.config.strict import validated
from trainer.errors import CheckpointError
from trainer.models import gpt2_weights, modern_weights
from trainer.quoting import shown

CONFIG, SAFETENSORS, BIN = "config.json", "model.safetensors", "pytorch_model.bin"
WEIGHTS = (SAFETENSORS, f"{SAFETENSORS}.index.json", BIN, f"{BIN}.index.json")
"""Where weights may be, in the order in which they are looked for; an index names the files they are spread over."""

_HINT = "the folder must hold `config.json` and weights, as `save_pretrained` of transformers writes them"


def write_model(folder: Path, state: Mapping[str, Tensor], config: ModelConfig, eot_id: int | None = None) -> None:
    """Write `config.json` and `model.safetensors`. `eot_id` is where a text begins and may stop."""
    if config.arch == "gpt2":
        settings, weights = gpt2_weights.gpt2_config(config, eot_id), gpt2_weights.to_gpt2(state, config)
    else:
        settings = modern_weights.transformers_config(config, eot_id)
        weights = modern_weights.to_transformers(state, config)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    save_file(weights, folder / SAFETENSORS, metadata={"format": "pt"})


def read_model(folder: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """The configuration and our state dict of the model in `folder`. Raises CheckpointError.

    Dropout is not taken over: it says how a model was trained, and the one who trains on says how he will.
    """
    settings = read_settings(folder)
    config = validated(ModelConfig, of_transformers(settings), source=str(folder / CONFIG))
    return config, read_state(folder, config)


def read_settings(folder: Path) -> dict[str, Any]:
    """The content of `config.json`, of an architecture that is ours. Raises CheckpointError."""
    settings = _read(folder, lambda: json.loads((folder / CONFIG).read_text(encoding="utf-8")))
    kind = settings.get("model_type") if isinstance(settings, dict) else None
    try:
        known = bool(of_transformers(settings)) if isinstance(settings, dict) else False
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{shown(folder / CONFIG)} is not whole", why=f"{type(error).__name__}: {error}"
        ) from error
    if not known:
        raise CheckpointError(
            f"{shown(folder)} holds another network", why=f"`model_type` is `{kind}`; known are gpt2, nanochat, qwen3"
        )
    checked: dict[str, Any] = settings
    return checked


def read_state(folder: Path, config: ModelConfig) -> dict[str, Tensor]:
    """The weights in `folder` as a state dict for `config`, in fp32. Raises CheckpointError."""
    settings, source = read_settings(folder), str(folder / CONFIG)
    weights = {name: tensor.float() for name, tensor in _read(folder, lambda: _weights(folder)).items()}
    if config.arch == "gpt2":
        gpt2_weights.require_gpt2(settings, source=source)
        return gpt2_weights.from_gpt2(weights, config)
    modern_weights.require_same_network(settings, config, source)
    return modern_weights.from_transformers(weights, config)


def _weights(folder: Path) -> dict[str, Tensor]:
    for name in WEIGHTS:
        path = folder / name
        if path.is_file() and name.endswith(".index.json"):
            files = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
            return {key: tensor for file in files for key, tensor in _tensors(folder / file).items()}
        if path.is_file():
            return _tensors(path)
    raise FileNotFoundError(f"there is none of {', '.join(WEIGHTS)}")


def _tensors(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return load_file(path)
    # weights_only: a .bin is a pickle, and this one comes from elsewhere; tensors are data, never code.
    loaded: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return loaded


def _read(folder: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"no model can be read from {shown(folder)}", why=why, hint=_HINT) from error
