"""What a tracker is told, and what it must be able to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class TrackedRun:
    """A run as its trackers know it."""

    id: str
    """The same after every resume, on whatever machine: 32 hexadecimal digits."""
    name: str
    """For people."""
    project: str
    folder: Path
    """The run's: what a tracker writes to disk goes below it."""
    config: Mapping[str, Any]
    step: int
    """From which it begins or goes on; what was told beyond it, before a crash, comes again."""


class Tracker(Protocol):
    """One service or format. Steps never go back: a run that resumes tells the same rows again, and a tracker that
    has them keeps those it has, or replaces them."""

    def log(self, step: int, row: Mapping[str, float | str]) -> None:
        """Numbers and texts of one step; several rows may have the same step."""

    def close(self) -> None:
        """Send what is not sent yet. A run that resumes is opened again."""
