"""How long to wait before the next try: doubling, bounded, reset by success. Pure; the caller sleeps."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Backoff:
    """Pauses of 2, 4, 8, … seconds up to a limit."""

    first_seconds: float = 2.0
    limit_seconds: float = 60.0
    failures: int = 0

    def after_failure(self) -> float:
        """Seconds to wait now that one more try has failed."""
        self.failures += 1
        return min(self.limit_seconds, self.first_seconds * 2.0 ** min(self.failures - 1, 32))

    def after_success(self) -> None:
        """Start again from the first pause."""
        self.failures = 0
