"""How runs are that Slurm has, asked of their login nodes at once and within seconds: for `gptops ps`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from launcher.books.ledger import InstanceRow, InstanceState, Ledger, RunRow, RunState
from launcher.clock import Clock
from launcher.commands import runs as commands
from launcher.errors import GptopsError
from launcher.paths import LocalRun, RemoteRun, StatePaths
from launcher.remote.reach import transport_to
from launcher.remote.together import each
from launcher.running.recorded import mark
from launcher.running.status import Phase, RunStatus, status_of
from launcher.slurm.job import SlurmJob

ANSWER_SECONDS = 10.0
"""For all runs of one login node together: `ps` is typed to get an answer now."""


def queued(ledger: Ledger, state: StatePaths, clock: Clock, notice: Callable[[str], None]) -> dict[str, SlurmJob]:
    """The runs that wait, by their id. What has ended is recorded; a login node that does not answer is told."""
    runs = _living(ledger)
    labels = list(dict.fromkeys(run.instance_label for run in runs))
    rows = [ledger.instance(label) for label in labels]
    found: dict[str, SlurmJob] = {}

    def ask(node: int) -> Mapping[str, RunStatus]:
        return _asked([run.run_id for run in runs if run.instance_label == labels[node]], rows[node], state, clock)

    for answer in each([row.name for row in rows], ask):
        if isinstance(answer, GptopsError):
            notice(f"{answer.what} ({answer.why}): whether its runs wait or train is not known")
            continue
        for run_id, status in answer.items():
            if status.phase is not Phase.ABSENT:
                mark(ledger, ledger.run(run_id), status)
            if status.job is not None and status.job.waits:
                found[run_id] = status.job
    return found


def _living(ledger: Ledger) -> list[RunRow]:
    """The runs that the books have as going on, on clusters that are open."""
    opened = {row.label for row in ledger.instances(InstanceState.OPEN)}
    living = [run for run in ledger.runs() if run.state is RunState.RUNNING and run.instance_label in opened]
    return [run for run in living if LocalRun(Path(run.local_root)).batch.exists()]


def _asked(run_ids: Sequence[str], row: InstanceRow, state: StatePaths, clock: Clock) -> Mapping[str, RunStatus]:
    transport, deadline = transport_to(row, state, clock), clock.monotonic() + ANSWER_SECONDS
    try:
        found = {}
        for run_id in run_ids:
            command, left = commands.read_status(RemoteRun(run_id)), deadline - clock.monotonic()
            found[run_id] = status_of(transport.run(command, timeout_seconds=max(left, 1.0)), row.name)
        return found
    finally:
        transport.close()
