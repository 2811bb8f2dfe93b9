"""A checkpoint as a folder that transformers loads: the same logits, the same ids.

    AutoModelForCausalLM.from_pretrained(folder)    AutoTokenizer.from_pretrained(folder)

GPT-2 becomes `gpt2`, `arch: modern` becomes `nanochat` (ReLU²) or `qwen3` (SwiGLU); a policy of transformers stays what
it is, its adapters merged. No code travels with it.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from trainer.errors import CheckpointError
from trainer.manifest import fsync
from trainer.models.export_tokenizer import write_tokenizer
from trainer.models.policies import find_checkpoint, open_policy
from trainer.models.transformers_folder import write_model
from trainer.quoting import shown


def export(checkpoint: Path, folder: Path) -> Path:
    """Write the checkpoint (a run's newest one) into `folder`, which appears when it is whole. Raises CheckpointError.

    Returns the checkpoint that was taken.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(
            f"{shown(folder)} is there already", why="an export begins with an empty folder", hint="give another name"
        )
    found = find_checkpoint(checkpoint)
    model, tokenizer = open_policy(found, torch.device("cpu"))
    building = folder.with_name(folder.name + ".tmp")
    try:
        shutil.rmtree(building, ignore_errors=True)
        if model.config.arch == "transformers":
            network: Any = model.network
            network.save_pretrained(building)
        else:
            write_model(building, model.state_dict(), model.config, tokenizer.eot_id)
        write_tokenizer(tokenizer, building)
        for path in [*sorted(building.iterdir()), building]:
            fsync(path)
        if folder.exists():
            folder.rmdir()
        building.rename(folder)
        fsync(folder.resolve().parent)
    except OSError as error:
        shutil.rmtree(building, ignore_errors=True)
        raise CheckpointError(f"cannot write {shown(folder)}", why=error.strerror or str(error)) from error
    return found
