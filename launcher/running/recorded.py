"""What is on record of a run that starts: its row, its folder at home, and what became of it.

The intent is recorded before anything of the run exists. Whoever starts the next run on a machine finds out what became
of those whose `gptops train` was killed, and records that, or forgets them where they never began.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from launcher.books.ledger import InstanceRow, InstanceState, Ledger, RunRow, RunState
from launcher.clock import Clock
from launcher.commands import runs as commands
from launcher.errors import LocalFault, NotFound, Unreachable
from launcher.paths import LocalRun, RemoteRun
from launcher.remote.several import machines
from launcher.remote.transport import Transport
from launcher.running.connection import connection_to
from launcher.running.launch_plan import LaunchPlan
from launcher.running.means import Means
from launcher.running.status import Phase, RunStatus, read_status
from launcher.running.stop import settled

_CONFIG = "train.yaml"


def run_row(plan: LaunchPlan, host: InstanceRow, clock: Clock) -> RunRow:
    """The line of the ledger for a run that is about to be made."""
    return RunRow(
        run_id=plan.run_id,
        job=plan.job_name,
        host_name=host.name,
        instance_label=host.label,
        project_root=str(plan.project.root),
        local_root=str(plan.local.root),
        created_at=clock.now(),
        state=RunState.PREPARING,
        exit_code=None,
        delete_remote=plan.job.sync.delete_remote,
        keep_remote=plan.job.sync.keep_remote,
    )


def make_home(plan: LaunchPlan) -> None:
    """`runs/<run_id>/` with the configuration; git is told to leave `runs/` alone, by a file in it."""
    root = plan.local.root
    try:
        root.mkdir(parents=True, exist_ok=True)
        ignore = root.parent / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n", encoding="utf-8")
        (root / _CONFIG).write_text(plan.train_yaml, encoding="utf-8")
        if plan.batch is not None:
            plan.local.batch.write_text(plan.batch, encoding="utf-8")
    except OSError as error:
        raise LocalFault(
            f"cannot write `{root}`",
            why=error.strerror or str(error),
            hint=shlex.join(["ls", "-ld", str(plan.project.root)]),
        ) from error


def _forget_at_home(row: RunRow) -> None:
    """Remove the folder of a run that never started, provided that nothing but our own files is in it."""
    root = Path(row.local_root)
    ours = {_CONFIG, LocalRun(root).batch.name}
    if root.is_dir() and ours.issuperset(there := os.listdir(root)):
        for name in there:
            (root / name).unlink()
        root.rmdir()


def require_open(host: InstanceRow, ledger: Ledger) -> None:
    """`gptops down` holds the same lock: whoever comes after it must not begin on what is gone."""
    if ledger.instance(host.label).state is not InstanceState.OPEN:
        raise NotFound(f"`{host.name}` was closed meanwhile", why="`gptops down` ended it", hint="gptops ps")


def clear_up(host: InstanceRow, means: Means) -> None:
    """Find out what became of runs whose `train` was killed: running ones are recorded, the others forgotten.

    Only called under the lock of the host's starts, so none of them is still being prepared.
    """
    for row in means.ledger.runs(instance_label=host.label):
        if row.state is RunState.ENDED:
            continue
        with _machines_of(row, means) as there:
            status = settled(row, read_status(there, RemoteRun(row.run_id)), there)
            if status.alive and status.job is None:
                means.say(f"note: `{row.run_id}` is running on `{host.name}` too; both share the machine")
            if row.state is RunState.PREPARING:
                resolve(row, status, there, means.ledger)
            elif status.is_over:
                mark(means.ledger, row, status)


@contextmanager
def _machines_of(row: RunRow, means: Means) -> Iterator[Transport]:
    """A connection to every node of a run on several; else the one that there is."""
    if not means.ledger.nodes(row.run_id):
        yield means.transport
        return
    with closing(connection_to(row, means.ledger, means.state, means.clock)) as several:
        yield several


def resolve(row: RunRow, status: RunStatus, transport: Transport, ledger: Ledger) -> RunRow:
    """Record what the host says of a run that was being prepared. One that never started is forgotten on both sides."""
    if status.phase is Phase.ABSENT:
        for machine in machines(transport):
            try:
                machine.run(commands.discard_prepared(RemoteRun(row.run_id)))
            except Unreachable:
                if machine is transport:
                    raise
        _forget_at_home(row)
    return mark(ledger, row, status)


def mark(ledger: Ledger, row: RunRow, status: RunStatus) -> RunRow:
    """Bring the ledger up to what the host says."""
    if status.is_over:
        return ledger.mark_run(row.run_id, RunState.ENDED, exit_code=status.exit_code)
    return ledger.mark_run(row.run_id, RunState.RUNNING)
