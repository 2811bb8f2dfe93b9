"""Which checkpoints a run has: writes the next one, knows the best one, and lets old ones go, in that order.

All ranks take part in a save, because each hands over the state of its generators; rank 0 writes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from trainer import manifest
from trainer.checkpoints import checkpoint as files
from trainer.config import RunConfig
from trainer.console import Console, size_text
from trainer.loop.distributed import World
from trainer.loop.random_state import RandomState, random_state
from trainer.tokenizer import Tokenizer


class Saver:
    """The checkpoints of one run, as this rank sees them."""

    def __init__(self, config: RunConfig, world: World, console: Console) -> None:
        self._config, self._world, self._console = config, world, console
        self.folder = files.folder_of(Path(config.out_dir))
        self.newest: Path | None = None
        self.best_loss: float | None = None
        self.best_step: int | None = None

    def resume_from(self, checkpoint: Path, state: files.TrainState) -> None:
        """Go on counting from there."""
        self.newest, self.best_loss, self.best_step = checkpoint, state.best_val_loss, state.best_step

    def consider(self, step: int, val_loss: float | None) -> None:
        """Note the loss of a step that has a checkpoint, or is about to have one."""
        if val_loss is not None and math.isfinite(val_loss) and (self.best_loss is None or val_loss < self.best_loss):
            self.best_loss, self.best_step = val_loss, step

    def save(
        self,
        state_with: Callable[[list[RandomState]], files.TrainState],
        model: nn.Module,
        optimizer: Optimizer,
        tokenizer: Tokenizer,
    ) -> None:
        """Publish a checkpoint, then rotate. Every rank calls this. Raises CheckpointError on every rank."""
        states = self._world.gather(random_state(self._world.device))
        tensors = {"model": model, "optimizer": optimizer, "tokenizer": tokenizer}
        self.newest = self._world.on_first(lambda: self._write(state_with(states), tensors))

    def _write(self, state: files.TrainState, tensors: dict[str, Any]) -> Path:
        began = time.perf_counter()
        published = files.write_checkpoint(self.folder, state, config=self._config, **tensors)
        size = size_text(manifest.read_manifest(published).total_bytes)
        self._console.say(f"saved `{published.name}` ({size}, {time.perf_counter() - began:.1f} s)")
        self._rotate()
        return published

    def _rotate(self) -> None:
        settings = self._config.checkpoint
        try:
            keep_step = self.best_step if settings.keep_best else None
            files.rotate(self.folder, keep_last=settings.keep_last, keep_step=keep_step)
        except OSError as error:  # the new checkpoint is safe; an old one that stays costs nothing but room
            self._console.say(f"could not remove an old checkpoint: {error}")
