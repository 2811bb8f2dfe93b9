"""The last look at a host before it ends: what still trains, and what is on it alone.

Refuses an end that would lose a checkpoint. Asked of the host and of the files at
home, never of the ledger.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from launcher.books.ledger import InstanceRow, Ledger, RunRow
from launcher.checkpoints.safety import unsaved
from launcher.errors import NotVerified
from launcher.paths import LocalRun, RemoteRun
from launcher.providers.by_name import ends_as
from launcher.remote.transport import Transport
from launcher.running.status import read_status
from launcher.running.stop import stop_run
from trainer.manifest import step_name


def require_nothing_lost(row: InstanceRow, ledger: Ledger, transport: Transport) -> None:
    """Raises NotVerified, naming them, where runs still go on or whole checkpoints are not verified at home."""
    found = [fact for run in ledger.runs(instance_label=row.label) for fact in _kept_only_there(run, transport)]
    if found:
        ending = ends_as(row.provider, row.name, row.group_name)
        raise NotVerified(
            f"`{row.name}` still has what is nowhere else",
            why="\n".join(found),
            hint=f"gptops down {ending} --sync-first, or lose it: gptops down {ending} --discard",
        )


def _kept_only_there(run: RunRow, transport: Transport) -> list[str]:
    remote, facts = RemoteRun(run.run_id), []
    if read_status(transport, remote).alive:
        facts.append(f"run `{run.run_id}` is still going")
    steps = unsaved(transport, remote, LocalRun(Path(run.local_root)))
    if steps:
        facts.append(f"not verified at home of `{run.run_id}`: {', '.join(step_name(step) for step in steps)}")
    return facts


def stop_all(row: InstanceRow, ledger: Ledger, transport: Transport, say: Callable[[str], None]) -> None:
    """Let every run on the host save and end."""
    for run in ledger.runs(instance_label=row.label):
        if read_status(transport, RemoteRun(run.run_id)).alive:
            say(f"stopping `{run.run_id}`; it may save first")
            stop_run(transport, RemoteRun(run.run_id))
