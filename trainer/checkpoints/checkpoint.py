"""A checkpoint's files: how one is written so that it is whole or invisible, and how it is read.

    step_00000500/  model.safetensors  optimizer.safetensors  train_state.json  config.yaml  tokenizer/  MANIFEST.json

Nothing in it is a pickle: a checkpoint from a rented machine is data, never code. The names of the tensors are the
bare model's, whatever it was wrapped in while it trained. What makes a directory whole is trainer.manifest's to say;
when to write one, and from which to go on, is decided elsewhere (trainer.loop.engine, trainer.loop.resume).
"""

from __future__ import annotations

import errno
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trainer import manifest
from trainer.config import Model, RunConfig, dump_yaml, load_yaml
from trainer.console import size_text
from trainer.errors import CheckpointError
from trainer.quoting import pasteable, shown
from trainer.tokenizer import Tokenizer

MODEL = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"
STATE = "train_state.json"
CONFIG = "config.yaml"
TOKENIZER = "tokenizer"
_MARGIN_BYTES = 16 * 2**20
"""For what is beside the tensors: tokenizer, state, and the file system's own."""

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


def folder_of(out_dir: Path) -> Path:
    """Where a run's checkpoints are."""
    return out_dir / "checkpoints"


def write_checkpoint(
    folder: Path,
    state: TrainState,
    *,
    config: RunConfig,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    tokenizer: Tokenizer,
) -> Path:
    """Build `step_N.tmp/`, publish it as `step_N/`, return that. Raises CheckpointError, leaving nothing."""
    building = folder / (manifest.step_name(state.step) + ".tmp")
    weights, moments = model.state_dict(), optimizer_tensors(model, optimizer)

    def build() -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        _require_space(folder, num_bytes(weights) + num_bytes(moments) + _MARGIN_BYTES)
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir()
        save_file(_contiguous(weights), building / MODEL, metadata={"format": "pt"})
        save_file(_contiguous(moments), building / OPTIMIZER)
        (building / CONFIG).write_text(config_text(config), encoding="utf-8")
        tokenizer.save(building / TOKENIZER)
        (building / STATE).write_text(state.model_dump_json(indent=1) + "\n", encoding="utf-8")
        return manifest.publish(building)

    try:
        return _with_disk_errors_named(build, building)
    except BaseException:  # a Ctrl-C too: what is not published takes no place on the disk
        shutil.rmtree(building, ignore_errors=True)
        raise


def load_tensors(checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put a checkpoint's weights and moments in place. Raises CheckpointError where they do not fit the model."""
    load_weights(checkpoint, model)
    moments = _with_disk_errors_named(lambda: load_file(checkpoint / OPTIMIZER), checkpoint / OPTIMIZER)
    names = _names_by_index(model, optimizer)
    if {name.rpartition(".")[0] for name in moments} != set(names.values()):
        raise CheckpointError(f"{shown(checkpoint / OPTIMIZER)} does not hold the moments of this model's parameters")
    by_index: dict[int, dict[str, Tensor]] = {index: {} for index in names}
    index_of = {name: index for index, name in names.items()}
    for name, tensor in moments.items():
        parameter, _, key = name.rpartition(".")
        # A copy: safetensors maps the file, and rotation would delete it under the running optimizer.
        by_index[index_of[parameter]][key] = tensor.clone()
    optimizer.load_state_dict({"state": by_index, "param_groups": optimizer.state_dict()["param_groups"]})


def load_weights(checkpoint: Path, model: nn.Module) -> None:
    """Put a checkpoint's weights in place. Raises CheckpointError where they do not fit the model."""
    weights = _with_disk_errors_named(lambda: load_file(checkpoint / MODEL), checkpoint / MODEL)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"the weights of {shown(checkpoint)} do not fit the model", why=" ".join(str(error).split())[:300]
        ) from error


def read_state(checkpoint: Path) -> TrainState:
    """train_state.json of a checkpoint."""
    path = checkpoint / STATE
    text = _with_disk_errors_named(lambda: path.read_text(encoding="utf-8"), path)
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


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as `<parameter>.<exp_avg|exp_avg_sq|step>`; empty before the first step."""
    names, states = _names_by_index(model, optimizer), optimizer.state_dict()["state"]
    return {f"{names[index]}.{key}": value for index, state in states.items() for key, value in state.items()}


def num_bytes(tensors: dict[str, Tensor]) -> int:
    """What they take on disk."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def rotate(folder: Path, *, keep_last: int, keep_step: int | None) -> list[Path]:
    """Remove all but the newest `keep_last` checkpoints and the one of `keep_step`. Returns what went."""
    old = manifest.checkpoints(folder)[:-keep_last]
    gone = [checkpoint for checkpoint in old if manifest.step_of(checkpoint.name) != keep_step]
    for checkpoint in gone:
        manifest.remove(checkpoint)
    return gone


def sweep(folder: Path) -> None:
    """Remove what a killed training left half built or half removed."""
    for path in folder.glob("step_*.tmp"):
        shutil.rmtree(path, ignore_errors=True)


def require_room(folder: Path, checkpoint_bytes: int) -> None:
    """Refuse to begin where not even two checkpoints fit, those already there included. Raises CheckpointError."""
    files = [file for path in manifest.checkpoints(folder) for file in path.rglob("*") if file.is_file()]
    there = sum(file.stat().st_size for file in files)
    _require_space(folder, 2 * checkpoint_bytes + _MARGIN_BYTES - there)


def _require_space(folder: Path, wanted_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < wanted_bytes:
        raise CheckpointError(
            f"the disk of {shown(folder)} has no room for a checkpoint",
            why=f"{size_text(wanted_bytes)} are needed, {size_text(free)} are free",
            hint=f"df -h {pasteable(folder)}; make room, or keep fewer: `checkpoint.keep_last=2`",
        )


def _with_disk_errors_named(act: Callable[[], T], path: Path) -> T:
    """Act; what the disk refuses becomes a CheckpointError that names the path."""
    try:
        return act()
    except (OSError, SafetensorError) as error:
        full = (isinstance(error, OSError) and error.errno == errno.ENOSPC) or "No space left" in str(error)
        why = "the disk is full" if full else str(getattr(error, "strerror", None) or error)
        hint = f"df -h {pasteable(path.parent)}" if full else ""
        raise CheckpointError(f"cannot use {shown(path)}", why=why, hint=hint) from error


def _names_by_index(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[int, str]:
    """The model's name of the optimizer's n-th parameter."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return {index: names[id(parameter)] for index, parameter in enumerate(parameters)}


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
