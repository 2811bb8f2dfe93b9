"""Wait while a run's job waits, telling where it stands in the queue whenever that has changed."""

from __future__ import annotations

from collections.abc import Callable

from launcher.clock import Clock
from launcher.errors import Unreachable
from launcher.slurm.job import SlurmJob

FIRST_PAUSE_SECONDS = 2.0
LONGEST_PAUSE_SECONDS = 30.0
"""The controller serves the whole cluster."""


def await_start(look: Callable[[], SlurmJob | None], run_id: str, notice: Callable[[str], None], clock: Clock) -> None:
    """Returns when the job does not wait (any more), or the host does not answer: who follows the log sees to that."""
    told, pause = "", FIRST_PAUSE_SECONDS
    while True:
        try:
            job = look()
        except Unreachable:
            return
        if job is None or not job.waits:
            return
        if job.words() != told:
            told = job.words()
            stuck = f"; it will not start by itself, `gptops stop {run_id}` cancels it" if job.is_stuck else ""
            notice(f"`{run_id}` waits: {told}{stuck}")
        clock.sleep(pause)
        pause = min(LONGEST_PAUSE_SECONDS, pause * 1.5)
