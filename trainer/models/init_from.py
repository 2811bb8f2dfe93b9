"""Weights to begin a run with, instead of random ones: `model.init_from`.

A checkpoint or run of ours, a folder that transformers wrote, or a model of the hub, in this order. Whatever does not
fit is refused with the first difference, before a step is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from trainer import manifest
from trainer.checkpoints.adapters import base_sha256, has_adapter, merged, read_adapter, require_base
from trainer.checkpoints.sharded import MODEL, is_sharded, read_whole
from trainer.config import ConfigError, ModelConfig, TokenizerConfig
from trainer.config.initial import of_ours, of_transformers, our_config
from trainer.config.strict import validated
from trainer.config.yaml import load_yaml
from trainer.errors import CheckpointError, DataError
from trainer.models import transformers_folder as theirs
from trainer.models.build import build_model
from trainer.models.hf_folder import hf_folder, is_hf, weights_of_hf
from trainer.models.hub_model import downloaded
from trainer.quoting import pasteable, shown
from trainer.tokenizer import load_tokenizer, open_tokenizer

_PROBE = "To be, or not to be: 1,234 times.\n\tif x != y:\n é 日本語 🙂"
"""Text that two tokenizers of the same ids write alike, and others do not."""

_MAY_DIFFER = {
    # A head of its own may begin as the embedding; the other way a matrix would be lost, which loading notices.
    "tied_head",
    "bias",
    "qkv_bias",
}
"""What the weights themselves decide."""


def initial_weights(config: ModelConfig, tokenizer_identity: str | None = None) -> dict[str, Tensor]:
    """The state dict of `config.init_from` for the network of `config`, whole and in fp32. Raises CheckpointError.

    With `tokenizer_identity`, a checkpoint of ours must have been trained with that tokenizer.
    """
    folder = Path(config.init_from).expanduser()
    if is_hf(config.init_from):
        state = weights_of_hf(config)
    elif (ours := our_config(folder)) is not None:
        state = _of_ours(ours.parent, config, tokenizer_identity)
    else:
        state = _of_transformers(folder if folder.is_dir() else downloaded(config.init_from), config)
    _require_same_shapes(state, config)
    return state


def require_initial(config: ModelConfig, tokenizer: TokenizerConfig) -> None:
    """Refuse before anything takes long what would be refused when weights are loaded: a source that is not there,
    another size, another tokenizer than theirs. A model of the hub is brought here. Raises CheckpointError.
    """
    folder = Path(config.init_from).expanduser()
    if (ours := our_config(folder)) is not None:
        _require_same_size(of_ours(load_yaml(ours)), config)
        if tokenizer.kind != "bpe":  # that one is trained first
            _require_identity(ours.parent, open_tokenizer(tokenizer).identity)
        return
    if is_hf(config.init_from):
        folder = hf_folder(config.init_from)
    else:
        folder = folder if folder.is_dir() else downloaded(config.init_from)
        _require_same_size(of_transformers(theirs.read_settings(folder)), config)
    _require_same_ids(folder, tokenizer)


def _require_same_ids(folder: Path, tokenizer: TokenizerConfig) -> None:
    """Of a tokenizer that lies beside weights of transformers: they know its ids, and no others."""
    try:
        known = open_tokenizer(TokenizerConfig(path=str(folder)))
    except (DataError, ValueError):
        return  # none, or one that cannot be used here: nothing to compare with
    used = open_tokenizer(tokenizer) if tokenizer.kind != "bpe" else None
    if used is None or used.encode(_PROBE) != known.encode(_PROBE):
        raise CheckpointError(
            f"{shown(folder)} was trained with another tokenizer",
            why=f"the ids of a `{tokenizer.kind}` tokenizer mean other text there",
            hint=f"data.tokenizer.path={pasteable(folder)}",
        )


def _of_ours(checkpoint: Path, config: ModelConfig, tokenizer_identity: str | None) -> dict[str, Tensor]:
    try:
        manifest.verify(checkpoint)
        _require_same_size(of_ours(load_yaml(checkpoint / "config.yaml")), config)
        state = whole_weights(checkpoint)
    except (manifest.BrokenCheckpoint, SafetensorError, OSError, ConfigError) as problem:
        raise CheckpointError(
            f"{shown(checkpoint)} is broken", why=str(problem), hint="take the one before it"
        ) from problem
    if tokenizer_identity is not None:
        _require_identity(checkpoint, tokenizer_identity)
    if not config.tied_head and "head.weight" not in state:
        state["head.weight"] = state["token_embedding.weight"].clone()
    return state


def _require_identity(checkpoint: Path, tokenizer_identity: str) -> None:
    if tokenizer_identity != (was := load_tokenizer(checkpoint / "tokenizer")).identity:
        raise CheckpointError(
            f"{shown(checkpoint)} was trained with another tokenizer",
            why=f"its `{was.kind}` has {was.vocab_size} tokens and another identity: the same ids mean other text",
            hint=f"data.tokenizer.path={checkpoint / 'tokenizer'}",
        )


def whole_weights(checkpoint: Path, *, heads: bool = False) -> dict[str, Tensor]:
    """The weights of a verified checkpoint of ours: adapters are added to their base, which must be the one they were
    trained beside. Without `heads`, those that a stage put beside the network are left out. Raises CheckpointError."""
    trained = checkpoint / "model.safetensors"
    if is_sharded(checkpoint):
        state = read_whole(checkpoint / MODEL)
    else:
        state = load_file(trained) if trained.exists() or not has_adapter(checkpoint) else {}
    if has_adapter(checkpoint):
        adapter = read_adapter(checkpoint)
        base = base_of(checkpoint)
        require_base(adapter, base_sha256(base), checkpoint)
        state = merged(base, adapter) | state
    return {name: tensor for name, tensor in state.items() if heads or not name.startswith("value_head.")}


def base_of(checkpoint: Path) -> dict[str, Tensor]:
    """The weights that the adapters of a checkpoint stand beside. Raises CheckpointError where they are gone."""
    section = load_yaml(checkpoint / "config.yaml")["model"]
    config = validated(ModelConfig, section, source=str(checkpoint / "config.yaml"), at="model")
    try:
        return initial_weights(config)
    except CheckpointError as error:
        raise CheckpointError(
            f"the base of the adapter {shown(checkpoint)} is not there: `{config.init_from}`",
            why=error.what,
            hint="bring it back to where `model.init_from` names it",
        ) from error


def _of_transformers(folder: Path, config: ModelConfig) -> dict[str, Tensor]:
    _require_same_size(of_transformers(theirs.read_settings(folder)), config)
    return theirs.read_state(folder, config)


def _require_same_size(size: Mapping[str, Any], config: ModelConfig) -> None:
    for key, has in size.items():
        wanted = getattr(config, key)
        if key in _MAY_DIFFER or (key == "max_seq_len" and config.arch == "modern") or has == wanted:
            continue
        raise CheckpointError(
            f"`{config.init_from}` does not fit the model: `model.{key}` is {has} there, {wanted} here",
            why="weights can only begin a model of their own shape",
            hint=f"leave `model.{key}` out, or write `model.{key}={has}`" + _LONGER.get(key, ""),
        )


_LONGER = {"max_seq_len": "; for shorter rows there is `data.seq_len`, longer ones need positions it never learned"}


def _require_same_shapes(state: Mapping[str, Tensor], config: ModelConfig) -> None:
    with torch.device("meta"):
        wanted = {name: tuple(tensor.shape) for name, tensor in build_model(config).state_dict().items()}
    has = {name: tuple(tensor.shape) for name, tensor in state.items()}
    for name in [*wanted, *(name for name in has if name not in wanted)]:
        if wanted.get(name) != has.get(name):
            raise CheckpointError(
                f"`{config.init_from}` does not fit the model: "
                f"`{name}` is {_worded(has.get(name))} there, {_worded(wanted.get(name))} here",
                why="weights can only begin a model of their own shape",
                hint="compare the `model` section with that of `init_from`",
            )


def _worded(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else " x ".join(map(str, shape))
