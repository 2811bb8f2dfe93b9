"""What a training measures: rows of metrics.jsonl, the console's line, and the clock behind both.

Every row has a `step`, steps never go back: a resumed run first drops the rows beyond the step it resumes from,
so that the file is one curve however often the run was interrupted.
"""

from __future__ import annotations

import json
import math
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainer.console import duration
from trainer.errors import EngineError
from trainer.manifest import fsync
from trainer.quoting import pasteable, shown

FILE_NAME = "metrics.jsonl"


@dataclass(frozen=True)
class StepRow:
    """One optimizer step, as it is logged."""

    step: int
    """Optimizer steps done, this one included."""
    loss: float
    """Of this step alone: it does not depend on when logging is due, so a resumed run logs the same."""
    lr: float
    grad_norm: float
    """Before clipping."""
    tokens: int
    """Trained on since the run began."""
    tokens_per_second: float
    """Since the last row, without the time for validation, samples and checkpoints."""
    mfu: float | None
    """Share of the hardware's peak; None where the peak is not known."""
    memory_gib: float
    """Largest so far on this rank: the GPU's where there is one, else the process's."""

    def as_dict(self, extra: dict[str, float] | None = None) -> dict[str, Any]:
        return {**vars(self), **(extra or {})}

    def line(self, max_steps: int, eta_seconds: float) -> str:
        """`step 500/2000  loss 2.3141  lr 3.0e-04  grad 0.81  tok/s 41,200  mfu 38%  mem 3.1 GiB  eta 2m10s`"""
        parts = [
            f"step {self.step}/{max_steps}",
            f"loss {self.loss:.4f}",
            f"lr {self.lr:.1e}",
            f"grad {self.grad_norm:.2f}",
            f"tok/s {self.tokens_per_second:,.0f}",
            *([f"mfu {self.mfu:.0%}"] if self.mfu is not None else []),
            f"mem {self.memory_gib:.1f} GiB",
            f"eta {duration(eta_seconds)}",
        ]
        return "  ".join(parts)


class MetricsFile:
    """metrics.jsonl of a run. Only rank 0 has one."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, row: dict[str, Any]) -> None:
        """Add one row; what is no number becomes null, as JSON has no NaN. Raises EngineError where it cannot."""
        row = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()
        }
        with self._problems_named(), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def drop_after(self, step: int) -> int:
        """Drop the rows beyond `step`, and a last one that was cut off in the middle. Returns how many."""
        with self._problems_named():
            if not self._path.exists():
                return 0
            lines = self._path.read_text(encoding="utf-8", errors="replace").splitlines()
            kept = [line for line in lines if _step_of(line) <= step]
            if len(kept) < len(lines):
                self._replace(kept)
        return len(lines) - len(kept)

    def _replace(self, lines: list[str]) -> None:
        building = self._path.with_name(self._path.name + ".tmp")
        building.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        fsync(building)
        os.replace(building, self._path)

    @contextmanager
    def _problems_named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise EngineError(
                f"cannot write {shown(self._path)}",
                why=error.strerror or str(error),
                hint=f"df -h {pasteable(self._path.parent)}",
            ) from error


def _step_of(line: str) -> float:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


class Meter:
    """Time and tokens since the last row, and how long the rest will take."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._paused_seconds = 0.0
        self._began = self._row_began = self._time()
        self._tokens = self._steps = 0

    def count(self, tokens: int) -> None:
        """One more optimizer step, over all ranks."""
        self._tokens += tokens
        self._steps += 1
        if self._steps == 1:
            self._first_ended = self._time()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens in here is not training."""
        began = self._now()
        yield
        self._paused_seconds += self._now() - began

    def tokens_per_second(self) -> float:
        """Since the last call."""
        now = self._time()
        rate = self._tokens / max(now - self._row_began, 1e-9)
        self._row_began, self._tokens = now, 0
        return rate

    def seconds_for(self, steps: int) -> float:
        """How long that many more steps will take; by the others than the first, which compiles and warms up."""
        if self._steps > 1:
            return steps * (self._time() - self._first_ended) / (self._steps - 1)
        return steps * (self._time() - self._began)

    def _time(self) -> float:
        """Seconds of training."""
        return self._now() - self._paused_seconds


def peak_memory_gib(device: torch.device) -> float:
    """The most this process has used: GPU memory where it has a GPU, else resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # kilobytes everywhere but there
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
