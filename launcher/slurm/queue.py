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
            notice(f"`{run_id}` waits: {told}{_way_out(job, run_id)}")
        clock.sleep(pause)
        pause = min(LONGEST_PAUSE_SECONDS, pause * 1.5)


def _way_out(job: SlurmJob, run_id: str) -> str:
    """What to type, for one that waiting alone does not help."""
    if not job.is_stuck:
        return ""
    release = f"`scontrol release {job.job_id}` on the cluster lets it go, " if job.is_held else ""
    return f"; it will not start by itself, {release}`gptops stop {run_id}` cancels it"
