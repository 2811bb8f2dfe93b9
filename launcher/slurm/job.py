"""One Slurm job as its queue tells it, and in words. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_WAITING = frozenset({"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT"})
_MEANINGS = {
    "Resources": "no free machines yet",
    "Priority": "others come first",
    "BeginTime": "Slurm lets a requeued job wait for two minutes",
    "Dependency": "it waits for another job",
}
_HELD = {
    "JobHeldUser": "it is held",
    "JobHeldAdmin": "it is held by the cluster's staff",
    "launch_failed_requeued_held": "its node could not start it, and it is held",
}
_STUCK = {
    "PartitionDown": "its partition is down",
    "PartitionInactive": "its partition is inactive",
    "PartitionTimeLimit": "it asks for more time than its partition allows",
    "PartitionNodeLimit": "it asks for more or fewer nodes than its partition allows",
    "BadConstraints": "no machine has what it asks for",
    **_HELD,
    "InvalidAccount": "its account may not run it",
    "InvalidQOS": "its qos may not run it",
}
"""Reasons that waiting alone does not end (Slurm's own list: `man squeue`, JOB REASON CODES)."""


@dataclass(frozen=True)
class SlurmJob:
    """What the controller says of one job."""

    job_id: str
    state: str
    """Slurm's word: PENDING, RUNNING, ...; GONE: it knows no such job (any more); UNKNOWN: it does not answer."""
    reason: str = ""
    """Slurm's word for why it waits or how it ended; its own complaint where it did not answer."""
    position: str = ""
    """Of a job that waits: `2 of 7 in debug`."""
    not_requeued: str = ""
    """Of one whose turn is over and that was to go on: why Slurm did not take it back into its queue."""

    @property
    def waits(self) -> bool:
        """It is in the queue, and nothing of it runs."""
        return self.state in _WAITING

    @property
    def was_cancelled(self) -> bool:
        """Somebody, or the cluster's staff, has ended it: nothing of it is wanted any more."""
        return self.state.startswith("CANCELLED")

    @property
    def is_stuck(self) -> bool:
        """It will not start by itself."""
        return self.waits and self.reason in _STUCK

    @property
    def is_held(self) -> bool:
        """Somebody has to release it."""
        return self.waits and self.reason in _HELD

    def words(self) -> str:
        """One line for people."""
        if self.state == "GONE":
            return f"Slurm knows no job {self.job_id} (any more)"
        if self.state == "UNKNOWN":
            return f"Slurm does not answer: {self.reason}"
        return f"job {self.job_id} is {self.state}{self._why()}{f', {self.position}' if self.position else ''}"

    def queued(self) -> str:
        """The same of a job that waits, in short: `queued, 2 of 7 in debug (Priority: others come first)`."""
        return f"queued{f', {self.position}' if self.position else ''}{self._why()}"

    def _why(self) -> str:
        if self.reason in ("", "None"):
            return ""
        meaning = _STUCK.get(self.reason) or _MEANINGS.get(self.reason)
        return f" ({self.reason}: {meaning})" if meaning else f" ({self.reason})"


def job_of(facts: Mapping[str, str]) -> SlurmJob | None:
    """The job among the facts of `run.sh status`; None where no scheduler has the run."""
    if not facts.get("job_state"):
        return None
    names = ("job_id", "job_state", "job_reason", "job_position", "job_not_requeued")
    return SlurmJob(*(facts.get(name, "") for name in names))


def nodes_in(text: str) -> int:
    """On how many nodes the batch file of a run wants it to run."""
    lines = (line.partition("--nodes=")[2] for line in text.splitlines() if line.startswith("#SBATCH --nodes="))
    return int(next(lines, "1"))
