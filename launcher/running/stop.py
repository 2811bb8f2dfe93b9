"""End a run on its host, give it time to save, and prove that nothing of it is left."""

from __future__ import annotations

from launcher.books.ledger import RunRow, RunState
from launcher.commands import runs as commands
from launcher.errors import RunFailed, Unreachable
from launcher.paths import RemoteRun
from launcher.remote.several import Several, machines
from launcher.remote.together import each
from launcher.remote.transport import Transport
from launcher.running.status import NodesStatus, Phase, RunStatus, status_of, status_of_nodes

GRACE_SECONDS = 300
"""A step may take a minute, a large checkpoint another two. Ends as soon as the run does."""
START_GRACE_SECONDS = 10
"""What nodes that did start get to end, when one did not: they have nothing to save yet."""
_KILL_SECONDS = 60.0
"""What killing, and proving it, may take after that."""
_SURVIVORS = 70


def stop_run(transport: Transport, run: RemoteRun, *, grace_seconds: int = GRACE_SECONDS) -> RunStatus:
    """How the run ended. Stopping what has ended changes nothing; a lost connection does not undo the request.

    Raises RunFailed where a process of the run could not be killed.
    """
    if isinstance(transport, Several):
        return _stop_nodes(transport, run, grace_seconds)
    command = commands.stop_run(run, grace_seconds)
    result = transport.run(command, timeout_seconds=grace_seconds + _KILL_SECONDS)
    status = status_of(result, transport.host.name)
    if result.exit_code == _SURVIVORS or status.alive:
        raise RunFailed(
            f"`{run.run_id}` could not be stopped: {status.processes} processes are still there",
            why="SIGKILL did not end them; a process that waits for a dead disk or GPU cannot be ended",
            hint=f"gptops down {transport.host.name}   # ends the host and everything on it",
        )
    return status


def _stop_nodes(several: Several, run: RemoteRun, grace_seconds: int) -> RunStatus:
    """All at once: they agree on the step after which they save. Raises what is wrong with one of them, after all."""
    nodes = several.nodes
    answers = each(several.names, lambda node: stop_run(nodes[node], run, grace_seconds=grace_seconds))
    silent = [name for name, answer in zip(several.names, answers, strict=True) if isinstance(answer, Unreachable)]
    status = status_of_nodes(several.names, answers)
    if silent and not status.is_over:
        raise Unreachable(
            f"`{run.run_id}` was stopped, but not on {', '.join(silent)}",
            why="no answer; what trains there ends by itself without the others",
            hint=f"gptops stop {run.run_id}",
        )
    return status


def settled(row: RunRow, status: RunStatus, there: Transport) -> RunStatus:
    """The status of a run whose start may have been cut off; one that began on some of its nodes alone has never been.

    It would wait for the others, and fail after minutes that bill.
    """
    if row.state is RunState.PREPARING and isinstance(status, NodesStatus) and status.is_in_part:
        end_start(there, RemoteRun(row.run_id))
        return RunStatus(Phase.ABSENT)
    return status


def end_start(there: Transport, run: RemoteRun) -> None:
    """End what has started of a run on several nodes; one that cannot be told gives up by itself, alone as it is."""
    nodes = machines(there)
    each([node.host.name for node in nodes], lambda node: stop_run(nodes[node], run, grace_seconds=START_GRACE_SECONDS))
