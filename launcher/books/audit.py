"""A line for every step that opened, changed or ended something, for the day somebody asks.

Only ever appended to, never read by gptops. No secret and no content goes in.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from launcher.clock import Clock
from launcher.errors import LocalFault


def audit(path: Path, clock: Clock, event: str, **facts: str | int | float | None) -> None:
    """Append one JSON line. One write, so that two processes never mix theirs."""
    line = json.dumps({"at": clock.now(), "pid": os.getpid(), "event": event, **facts}) + "\n"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        raise LocalFault(
            f"could not write {path}", why=str(error), hint="set GPTOPS_HOME to a folder you may write"
        ) from error
