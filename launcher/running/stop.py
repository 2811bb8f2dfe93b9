"""End a run on its host, give it time to save, and prove that nothing of it is left."""

from __future__ import annotations

from launcher.commands import runs as commands
from launcher.errors import RunFailed
from launcher.paths import RemoteRun
from launcher.remote.transport import Transport
from launcher.running.status import RunStatus, status_of

GRACE_SECONDS = 300
"""A step may take a minute, a large checkpoint another two. Ends as soon as the run does."""
_KILL_SECONDS = 60.0
"""What killing, and proving it, may take after that."""
_SURVIVORS = 70


def stop_run(transport: Transport, run: RemoteRun, *, grace_seconds: int = GRACE_SECONDS) -> RunStatus:
    """How the run ended. Stopping what has ended changes nothing; a lost connection does not undo the request.

    Raises RunFailed where a process of the run could not be killed.
    """
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
