"""What is said of runs: as they start, while one is stayed with, when they are stopped."""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher import console
from launcher.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from launcher.books.ledger import RunRow
    from launcher.running.attach import Attached
    from launcher.running.launch_plan import LaunchPlan
    from launcher.running.log_stream import LogCopy, Sink
    from launcher.running.status import RunStatus


def tell_upload(plan: LaunchPlan) -> None:
    """What is about to be uploaded, and what looks like a mistake in it."""
    from launcher.running.upload import preview

    for line in preview(plan.code):
        console.say(line)
    for warning in plan.code.warnings:
        console.warn(warning)


def tell_started(row: RunRow, names: Sequence[str], *, detach: bool, as_json: bool) -> None:
    """Before a byte of the log: from here on the run can be found, whatever becomes of this process."""
    from launcher.paths import LocalRun

    is_submitted = LocalRun(Path(row.local_root)).batch.exists()
    if as_json:
        where = {"host": row.host_name, "hosts": list(names), "local_root": row.local_root}
        _emit_line({"run_id": row.run_id, **where, "state": "submitted" if is_submitted else row.state.value})
    elif detach:
        console.emit(row.run_id)
    on = ", ".join(f"`{name}`" for name in names)
    now = f"was given to Slurm on {on}" if is_submitted else f"runs on {on} by itself now"
    console.say(f"`{row.run_id}` {now}; {_way_back(row)}")


def _way_back(row: RunRow) -> str:
    return f"come back with `gptops logs {row.run_id} -f`, end it with `gptops stop {row.run_id}`"


def stay(run: Attached, *, start: int, as_json: bool) -> int:
    """Stream until the run has ended. Returns what the shell is told."""
    from launcher.running.outcome import ending, exit_code_of

    sink = _json_lines() if as_json else _raw
    try:
        status = run.follow(sink, start=start)
    except KeyboardInterrupt:
        console.say(f"detached; `{run.row.run_id}` goes on: {_way_back(run.row)}")
        return ExitCode.INTERRUPTED
    if as_json:
        _emit_line(_status_json(run.row, status))
    console.say(ending(run.row, status))
    return exit_code_of(status)


def _raw(_position: int, block: bytes) -> None:
    console.emit_bytes(block)


def _json_lines() -> Sink:
    """One JSON object a piece of log. A character that was cut in two goes into the later piece."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def emit(position: int, block: bytes) -> None:
        _emit_line({"offset": position, "bytes": len(block), "text": decoder.decode(block)})

    return emit


def print_copy(row: RunRow, copy: LogCopy, start: int, status: RunStatus | None, *, as_json: bool) -> None:
    """The copy of the log at home from byte `start` on. `status`: the host's word, where it was asked."""
    if as_json:
        text = copy.read(start, copy.size).decode("utf-8", errors="replace")
        known = {"run_id": row.run_id, "phase": None} if status is None else _status_json(row, status)
        console.emit_json({**known, "offset": start, "text": text})
        return
    while block := copy.read(start, start + (1 << 20)):
        console.emit_bytes(block)
        start += len(block)


def tell_stopped(row: RunRow, status: RunStatus, *, as_json: bool) -> None:
    """How a run that was told to stop has ended. Raises NotFound where the host knows nothing of it."""
    from launcher.running.outcome import ended_before, ending, never_started
    from launcher.running.status import Phase

    if status.phase is Phase.ABSENT:
        raise never_started(row)
    if as_json:
        console.emit_json(_status_json(row, status))
    elif status.has_succeeded or status.was_stopped:
        console.say(ending(row, status))
    else:
        console.say(ended_before(row, status))


def _status_json(row: RunRow, status: RunStatus) -> dict[str, Any]:
    from dataclasses import asdict

    return {"run_id": row.run_id, "host": row.host_name, **asdict(status), "phase": status.phase.value}


def _emit_line(value: dict[str, Any]) -> None:
    console.emit(json.dumps(value))
