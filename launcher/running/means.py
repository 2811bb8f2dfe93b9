"""What starting a run needs besides its plan: the machine, the books, the clock, somebody to tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from launcher.books.ledger import Ledger
from launcher.checkpoints.pull import Progress
from launcher.clock import Clock
from launcher.paths import StatePaths
from launcher.remote.transport import Transport


@dataclass(frozen=True)
class Means:
    """What carrying out needs besides the plan."""

    transport: Transport
    ledger: Ledger
    state: StatePaths
    clock: Clock
    say: Callable[[str], None]
    """Told each step, in one line."""
    progress: Progress
