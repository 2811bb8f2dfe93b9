"""Secrets of a job: names in jobs.yaml, values from this machine's environment, and nowhere else on the way.

They travel on stdin into run.env (0600) on the host. No command line, no ledger,
no log and no plan holds one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from launcher.errors import JobsError

MASK = "********"
"""What a plan shows instead of a value. Its length says nothing."""


def secret_values(names: Sequence[str], environment: Mapping[str, str], *, job_name: str) -> dict[str, str]:
    """The values of `names`. Raises JobsError that lists all that are not set, or are empty."""
    missing = [name for name in names if not environment.get(name)]
    if missing:
        listed = ", ".join(f"`{name}`" for name in missing)
        raise JobsError(
            f"the job `{job_name}` needs {listed}, not set in your environment",
            why="jobs.yaml names secrets; their values come from the shell you call gptops in",
            hint=" ".join(["export", *(f"{name}=..." for name in missing)]),
        )
    return {name: environment[name] for name in names}


def masked(values: Mapping[str, str]) -> dict[str, str]:
    """The same names with nothing behind them."""
    return dict.fromkeys(values, MASK)
