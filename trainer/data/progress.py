"""How far a preparation is, and how long the rest will take."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from trainer.config import DataConfig
from trainer.data.documents import Source


@dataclass(frozen=True)
class Progress:
    """One look at it."""

    phase: Literal["waiting", "tokenizer", "tokens"]
    """`waiting` for another process, training the `tokenizer`, or writing `tokens`."""
    source: str = ""
    documents: int = 0
    tokens: int = 0
    bytes_done: int = 0
    bytes_total: int = 0
    tokens_per_second: float = 0.0
    share: float | None = None
    """Of the work that is done; None where nobody can tell."""
    eta_seconds: float | None = None


Report = Callable[[Progress], None]


def silently(progress: Progress) -> None:
    """A report for those who do not want any."""


class Clock:
    """Turns counts into looks at the progress of one source."""

    def __init__(self, config: DataConfig, source: Source, tokens: int, now: Callable[[], float] = time.perf_counter):
        self._config, self._source, self._now = config, source, now
        self._began, self._had = now(), tokens
        self._first_share: float | None = None

    def look(self, *, documents: int, tokens: int, samples: int, bytes_done: int) -> Progress:
        """After so many tokens and bytes of the whole source; `samples` counts documents without text too."""
        seconds = max(self._now() - self._began, 1e-9)
        share = self._share(tokens, samples, bytes_done)
        if self._first_share is None:
            self._first_share = share if self._had else 0.0
        gained = (share or 0.0) - (self._first_share or 0.0)
        return Progress(
            "tokens",
            self._source.name,
            documents,
            tokens,
            bytes_done,
            self._source.total_bytes,
            (tokens - self._had) / seconds,
            share,
            seconds * (1 - share) / gained if share is not None and gained > 0 else None,
        )

    def _share(self, tokens: int, samples: int, bytes_done: int) -> float | None:
        """By the limit that is nearest: the preparation ends with the first one that is reached."""
        config, source = self._config, self._source
        limits = [
            (tokens, config.max_tokens),
            (samples, config.max_samples),
            (bytes_done, source.total_bytes),
            (tokens, source.likely_tokens),
        ]
        shares = [done / limit for done, limit in limits if limit]
        return min(max(shares), 1.0) if shares else None
