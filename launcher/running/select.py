"""Which host, which run: what the user typed, or the only one there is.

Nothing typed means "the one", never "the newest": where there are several, the
error lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from launcher.books.ledger import InstanceRow, InstanceState, Ledger, RunRow, RunState
from launcher.errors import NotFound, UsageError

MOST_LISTED = 10

Row = TypeVar("Row")


def pick_host(ledger: Ledger, name: str | None, *states: InstanceState) -> InstanceRow:
    """The host called `name`, or the only one; among those in `states` (none given: the open ones)."""
    rows = ledger.instances(*(states or (InstanceState.OPEN,)))
    if name is None and not rows:
        raise NotFound("no host is open", hint="gptops up")
    if name is not None and not any(row.name.startswith(name) for row in rows):
        _refuse_closed_group(name, ledger.group(name, InstanceState.CLOSED))
    return _only("host", name, rows, lambda row: row.name, none="gptops ps shows the open ones; gptops up opens one")


def _refuse_closed_group(name: str, closed: Sequence[InstanceRow]) -> None:
    if not closed:
        return
    machines, provider = len({row.name for row in closed}), closed[-1].provider
    where = f"--host {name}" if provider == "ssh" else f"--provider {provider} --name {name}"
    raise NotFound(f"no machine of the group `{name}` is open", hint=f"gptops up --nodes {machines} {where}")


def pick_run(ledger: Ledger, name: str | None) -> RunRow:
    """The run with this id or a prefix of it; or the only one: living, else on an open host, else at all."""
    runs = ledger.runs()
    if name is None:
        runs = _most_alive(ledger, runs)
        if not runs:
            raise NotFound("there is no run yet", hint="gptops train JOB")
    return _only("run", name, runs, lambda run: run.run_id, none="gptops ps shows the runs on open hosts")


def _most_alive(ledger: Ledger, runs: list[RunRow]) -> list[RunRow]:
    open_labels = {row.label for row in ledger.instances()}
    on_open_hosts = [run for run in runs if run.instance_label in open_labels]
    living = [run for run in on_open_hosts if run.state is not RunState.ENDED]
    return living or on_open_hosts or runs


def _only(kind: str, name: str | None, rows: Sequence[Row], word: Callable[[Row], str], *, none: str) -> Row:
    fitting = [row for row in rows if word(row) == name] or [row for row in rows if word(row).startswith(name or "")]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise NotFound(f"there is no {kind} `{name}`", why=_listed(f"known {kind}s", rows, word), hint=none)
    raise UsageError(
        f"several {kind}s fit `{name}`" if name else f"several {kind}s are possible: say which",
        why=_listed(f"{kind}s", fitting, word),
        hint=f"name one of them: {word(fitting[-1])}",
    )


def _listed(title: str, rows: Sequence[Row], word: Callable[[Row], str]) -> str:
    words = [word(row) for row in rows[-MOST_LISTED:]]
    more = f" and {len(rows) - MOST_LISTED} older" if len(rows) > MOST_LISTED else ""
    return f"{title}: {', '.join(words) or 'none'}{more}"
