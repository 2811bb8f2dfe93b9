"""run.env: the values a run is started with, as text that a shell reads. Quoted here, once.

Names are checked where jobs.yaml is read; here only those are refused that a
shell or torchrun would not take from anybody.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping

from launcher.errors import JobsError

_THE_SHELLS = frozenset({"BASHOPTS", "BASH_VERSINFO", "EUID", "PPID", "SHELLOPTS", "UID"})
"""bash ends a script that assigns one of these."""
_THE_STARTERS = frozenset(
    {"RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
)
"""torchrun tells each process its own."""


def refuse_reserved(names: Iterable[str], *, job_name: str) -> None:
    """Raises JobsError where a job sets a variable that would not arrive, or would break what starts it."""
    for name in names:
        owner = "the shell" if name in _THE_SHELLS else "torchrun" if name in _THE_STARTERS else ""
        if owner:
            raise JobsError(
                f"jobs.{job_name}: `{name}` cannot be set", why=f"{owner} sets it itself", hint="choose another name"
            )


def run_env(values: Mapping[str, str]) -> bytes:
    """One `NAME='value'` a line; a value may hold anything but NUL, newlines included."""
    lines = [f"{name}={shlex.quote(value)}\n" for name, value in values.items()]
    return os.fsencode("".join(lines))
