"""Steps that must not change the weights: their loss or gradient is not finite, on whichever rank.

Such a step is skipped by all ranks alike, counted, and written to guards.jsonl with the samples it was made of. One may
be an accident of the data; many in a row mean that the weights themselves are lost, and end the run before it fills
the folder with checkpoints of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer.checkpoints.checkpoint import TrainState
from trainer.config import RunConfig
from trainer.console import Console
from trainer.errors import EngineError
from trainer.loop.distributed import World
from trainer.loop.metrics import MetricsFile
from trainer.loop.step import Gradients
from trainer.quoting import shown

FILE_NAME = "guards.jsonl"


class SkipGuard:
    """Counts the steps that were skipped. Every rank counts the same."""

    def __init__(self, config: RunConfig, world: World, console: Console) -> None:
        self._config, self._world, self._console = config, world, console
        self._file = MetricsFile(Path(config.out_dir) / FILE_NAME)
        self.skipped = 0
        self.in_a_row = 0

    def resume_from(self, state: TrainState) -> None:
        """Go on counting from there."""
        self.skipped, self.in_a_row = state.skipped_steps, state.skipped_in_a_row

    def drop_after(self, step: int) -> None:
        """Forget the rows beyond the step a run resumes from. Rank 0 alone."""
        self._file.drop_after(step)

    def passed(self) -> None:
        """A step was taken."""
        self.in_a_row = 0

    def skip(self, step: int, gradients: Gradients, batches: Sequence[Any]) -> None:
        """A step was skipped. Every rank calls this with its own batches."""
        self.skipped += 1
        self.in_a_row += 1
        samples = self._world.gather([_samples_of(batch) for batch in batches])
        if self._world.is_first:
            self._file.append(self._row(step, gradients, samples))
        self._console.say(
            f"skipped step {step}/{self._config.train.max_steps}: loss {gradients.loss}, gradient norm "
            f"{gradients.grad_norm} ({self.in_a_row} in a row, {self._config.train.max_skipped_steps} end the run); "
            f"its samples are in {FILE_NAME}"
        )

    @property
    def exhausted(self) -> bool:
        """Whether so many were skipped in a row that the run must end."""
        return self.in_a_row >= self._config.train.max_skipped_steps

    def error(self, step: int, gradients: Gradients, newest: Path | None) -> EngineError:
        """Why the run ends, for all ranks to raise."""
        times = f"and the {self.in_a_row - 1} before it, " if self.in_a_row > 1 else ""
        error = EngineError(
            f"step {step} is not finite: {times}loss {gradients.loss}, gradient norm {gradients.grad_norm}",
            why="the weights were not touched; "
            + (f"the last good checkpoint is {shown(newest)}" if newest else "there is no checkpoint yet"),
            hint=f"start again with a lower rate: `optim.lr={self._config.optim.lr / 2:g}`; "
            f"{shown(Path(self._config.out_dir) / FILE_NAME)} names the samples",
        )
        error.on_every_rank = True
        return error

    def _row(self, step: int, gradients: Gradients, samples: list[list[list[Any]]]) -> dict[str, Any]:
        return {
            "step": step,
            "loss": str(gradients.loss),  # as text: JSON has no NaN
            "grad_norm": str(gradients.grad_norm),
            "skipped_steps": self.skipped,
            "in_a_row": self.in_a_row,
            "micro_batches_by_rank": samples,
        }


def _samples_of(batch: Any) -> list[Any]:
    """What a batch says it was made of; a stage's batches may have `sample_ids`, and need not."""
    return [int(number) for number in getattr(batch, "sample_ids", ())]
