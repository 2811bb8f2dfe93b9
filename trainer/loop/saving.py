"""Which checkpoints a run has: writes the next one, knows the best one, and lets old ones go, in that order.

All ranks take part in a save: each hands over the state of its generators. The training waits while the state is copied
to host memory; a thread of rank 0 writes it, or a thread of each rank its own pieces where the tensors are spread.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

from torch import nn
from torch.optim import Optimizer

from trainer import manifest
from trainer.checkpoints import checkpoint as files
from trainer.checkpoints.keeping import rotate
from trainer.checkpoints.sharded import Division, Shard
from trainer.checkpoints.snapshot import Camera, Snapshot
from trainer.checkpoints.together import write_together
from trainer.config import RunConfig
from trainer.console import Console, size_text
from trainer.loop.crew import Crew
from trainer.loop.distributed import World
from trainer.loop.random_state import RandomState, random_state
from trainer.loop.writer import Writer
from trainer.tokenizer import Tokenizer


class Saver:
    """The checkpoints of one run, as this rank sees them."""

    def __init__(self, config: RunConfig, world: World, console: Console) -> None:
        self._config, self._world, self._console = config, world, console
        self._camera, self._writer = Camera(), Writer[Path]()
        spread = config.train.parallel == "fsdp" and world.num_processes > 1 and not config.lora.rank
        self._together = (
            (Crew(world.num_processes), Division(world.rank, world.gather))
            if spread and config.checkpoint.sharded
            else None
        )
        """The threads of all ranks and who of them writes what, where all write."""
        self.folder = files.folder_of(Path(config.out_dir))
        self.newest: Path | None = None
        """The newest one known to be published; `settle` first to know of all."""
        self.best_loss: float | None = None
        self.best_step: int | None = None

    @property
    def failed(self) -> bool:
        """Whether the last checkpoint could not be written; `settle` says why. Known to those who write."""
        return self._writer.failed

    def resume_from(self, checkpoint: Path, state: files.TrainState) -> None:
        """Go on counting from there."""
        self.newest, self.best_loss, self.best_step = checkpoint, state.best_val_loss, state.best_step
        disk = self._world.disk
        if disk.is_first and not disk.is_shared:  # what other nodes bring at every restart would fill a disk
            self._rotate(state.best_step)

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
        """Copy the state, and have it published and the old ones rotated in the background. Every rank calls this.

        Raises CheckpointError on every rank where the checkpoint before this one could not be written.
        """
        states = self._world.gather(random_state(self._world.device))
        self.settle()
        if self._together is not None:
            crew, division = self._together
            state, shard = state_with(states), division.shard(model, optimizer)
            self._writer.begin(lambda: self._write_together(crew, state, shard, tokenizer))
            return
        snapshot = self._camera.snapshot(model, optimizer, keep=self._world.is_first)
        if snapshot is not None:
            state = state_with(states)
            self._writer.begin(lambda: self._write(state, snapshot, tokenizer))

    def settle(self) -> None:
        """Wait for the checkpoint that is being written. Every rank calls this, and has its CheckpointError."""
        self.newest = self._world.gather(self._world.on_all(self._writer.wait))[0] or self.newest

    def finish_quietly(self) -> None:
        """Let this rank's thread end; the run ends with an error that matters more than what it may have met."""
        self._writer.join()

    def _write(self, state: files.TrainState, snapshot: Snapshot, tokenizer: Tokenizer) -> Path:
        began = time.perf_counter()
        published = files.write_checkpoint(self.folder, state, snapshot, config=self._config, tokenizer=tokenizer)
        self._say_saved(published, manifest.read_manifest(published).total_bytes, began)
        self._rotate(state.best_step)
        return published

    def _write_together(self, crew: Crew, state: files.TrainState, shard: Shard, tokenizer: Tokenizer) -> Path:
        began, disk = time.perf_counter(), self._world.disk
        published = write_together(
            self.folder, state, shard, crew=crew, disk=disk, config=self._config, tokenizer=tokenizer
        )
        self._say_saved(published.path, published.num_bytes, began, disk.parts)
        if disk.is_first:
            self._rotate(state.best_step)
        return published.path

    def _say_saved(self, published: Path, num_bytes: int, began: float, parts: int = 1) -> None:
        where = f" in {parts} parts" if parts > 1 else ""
        seconds = time.perf_counter() - began
        self._console.say(f"saved `{published.name}`{where} ({size_text(num_bytes)}, {seconds:.1f} s)")

    def _rotate(self, best_step: int | None) -> None:
        settings = self._config.checkpoint
        try:
            rotate(
                self.folder,
                keep_last=settings.keep_last,
                keep_step=best_step if settings.keep_best else None,
                keep_every_steps=settings.keep_every_steps,
            )
        except OSError as error:  # the new checkpoint is safe; an old one that stays costs nothing but room
            self._console.say(f"could not remove an old checkpoint: {error}")
