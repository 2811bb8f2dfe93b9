"""The checkpoint at home that a run of `gptops train --resume RUN` goes on from: the newest, after one more look."""

from __future__ import annotations

from pathlib import Path

from launcher.books.ledger import Ledger, RunRow
from launcher.checkpoints.restore import newest_at_home
from launcher.clock import Clock
from launcher.errors import NotFound, Unreachable
from launcher.paths import LocalRun, StatePaths
from launcher.running.connection import connection_to
from launcher.running.select import pick_run
from launcher.running.tick import Talk, watching
from launcher.running.watch import look_once


def resume_point(ledger: Ledger, name: str, state: StatePaths, clock: Clock, talk: Talk) -> Path:
    """The newest whole checkpoint of the run, wherever it is that can be reached. Raises NotFound without any."""
    row = pick_run(ledger, name)
    try:
        _bring_home(row, ledger, state, clock, talk)
    except (Unreachable, NotFound) as error:
        talk.notice(f"{error.what}; going on from what is at home")
    newest = newest_at_home([LocalRun(Path(row.local_root))])
    if newest is None:
        raise NotFound(
            f"no checkpoint of `{row.run_id}` is at home", why=f"in {row.local_root}", hint=f"gptops train {row.job}"
        )
    talk.notice(f"goes on from `{newest.name}` of `{row.run_id}`")
    return newest


def _bring_home(row: RunRow, ledger: Ledger, state: StatePaths, clock: Clock, talk: Talk) -> None:
    what = f"gptops train --resume {row.run_id}"
    with watching(row, ledger, state=state, clock=clock, talk=talk, what=what) as watched:
        last = look_once(watched, lambda: connection_to(row, ledger, state, clock))
    for problem in last.synced.problems:
        talk.notice(f"{problem.error.what}: {problem.error.why}")
