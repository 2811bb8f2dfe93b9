"""Which open machines a run on several nodes takes: those of one group that answer."""

from __future__ import annotations

from collections.abc import Sequence

from launcher.books.ledger import InstanceRow, InstanceState, Ledger
from launcher.clock import Clock
from launcher.commands import hosts as commands
from launcher.errors import GptopsError, NotFound, Unreachable, UsageError
from launcher.paths import StatePaths
from launcher.remote.reach import transport_to
from launcher.remote.together import each
from launcher.remote.transport import Transport

ANSWER_SECONDS = 20.0
"""A machine that is up answers within a moment; one without power never does."""


def open_group(ledger: Ledger, name: str | None) -> list[InstanceRow]:
    """The open machines of the group called `name`, or of the only group that is open."""
    rows = [row for row in ledger.instances(InstanceState.OPEN) if row.group_name]
    groups = list(dict.fromkeys(row.group_name for row in rows))
    fitting = [group for group in groups if name in (None, group)]
    if len(fitting) > 1:
        raise UsageError("several groups are open: say which", why=", ".join(groups), hint=f"--host {groups[0]}")
    return [row for row in rows if row.group_name in fitting]


def choose_nodes(
    ledger: Ledger, name: str | None, count: int, job: str, state: StatePaths, clock: Clock
) -> list[InstanceRow]:
    """So many machines of the group that answer now. Raises NotFound or Unreachable with what to type instead."""
    rows = open_group(ledger, name)
    if len(rows) < count:
        have = ", ".join(row.name for row in rows) or "none"
        raise NotFound(
            f"the job wants {count} nodes, and {len(rows)} are open" + (f" of `{name}`" if name else ""),
            why=f"open: {have}",
            hint=_with_fewer(job, rows) if rows else f"gptops up --nodes {count} --host {name or 'GROUP'}",
        )
    answering, silent = _asked(rows, state, clock)
    if len(answering) < count:
        raise Unreachable(
            f"{len(answering)} of {len(rows)} nodes answer, {count} are wanted",
            why="; ".join(f"{error.what}: {error.why}" for error in silent),
            hint=_with_fewer(job, answering) if answering else "gptops ps",
        )
    return answering[:count]


def most_nodes(rows: Sequence[InstanceRow], count: int, state: StatePaths, clock: Clock) -> list[InstanceRow]:
    """Those of these machines that answer now, so many at most: what is lost is left out, a spare one takes its place.

    Raises Unreachable where none answers.
    """
    answering, silent = _asked(rows, state, clock)
    if not answering:
        raise Unreachable(f"no machine of `{rows[0].group_name}` answers", why=silent[0].why, hint="gptops ps")
    return answering[:count]


def _with_fewer(job: str, rows: Sequence[InstanceRow]) -> str:
    return f"gptops train {job} --host {rows[0].group_name} --nodes {len(rows)}"


def _asked(rows: Sequence[InstanceRow], state: StatePaths, clock: Clock) -> tuple[list[InstanceRow], list[GptopsError]]:
    transports: list[Transport] = [transport_to(row, state, clock) for row in rows]

    def ask(node: int) -> bool:
        try:
            return transports[node].run(commands.answer(), timeout_seconds=ANSWER_SECONDS).exit_code == 0
        finally:
            transports[node].close()

    answers = each([row.name for row in rows], ask)
    there = [row for row, answer in zip(rows, answers, strict=True) if answer is True]
    return there, [answer for answer in answers if isinstance(answer, GptopsError)]
