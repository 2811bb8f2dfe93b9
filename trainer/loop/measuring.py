"""A checkpoint on all that its own stage holds back: the loss and the figures that its training logs, of every row.

The stage is opened as the checkpoint's configuration says, in this one process. Nothing is written beside the
checkpoint: what a stage keeps in its folder is written to a copy that is gone afterwards.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainer.checkpoints import checkpoint as files
from trainer.config import RunConfig, run_config
from trainer.console import Console
from trainer.errors import CheckpointError
from trainer.loop.distributed import World, opened_world
from trainer.loop.signals import stop_request
from trainer.loop.validation import Validation
from trainer.models.build import build_model
from trainer.models.init_from import whole_weights
from trainer.models.language_model import LanguageModel
from trainer.models.policies import verified
from trainer.quoting import shown
from trainer.stages import Stage, open_stage
from trainer.stages.base import Extending

_EVERYTHING = 2**31
"""Batches to validate on, where training takes a few."""

_KEPT = ("reference",)
"""What stages keep in a run's folder and would compute again: log-probabilities under the reference."""


@dataclass(frozen=True)
class StageFigures:
    """Of one checkpoint."""

    stage: str
    data: str
    loss: float
    """A mean over what the stage counts: learnt tokens, pairs, or prompts (there the mean reward, negative)."""
    metrics: Mapping[str, float]
    """The stage's own."""


def own_figures(checkpoint: Path, device: str, overrides: Sequence[str], console: Console) -> StageFigures:
    """The figures of a checkpoint; `overrides` lie over its configuration. Raises TrainerError."""
    verified(checkpoint)
    name = files.read_state(checkpoint).stage
    with _copy_of_run(checkpoint) as out_dir, stop_request() as stop:
        config = _config(checkpoint, out_dir, device, overrides)
        with opened_world(config.train) as world:
            stage = open_stage(name, config, world, console)
            validation = Validation(stage, _policy(checkpoint, config, stage, world), world, 0)
            validation.measure(stop)
    if validation.loss is None:
        raise CheckpointError(f"{shown(checkpoint)} was not measured to the end", why=f"stopped by {stop.reason}")
    return StageFigures(name, config.data.path, validation.loss, validation.metrics)


def _config(checkpoint: Path, out_dir: Path, device: str, overrides: Sequence[str]) -> RunConfig:
    """Its own, on this device, with the tokenizer that travelled with it."""
    saved: dict[str, Any] = files.read_config(checkpoint)
    tokenizer = {"path": str((checkpoint / files.TOKENIZER).resolve())}
    here = {
        **saved,
        "out_dir": str(out_dir),
        "data": {**saved["data"], "tokenizer": tokenizer},
        "train": {**saved["train"], "device": device, "compile": False, "parallel": "ddp"},
        "eval": {**saved["eval"], "num_batches": _EVERYTHING},
    }
    return run_config(here, source=str(checkpoint / files.CONFIG), overrides=overrides)


def _policy(checkpoint: Path, config: RunConfig, stage: Stage[Any], world: World) -> torch.nn.Module:
    """The network with its stage's head, adapters added to their base, computing as it did in training."""
    model: LanguageModel = build_model(config.model)
    extended = isinstance(stage, Extending)
    if isinstance(stage, Extending):
        stage.extend(model)
    weights = whole_weights(checkpoint, heads=extended)
    model.load_state_dict(weights)
    policy: torch.nn.Module = world.accelerator.prepare_model(model.to(world.device), evaluation_mode=True)
    return policy


@contextmanager
def _copy_of_run(checkpoint: Path) -> Iterator[Path]:
    run = checkpoint.resolve().parents[1]
    with tempfile.TemporaryDirectory(prefix="gptops-evaluate-") as folder:
        for name in _KEPT:
            if (run / name).is_dir():
                shutil.copytree(run / name, Path(folder) / name)
        yield Path(folder)
