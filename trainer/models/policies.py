"""A trained model, read back from its checkpoint to be used rather than trained further."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError

from trainer import manifest
from trainer.checkpoints import checkpoint as files
from trainer.config import ModelConfig, validated
from trainer.errors import CheckpointError
from trainer.models.build import build_model
from trainer.models.init_from import whole_weights
from trainer.models.language_model import LanguageModel
from trainer.quoting import shown
from trainer.tokenizer import Tokenizer, load_tokenizer


def find_checkpoint(path: Path) -> Path:
    """`path` itself where it is a checkpoint, else the newest in it or in its `checkpoints/`."""
    if (path / manifest.FILE_NAME).is_file():
        return path
    for folder in (path, files.folder_of(path)):
        if found := manifest.checkpoints(folder):
            return found[-1]
    raise CheckpointError(
        f"there is no checkpoint at {shown(path)}",
        why="it is neither a checkpoint (a folder with MANIFEST.json) nor a folder that holds one",
        hint="ls runs/*/checkpoints",
    )


def verified(checkpoint: Path) -> Path:
    """The same, every byte of it read and found right. Raises CheckpointError."""
    try:
        manifest.verify(checkpoint)
    except manifest.BrokenCheckpoint as problem:
        raise CheckpointError(
            f"{shown(checkpoint)} is broken", why=str(problem), hint="take the one before it"
        ) from problem
    return checkpoint


def open_policy(checkpoint: Path, device: torch.device) -> tuple[LanguageModel, Tokenizer]:
    """The model and its tokenizer, every byte verified; adapters merged into their base. Raises CheckpointError."""
    config = files.read_config(verified(checkpoint))
    source = str(checkpoint / files.CONFIG)
    model = build_model(
        validated(ModelConfig, config.get("model") if isinstance(config, dict) else None, source=source, at="model")
    )
    try:
        model.load_state_dict(whole_weights(checkpoint))
    except (RuntimeError, OSError, SafetensorError) as error:
        raise CheckpointError(
            f"the weights of {shown(checkpoint)} do not fit the model", why=" ".join(str(error).split())[:300]
        ) from error
    return model.to(device).eval(), load_tokenizer(checkpoint / files.TOKENIZER)
