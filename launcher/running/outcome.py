"""How a run ended, in words, and what gptops answers to the shell for it. Pure.

0    it succeeded
9    it failed, or was lost: RunFailed, with the trainer's own exit code in the text
75   it was asked to stop, and did
"""

from __future__ import annotations

from launcher.books.ledger import RunRow
from launcher.errors import ExitCode, NotFound, RunFailed
from launcher.running.status import STOPPED, NodesStatus, Phase, RunStatus
from trainer.errors import ExitCode as TrainerExitCode
from trainer.manifest import step_name

LINES_SHOWN = 10

_MEANINGS = {
    TrainerExitCode.CONFIG: "its configuration was refused",
    TrainerExitCode.DATA: "its data could not be used",
    TrainerExitCode.CHECKPOINT: "no checkpoint could be used or written",
    TrainerExitCode.ENGINE: "the machine cannot run it like this",
    TrainerExitCode.PEER_LOST: "another node or process of it is gone",
    127: "its program was not found",
    128 + 6: "it aborted",
    128 + 9: "it was killed; for want of memory, most often",
    128 + 11: "it crashed: segmentation fault",
    128 + 15: "it was told to end by somebody else than gptops",
}


def exit_code_of(status: RunStatus) -> int:
    """Of an attached command whose run ended without an error."""
    return ExitCode.OK if status.has_succeeded else ExitCode.STOPPED


def require_no_failure(row: RunRow, status: RunStatus, last_lines: bytes) -> None:
    """Raises what a run that failed, was lost or never was comes to. Silent where it succeeded or was stopped."""
    if status.has_succeeded or status.was_stopped:
        return
    if status.phase is Phase.ABSENT:
        raise never_started(row)
    said = last_lines.decode("utf-8", errors="replace").rstrip()
    if status.phase is Phase.LOST:
        raise RunFailed(
            f"`{row.run_id}` was lost: nothing of it lives on `{row.host_name}`, and nothing says how it ended",
            why=_then(_why_lost(status), said),
            hint=f"gptops sync {row.run_id}   # brings home what it has saved",
        )
    if status.exit_code == TrainerExitCode.PEER_LOST and isinstance(status, NodesStatus):
        raise _node_lost(row, status, said)
    meaning = _MEANINGS.get(status.exit_code or 0)
    raise RunFailed(
        f"`{row.run_id}` ended with exit code {status.exit_code}" + (f": {meaning}" if meaning else ""),
        why=_then("its last words", said) if said else "it said nothing",
        hint=f"gptops logs {row.run_id}   # `{row.host_name}` is still open: gptops down {row.host_name}",
    )


def _why_lost(status: RunStatus) -> str:
    return status.job.words() if status.job else "the machine was restarted, or everything on it was killed"


def _node_lost(row: RunRow, status: NodesStatus, said: str) -> RunFailed:
    """The error names the command that goes on without the nodes that are gone."""
    lost, whole = status.lost_nodes, len(status.nodes)
    left = whole - len(lost)
    who = f"lost {', '.join(f'`{name}`' for name in lost)}" if lost else "its nodes lost each other"
    again = f"gptops train {row.job} --nodes {left} --resume {row.run_id}"
    spare = f"; --nodes {whole} with a spare machine of its group" if lost else ""
    return RunFailed(
        f"`{row.run_id}` {who}, and the other nodes ended with exit code {status.exit_code}",
        why=_then("their last words", said) if said else "they said nothing",
        hint=f"{again}   # on {'the rest' if lost else 'all of them'}, from its newest whole checkpoint{spare}",
    )


def never_started(row: RunRow) -> NotFound:
    """Of a run that stands in the ledger alone."""
    return NotFound(
        f"`{row.run_id}` is not on `{row.host_name}`",
        why="it was never started there, or has been removed",
        hint=f"gptops train {row.job}",
    )


def ending(row: RunRow, status: RunStatus) -> str:
    """One line about a run that succeeded or was stopped, and what to type next."""
    took = f" after {_duration(status.ended_at - status.started_at)}" if status.started_at and status.ended_at else ""
    saved = ""
    if status.checkpoint_step is not None:
        saved = f"; newest checkpoint `{step_name(status.checkpoint_step)}`, bring it home: `gptops sync {row.run_id}`"
    if status.has_succeeded:
        return f"`{row.run_id}` has ended well{took}{saved}"
    if status.job is not None and status.started_at is None:
        return f"`{row.run_id}` was taken out of the queue before it began"
    unsaved = "" if status.exit_code == STOPPED else " before it could save"
    return f"`{row.run_id}` was stopped{unsaved}{took}{saved}"


def ended_before(row: RunRow, status: RunStatus) -> str:
    """One line about a run that was over, and had not been stopped, when somebody wanted to stop it."""
    if status.phase is Phase.LOST:
        return f"nothing of `{row.run_id}` lives on `{row.host_name}` any more, and nothing says how it ended"
    return f"`{row.run_id}` had ended already, with exit code {status.exit_code}"


def _then(first: str, lines: str) -> str:
    return f"{first}:\n{lines}" if lines else first


def _duration(seconds: int) -> str:
    if seconds < 120:
        return f"{seconds} s"
    minutes = seconds // 60
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02} min"
