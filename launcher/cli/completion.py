"""What the shell's TAB key offers: hosts, runs, jobs, providers.

It runs at every TAB, so it reads the ledger and the lines of jobs.yaml, and neither
connects nor imports what does. Where something is wrong it offers nothing: a
complaint would land in the line that is being typed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from launcher.books.ledger import Ledger


def hosts(incomplete: str) -> list[str]:
    """Hosts that are not closed."""
    return _offered(incomplete, lambda: _from_ledger(lambda ledger: [row.name for row in ledger.instances()]))


def first_host(ctx: Any, incomplete: str) -> list[str]:
    """A host as the first word of several; what follows is a command for that host."""
    return [] if ctx.params.get("words") else hosts(incomplete)


def runs(incomplete: str) -> list[str]:
    """Runs, the newest first."""
    return _offered(incomplete, lambda: _from_ledger(lambda ledger: [row.run_id for row in ledger.runs()][::-1]))


def living_runs(incomplete: str) -> list[str]:
    """Runs that have not ended, as far as we know."""
    return _offered(
        incomplete,
        lambda: _from_ledger(lambda ledger: [row.run_id for row in ledger.runs() if row.state.value != "ended"][::-1]),
    )


def errands(incomplete: str) -> list[str]:
    """What `gptops run` has begun and not seen to its end."""
    return _offered(
        incomplete,
        lambda: _from_ledger(lambda ledger: [row.errand_id for row in ledger.errands() if row.state.value == "going"]),
    )


def jobs(incomplete: str) -> list[str]:
    """Jobs of the project's jobs.yaml."""
    return _offered(incomplete, lambda: _from_jobs_file("jobs"))


def own_machines(incomplete: str) -> list[str]:
    """Machines under `hosts` in the project's jobs.yaml, and `groups` of them."""
    return _offered(incomplete, lambda: [*_from_jobs_file("hosts"), *_from_jobs_file("groups")])


def entries(incomplete: str) -> list[str]:
    """Entries under `hosts` in the project's jobs.yaml, clusters among them."""
    return _offered(incomplete, lambda: _from_jobs_file("hosts"))


def providers(incomplete: str) -> list[str]:
    """Who can give a machine."""
    from launcher.providers.by_name import AVAILABLE

    return _offered(incomplete, lambda: AVAILABLE)


def _offered(incomplete: str, words: Callable[[], Iterable[str]]) -> list[str]:
    try:
        return [word for word in words() if word.startswith(incomplete)]
    except Exception:  # noqa: BLE001 - whatever it is, the verb itself will say it
        return []


def _from_ledger(names: Callable[[Ledger], list[str]]) -> list[str]:
    """Nothing where there is no ledger yet: a TAB does not make one."""
    from launcher.books.ledger import Ledger
    from launcher.clock import SystemClock
    from launcher.paths import state_paths

    path = state_paths().ledger
    if not path.exists():
        return []
    with Ledger(path, SystemClock()) as ledger:
        return names(ledger)


def _from_jobs_file(section: str) -> list[str]:
    from launcher.project import find_project
    from launcher.spec.job_names import names_in

    return names_in(find_project(Path.cwd()).jobs_file, section)
