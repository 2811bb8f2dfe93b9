"""Which open machines a run on several nodes takes: those of one group that answer."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager, nullcontext, suppress

from launcher.books.ledger import InstanceRow, InstanceState, Ledger
from launcher.clock import Clock
from launcher.commands import hosts as commands
from launcher.errors import GptopsError, NotFound, Unreachable, UsageError
from launcher.paths import StatePaths
from launcher.remote.reach import transport_if_there
from launcher.remote.together import each
from launcher.remote.transport import Transport

ANSWER_SECONDS = 20.0
"""A machine that is up answers within a moment; one without power never does."""


def open_group(ledger: Ledger, name: str | None) -> list[InstanceRow]:
    """The open machines of the group called `name`, or of the only group that is open; by their names."""
    rows = sorted((row for row in ledger.instances(InstanceState.OPEN) if row.group_name), key=lambda row: row.name)
    groups = list(dict.fromkeys(row.group_name for row in rows))
    fitting = [group for group in groups if name in (None, group)]
    if len(fitting) > 1:
        raise UsageError("several groups are open: say which", why=", ".join(groups), hint=f"--host {groups[0]}")
    return [row for row in rows if row.group_name in fitting]


def choose_nodes(
    ledger: Ledger,
    name: str | None,
    count: int,
    job: str,
    state: StatePaths,
    clock: Clock,
    *,
    keep: MutableMapping[str, Transport] | None = None,
) -> list[InstanceRow]:
    """So many machines of the group that answer now. Raises NotFound or Unreachable with what to type instead.

    `keep` gets the connections over which they answered, by label, ready for files too, and is the caller's to close.
    """
    rows = open_group(ledger, name)
    if len(rows) < count:
        have, other = ", ".join(row.name for row in rows) or "none", _other_group(ledger, name, count)
        raise NotFound(
            f"the job wants {count} nodes, and {len(rows)} are open" + (f" of `{name}`" if name else ""),
            why=f"open: {have}",
            hint=_hint(job, rows, other, count) or f"gptops up --job {job} --nodes {count}",
        )
    transports = [transport_if_there(row, state, clock) for row in rows]
    answering, silent = _asked(rows, transports, for_files=keep is not None)
    chosen = answering[:count] if len(answering) >= count else []
    for row, transport in zip(rows, transports, strict=True):
        if keep is not None and row in chosen:
            keep[row.label] = transport
        else:
            transport.close()
    if not chosen:
        raise Unreachable(
            f"{len(answering)} of {len(rows)} nodes answer, {count} are wanted",
            why="; ".join(f"{error.what}: {error.why}" for error in silent),
            hint=_with_fewer(job, answering) if answering else "gptops ps",
        )
    return chosen


def most_nodes(rows: Sequence[InstanceRow], count: int, state: StatePaths, clock: Clock) -> list[InstanceRow]:
    """Those of these machines that answer now, so many at most: what is lost is left out, a spare one takes its place.

    Raises Unreachable where none answers.
    """
    transports = [transport_if_there(row, state, clock) for row in rows]
    answering, silent = _asked(rows, transports)
    for transport in transports:
        transport.close()
    if not answering:
        raise Unreachable(f"no machine of `{rows[0].group_name}` answers", why=silent[0].why, hint="gptops ps")
    return answering[:count]


def _other_group(ledger: Ledger, name: str | None, count: int) -> list[InstanceRow]:
    """The machines of an open group that is large enough, where another one was asked for."""
    rows = [row for row in ledger.instances(InstanceState.OPEN) if row.group_name not in ("", name)]
    groups = [[row for row in rows if row.group_name == group] for group in dict.fromkeys(r.group_name for r in rows)]
    return next((group for group in groups if len(group) >= count), [])


def _hint(job: str, rows: Sequence[InstanceRow], other: Sequence[InstanceRow], count: int) -> str:
    return _with_fewer(job, other[:count] or rows) if other or rows else ""


def _with_fewer(job: str, rows: Sequence[InstanceRow]) -> str:
    return f"gptops train {job} --host {rows[0].group_name} --nodes {len(rows)}"


def _asked(
    rows: Sequence[InstanceRow], transports: Sequence[Transport], *, for_files: bool = False
) -> tuple[list[InstanceRow], list[GptopsError]]:
    def ask(node: int) -> bool:
        with _logging_in(transports[node]) if for_files else nullcontext():
            return transports[node].run(commands.answer(), timeout_seconds=ANSWER_SECONDS).exit_code == 0

    answers = each([row.name for row in rows], ask)
    there = [row for row, answer in zip(rows, answers, strict=True) if answer is True]
    return there, [answer for answer in answers if isinstance(answer, GptopsError)]


@contextmanager
def _logging_in(transport: Transport) -> Iterator[None]:
    """Meanwhile OpenSSH logs in too, over whose shared connection the files go: a second login that nobody waits for.

    Whether it works is not asked here: who needs it finds out, and says so.
    """
    child = subprocess.Popen(
        transport.ssh_argv(commands.answer()),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
        with suppress(subprocess.TimeoutExpired):
            child.wait(ANSWER_SECONDS)
    finally:
        child.kill()
        child.wait()
