"""A checkpoint of adapters as one of whole weights, taken only if it computes the same.

Two ways to the same logits are compared: PEFT's layers beside the frozen base, and the base with the products added.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from trainer import manifest
from trainer.checkpoints import checkpoint as files
from trainer.checkpoints.adapters import FOLDER, has_adapter, read_adapter
from trainer.config import LoraConfig, dump_yaml
from trainer.errors import CheckpointError
from trainer.models.build import build_model
from trainer.models.init_from import base_of
from trainer.models.language_model import LanguageModel
from trainer.models.lora import add_lora
from trainer.models.policies import find_checkpoint, open_policy
from trainer.quoting import shown

TOLERANCE = 1e-3
"""The most a logit may differ by, as a share of the largest: products of fp32 added in another order differ by 1e-6."""


def merge(checkpoint: Path, out_dir: Path) -> tuple[Path, float]:
    """Write `out_dir/checkpoints/step_N/` with whole weights. Raises CheckpointError, leaving nothing.

    Returns it, and the largest difference of a logit.
    """
    found = find_checkpoint(checkpoint)
    if not has_adapter(found):
        raise CheckpointError(f"{shown(found)} holds no adapters", why="its weights are whole already")
    folder = files.folder_of(out_dir)
    if folder.exists() and any(folder.iterdir()):
        raise CheckpointError(f"{shown(folder)} is there already", hint="give another name")
    policy, _ = open_policy(found, torch.device("cpu"))
    difference = _largest_difference(policy, _adapted(found, policy))
    building = folder / f"{found.name}.tmp"
    try:
        building.mkdir(parents=True)
        return _written(found, building, policy.state_dict()), difference
    except OSError as error:
        raise CheckpointError(f"cannot write {shown(folder)}", why=error.strerror or str(error)) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _adapted(checkpoint: Path, like: LanguageModel) -> LanguageModel:
    """The policy as it was trained: PEFT's layers beside the base."""
    adapter = read_adapter(checkpoint)
    settings = adapter.note.config
    policy = build_model(like.config)
    policy.load_state_dict(base_of(checkpoint))
    lora = LoraConfig(rank=settings["r"], alpha=settings["lora_alpha"], targets=tuple(settings["target_modules"]))
    add_lora(policy, lora, like.config.init_from)
    policy.load_state_dict(adapter.weights)
    return policy.eval()


@torch.no_grad()
def _largest_difference(policy: LanguageModel, adapted: LanguageModel) -> float:
    length = min(64, policy.config.max_seq_len)
    ids_BT = torch.randint(policy.config.vocab_size, (4, length), generator=torch.Generator().manual_seed(0))
    wanted, got = (model(ids_BT).logits for model in (adapted, policy))
    difference = float((wanted - got).abs().max())
    if not difference <= TOLERANCE * float(wanted.abs().max()):
        raise CheckpointError(
            "the merged weights do not compute what the adapters compute",
            why=f"a logit differs by {difference:.2g}",
            hint="keep the adapters, and say so in an issue",
        )
    return difference


def _written(found: Path, building: Path, weights: dict[str, Tensor]) -> Path:
    left_out = shutil.ignore_patterns(FOLDER, files.MODEL, files.OPTIMIZER, files.CONFIG, manifest.FILE_NAME)
    shutil.copytree(found, building, ignore=left_out, dirs_exist_ok=True)
    save_file({name: w.contiguous() for name, w in weights.items()}, building / files.MODEL, metadata={"format": "pt"})
    save_file({}, building / files.OPTIMIZER)  # its moments were of the adapters
    config = {key: value for key, value in files.read_config(found).items() if key != "lora"}
    (building / files.CONFIG).write_text(dump_yaml(config), encoding="utf-8")
    return manifest.publish(building)
