"""Adapters on disk, in PEFT's own format, and the base they belong to: read, written, and added to its weights.

    adapter/  adapter_model.safetensors  adapter_config.json  base.json

`PeftModel.from_pretrained(model, folder)` takes the folder for a policy of transformers. Which base it was trained
beside is known by a hash over every weight. No PEFT here: adding what an adapter learnt is one product a layer.
"""

# D = inputs, E = outputs, R = rank

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from trainer.errors import CheckpointError
from trainer.quoting import shown

FOLDER, WEIGHTS, CONFIG, BASE = "adapter", "adapter_model.safetensors", "adapter_config.json", "base.json"
_PEFT = "base_model.model."
"""Before every name in a file of PEFT."""


@dataclass(frozen=True)
class AdapterNote:
    """What is said of adapters beside their weights."""

    config: dict[str, Any]
    """PEFT's own."""
    base_sha256: str
    prefix: str
    """What the policy puts before the names of the network that PEFT would see."""


@dataclass(frozen=True)
class Adapter:
    """What one folder holds."""

    weights: dict[str, Tensor]
    """`<layer>.lora_A.weight` (R, D) and `<layer>.lora_B.weight` (E, R), layers as the policy names them."""
    note: AdapterNote


def base_sha256(weights: Mapping[str, Tensor]) -> str:
    """Tells one base from another: a hash over every name and every byte."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def has_adapter(checkpoint: Path) -> bool:
    """Whether a checkpoint holds adapters instead of whole weights."""
    return (checkpoint / FOLDER / WEIGHTS).is_file()


def is_of_adapter(name: str) -> bool:
    """Whether a tensor of this name belongs to an adapter, and not to a head beside it."""
    return ".lora_" in name


def write_adapter(checkpoint: Path, adapter: Adapter) -> None:
    """Write `adapter/`."""
    folder, note = checkpoint / FOLDER, adapter.note
    folder.mkdir()
    named = {_PEFT + name.removeprefix(note.prefix): tensor for name, tensor in adapter.weights.items()}
    save_file(named, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(note.config, indent=1) + "\n", encoding="utf-8")
    base = {"sha256": note.base_sha256, "prefix": note.prefix}
    (folder / BASE).write_text(json.dumps(base, indent=1) + "\n", encoding="utf-8")


def read_adapter(checkpoint: Path) -> Adapter:
    """The adapter of a checkpoint. Raises CheckpointError."""
    folder = checkpoint / FOLDER
    try:
        base = json.loads((folder / BASE).read_text(encoding="utf-8"))
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        prefix = str(base["prefix"])
        weights = {prefix + name.removeprefix(_PEFT): tensor for name, tensor in load_file(folder / WEIGHTS).items()}
        return Adapter(weights, AdapterNote(config, str(base["sha256"]), prefix))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(
            f"the adapter in {shown(folder)} cannot be read", why=f"{type(error).__name__}: {error}"
        ) from error


def require_base(adapter: Adapter, sha256: str, checkpoint: Path) -> None:
    """Refuse an adapter that was trained beside other weights. Raises CheckpointError."""
    if (wanted := adapter.note.base_sha256) != sha256:
        raise CheckpointError(
            f"the adapter of {shown(checkpoint)} belongs to another base",
            why=f"it was trained beside weights that hash to {wanted[:12]}, `model.init_from` has {sha256[:12]}",
            hint="bring back the base it was trained beside, as `model.init_from` names it",
        )


def merged(base: Mapping[str, Tensor], adapter: Adapter) -> dict[str, Tensor]:
    """The base with what the adapter learnt added to it: W + alpha / rank · B A. Raises CheckpointError."""
    found, scale = dict(base), float(adapter.note.config["lora_alpha"]) / int(adapter.note.config["r"])
    for name, a_RD in adapter.weights.items():
        layer, _, kind = name.partition(".lora_A.")
        if not kind:
            continue
        if f"{layer}.weight" not in found:
            raise CheckpointError(f"the adapter is for a layer `{layer}`, which the base does not have")
        delta_ED = scale * (adapter.weights[f"{layer}.lora_B.weight"].float() @ a_RD.float())
        found[f"{layer}.weight"] = found[f"{layer}.weight"] + (
            delta_ED.T if adapter.note.config.get("fan_in_fan_out") else delta_ED
        )
    return found
