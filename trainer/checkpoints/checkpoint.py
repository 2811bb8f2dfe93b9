"""A checkpoint's files: how one is written so that it is whole or invisible, and how it is read.

    step_00000500/  model.safetensors  optimizer.safetensors  train_state.json  config.yaml  tokenizer/  MANIFEST.json

A policy with adapters has `adapter/` instead of its frozen weights (trainer.checkpoints.adapters). Where the tensors
were spread over processes, `model/` and `optimizer/` have their pieces (trainer.checkpoints.sharded).

Nothing in it is a pickle: a checkpoint from a rented machine is data, never code. The names of the tensors are the
bare model's, whatever it was wrapped in while it trained. What makes a directory whole is trainer.manifest's to say;
when to write one, and from which to go on, is decided elsewhere (trainer.loop.engine, trainer.loop.resume).
"""

from __future__ import annotations

import errno
import hashlib
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trainer import manifest
from trainer.checkpoints import sharded
from trainer.checkpoints.adapters import (
    Adapter,
    has_adapter,
    is_of_adapter,
    read_adapter,
    require_base,
    write_adapter,
)
from trainer.checkpoints.keeping import MARGIN_BYTES, require_space
from trainer.checkpoints.snapshot import Snapshot, Tensors, names_by_index, spread_like
from trainer.config import Model, RunConfig, dump_yaml, load_yaml
from trainer.errors import CheckpointError
from trainer.quoting import pasteable, shown
from trainer.tokenizer import Tokenizer

MODEL = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"
STATE = "train_state.json"
CONFIG = "config.yaml"
TOKENIZER = "tokenizer"
T = TypeVar("T")


class TrainState(Model):
    """train_state.json: everything but tensors and settings that a run needs to go on exactly."""

    format: int = 1
    step: int
    """Optimizer steps done."""
    tokens: int
    """Trained on so far."""
    stage: str
    stage_state: dict[str, Any]
    """Where the data stream stands: for pretraining one integer and the identity of the data."""
    random: list[dict[str, Any]]
    """Of every rank."""
    scaler: dict[str, Any] | None
    """The loss scale, where one is used (fp16)."""
    val_loss: float | None
    """Of exactly these weights; None where validation was not due."""
    best_val_loss: float | None
    best_step: int | None
    """The checkpoint with the lowest validation loss so far, this one included."""
    tokenizer: str
    """Its identity."""
    config_sha256: str
    # From here on with defaults: checkpoints of version 0.1 do not have them.
    skipped_steps: int = 0
    """Steps so far whose loss or gradient was not finite."""
    skipped_in_a_row: int = 0
    lowest_val_loss: float | None = None
    """Of all evaluations, also of steps without a checkpoint."""
    evaluations_since_lowest: int = 0
    run_id: str = ""
    """Under which trackers know the run."""


def folder_of(out_dir: Path) -> Path:
    """Where a run's checkpoints are."""
    return out_dir / "checkpoints"


def write_checkpoint(
    folder: Path, state: TrainState, snapshot: Snapshot, *, config: RunConfig, tokenizer: Tokenizer
) -> Path:
    """Build `step_N.tmp/`, publish it as `step_N/`, return that. Raises CheckpointError, leaving nothing."""
    building = folder / (manifest.step_name(state.step) + ".tmp")

    def build() -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        require_space(folder, snapshot.num_bytes + MARGIN_BYTES)
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir()
        _write_weights(building, snapshot)
        save_file(snapshot.moments, building / OPTIMIZER)
        write_rest(building, state, config, tokenizer)
        return manifest.publish(building)

    try:
        return with_disk_errors_named(build, building)
    except BaseException:  # a Ctrl-C too: what is not published takes no place on the disk
        shutil.rmtree(building, ignore_errors=True)
        raise


def write_rest(building: Path, state: TrainState, config: RunConfig, tokenizer: Tokenizer) -> None:
    """Write all that is no tensor."""
    (building / CONFIG).write_text(config_text(config), encoding="utf-8")
    tokenizer.save(building / TOKENIZER)
    (building / STATE).write_text(state.model_dump_json(indent=1) + "\n", encoding="utf-8")


