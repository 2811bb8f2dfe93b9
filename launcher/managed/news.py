"""What a user wants to be told while nobody looks: the events of an errand, as values."""

from __future__ import annotations

import enum
from dataclasses import asdict, dataclass


class Event(str, enum.Enum):
    """When somebody is told."""

    END = "end"
    FAILURE = "failure"
    PREEMPTION = "preemption"
    BUDGET = "budget"


@dataclass(frozen=True)
class News:
    """One event."""

    event: Event
    errand: str
    job: str
    run: str
    host: str
    text: str
    """One line, for people."""
    spent_usd: float
    step: int | None = None
    """Of the newest checkpoint at home."""

    def fields(self) -> dict[str, str | float | int | None]:
        """For programs."""
        return {**asdict(self), "event": self.event.value, "spent_usd": round(self.spent_usd, 4)}