def load_tensors(checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put a checkpoint's weights and moments in place. Raises CheckpointError where they do not fit the model."""
    load_weights(checkpoint, model)
    names, parameters = names_by_index(model, optimizer), dict(model.named_parameters())
    if sharded.is_sharded(checkpoint):
        moments = with_disk_errors_named(lambda: _pieces_of_moments(checkpoint, parameters), checkpoint)
    else:
        moments = with_disk_errors_named(lambda: _whole_moments(checkpoint, parameters), checkpoint / OPTIMIZER)
    if {name.rpartition(".")[0] for name in moments} != set(names.values()):
        raise CheckpointError(f"the moments of {shown(checkpoint)} are not those of this model's parameters")
    by_index: dict[int, dict[str, Tensor]] = {index: {} for index in names}
    index_of = {name: index for index, name in names.items()}
    for name, tensor in moments.items():
        parameter, _, key = name.rpartition(".")
        by_index[index_of[parameter]][key] = tensor
    optimizer.load_state_dict({"state": by_index, "param_groups": optimizer.state_dict()["param_groups"]})


def _whole_moments(checkpoint: Path, parameters: Mapping[str, Tensor]) -> Tensors:
    moments = {}
    for name, tensor in load_file(checkpoint / OPTIMIZER).items():
        like = parameters.get(name.rpartition(".")[0])
        # A copy: safetensors maps the file, and rotation would delete it under the running optimizer.
        moments[name] = tensor.clone() if like is None else spread_like(tensor.clone(), like)
    return moments


def _pieces_of_moments(checkpoint: Path, parameters: Mapping[str, Tensor]) -> Tensors:
    folder, moments = checkpoint / sharded.OPTIMIZER, {}
    for name, known in sharded.known_tensors(folder).items():
        like = parameters.get(name.rpartition(".")[0])
        if like is not None and like.shape == known.shape:
            moments[name] = torch.empty_like(like, dtype=known.dtype)
        else:
            moments[name] = torch.empty(known.shape, dtype=known.dtype)
    sharded.read_into(folder, moments)
    return moments


def load_weights(checkpoint: Path, model: nn.Module) -> None:
    """Put a checkpoint's weights in place. Raises CheckpointError where they do not fit the model."""
    if sharded.is_sharded(checkpoint):
        folder = checkpoint / sharded.MODEL
        with_disk_errors_named(lambda: sharded.read_into(folder, model.state_dict(), all_of_it=True), checkpoint)
        return
    weights = read_weights(checkpoint)
    if has_adapter(checkpoint):
        note = getattr(model, "lora", None)
        require_base(read_adapter(checkpoint), note.base_sha256 if note else "", checkpoint)
    held = model.state_dict()
    try:
        model.load_state_dict({name: spread_like(w, held[name]) if name in held else w for name, w in weights.items()})
    except RuntimeError as error:
        raise CheckpointError(
            f"the weights of {shown(checkpoint)} do not fit the model", why=" ".join(str(error).split())[:300]
        ) from error


def read_weights(checkpoint: Path) -> dict[str, Tensor]:
    """What the checkpoint holds of weights: all of them, or adapters and what is trained beside them."""
    if sharded.is_sharded(checkpoint):
        return with_disk_errors_named(lambda: sharded.read_whole(checkpoint / sharded.MODEL), checkpoint)
    adapter = read_adapter(checkpoint).weights if has_adapter(checkpoint) else {}
    if adapter and not (checkpoint / MODEL).exists():
        return adapter
    return adapter | with_disk_errors_named(lambda: load_file(checkpoint / MODEL), checkpoint / MODEL)


def _write_weights(building: Path, snapshot: Snapshot) -> None:
    weights = snapshot.weights
    if snapshot.adapter is not None:
        write_adapter(building, Adapter({n: w for n, w in weights.items() if is_of_adapter(n)}, snapshot.adapter))
        weights = {name: tensor for name, tensor in weights.items() if not is_of_adapter(name)}
    if weights:
        save_file(weights, building / MODEL, metadata={"format": "pt"})


def read_state(checkpoint: Path) -> TrainState:
    """train_state.json of a checkpoint."""
    path = checkpoint / STATE
    text = with_disk_errors_named(lambda: path.read_text(encoding="utf-8"), path)
    try:
        return TrainState.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise CheckpointError(
            f"{shown(path)} cannot be used", why=f"{place}: {problem['msg']}; it may be of another version"
        ) from error


def read_config(checkpoint: Path) -> Any:
    """config.yaml of a checkpoint, as it was resolved then; a mapping that this version may not accept whole."""
    return load_yaml(checkpoint / CONFIG)


def config_text(config: RunConfig) -> str:
    """The resolved configuration as YAML."""
    return dump_yaml(config.model_dump(mode="json"))


def config_sha256(config: RunConfig) -> str:
    """Tells two resolved configurations apart."""
    return hashlib.sha256(config_text(config).encode()).hexdigest()


def with_disk_errors_named(act: Callable[[], T], path: Path) -> T:
    """Act; what the disk refuses becomes a CheckpointError that names the path."""
    try:
        return act()
    except (OSError, SafetensorError) as error:
        full = (isinstance(error, OSError) and error.errno == errno.ENOSPC) or "No space left" in str(error)
        why = "the disk is full" if full else str(getattr(error, "strerror", None) or error)
        hint = f"df -h {pasteable(path.parent)}" if full else ""
        raise CheckpointError(f"cannot use {shown(path)}", why=why, hint=hint) from error
