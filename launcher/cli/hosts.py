"""Verbs about open machines: ps, ssh, down."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

from launcher import console, screen
from launcher.cli import completion
from launcher.cli.host_views import (
    HOST_COLUMNS,
    ended_json,
    errors_json,
    host_cells,
    host_json,
    queued_json,
    run_words,
    told,
)
from launcher.cli.options import Json, examples

if TYPE_CHECKING:
    from collections.abc import Mapping

    from launcher.books.ledger import InstanceRow, Ledger
    from launcher.clock import Clock
    from launcher.hosts.down import Ended
    from launcher.slurm.job import SlurmJob

app = typer.Typer()

WORDS = "gptops.words"

HostName = Annotated[
    str | None,
    typer.Argument(
        metavar="[HOST]", help="Its name; may be left out while one is open.", autocompletion=completion.hosts
    ),
]

# What a verb needs is imported inside it: `gptops ps` loads the ledger and nothing else.


@app.command(epilog=examples("gptops ps", "gptops ps --json | jq '.[].cost_usd'"))
def ps(as_json: Json = False) -> None:
    """List the open machines, what they cost so far, when they end themselves, and the runs on them.

    From this computer's books alone, so it answers at once; `gptops logs` and `gptops sync` ask the machine. Only of a
    run that Slurm has is its login node asked, for some seconds, because it may wait.
    """
    from launcher.books.ledger import Ledger
    from launcher.books.spending import spent
    from launcher.clock import SystemClock
    from launcher.paths import state_paths

    clock = SystemClock()
    with Ledger(state_paths().ledger, clock) as ledger:
        waiting = _waiting(ledger, clock)
        now = clock.now()
        rows = [(row, run_words(ledger, row, waiting), spent(ledger, row.label, now)) for row in ledger.instances()]
        queued = [queued_json(ledger, row, waiting) for row, _, _ in rows]
    if as_json:
        lines = [host_json(row, runs, now, cost) for row, runs, cost in rows]
        console.emit_json([{**line, "queued": jobs} for line, jobs in zip(lines, queued, strict=True)])
        return
    if not rows:
        console.say("no host is open; `gptops up` opens one")
        return
    console.table(HOST_COLUMNS, [host_cells(row, runs, now, cost) for row, runs, cost in rows])
    for row, _, _ in rows:
        if row.state.value in ("intended", "closing"):
            word = "opened" if row.state.value == "intended" else "ended"
            console.say(f"`{row.name}` is just being {word}; if no gptops does that now: `gptops down {row.name}`")


def _waiting(ledger: Ledger, clock: Clock) -> Mapping[str, SlurmJob]:
    """The runs that wait in a queue. Only where Slurm has one of them is anything imported and anybody asked."""
    from launcher.books.ledger import RunState
    from launcher.paths import LocalRun, state_paths

    living = [run for run in ledger.runs() if run.state is RunState.RUNNING]
    if not any(LocalRun(Path(run.local_root)).batch.exists() for run in living):
        return {}
    from launcher.slurm.asking import queued

    return queued(ledger, state_paths(), clock, console.warn)


class AsTyped(typer.core.TyperCommand):
    """Keeps the words as they were typed: the parser takes a first `--` away, and with it what it meant."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta[WORDS] = list(args)
        return super().parse_args(ctx, args)


@app.command(
    cls=AsTyped,
    context_settings={"allow_interspersed_args": False},
    epilog=examples(
        "gptops ssh",
        "gptops ssh local-3f2a -- nvidia-smi",
        "gptops ssh -- 'tail -f gptops/*/logs/train.log'",
        "gptops ssh --json local-3f2a -- nvidia-smi -L | jq -r .stdout",
    ),
)
def ssh(
    ctx: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[HOST] [-- CMD]...",
            help="The machine, and what to run there.",
            autocompletion=completion.first_host,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Open a shell on a machine, or run one command there.

    One word is given to the machine's shell as it is; several arrive exactly as they are. Ends with the command's code.
    With --json, which stands before the machine: what the command wrote, or without one how to connect.
    """
    from launcher.books.ledger import Ledger
    from launcher.clock import SystemClock
    from launcher.commands.hosts import answer, typed
    from launcher.paths import state_paths
    from launcher.remote.reach import transport_to
    from launcher.running.select import pick_host

    name, command = _host_and_command(ctx.meta[WORDS])
    state, clock = state_paths(), SystemClock()
    with Ledger(state.ledger, clock) as ledger:
        row = pick_host(ledger, name)
    transport = transport_to(row, state, clock)
    tty = sys.stdin.isatty() and sys.stdout.isatty() and not as_json
    try:
        argv = transport.ssh_argv(typed(command) if command else None, tty=tty)
        if as_json and not command:
            return console.emit_json({"host": row.name, "address": row.address, "argv": argv})
        done = subprocess.run(argv, capture_output=as_json)
        if done.returncode == 255:  # OpenSSH's own failure, or the command's code: a refusal is then told in our words
            transport.run(answer(), timeout_seconds=15)
    finally:
        transport.close()
    if as_json:
        out, err = (stream.decode(errors="replace") for stream in (done.stdout, done.stderr))
        console.emit_json({"host": row.name, "exit_code": done.returncode, "stdout": out, "stderr": err})
    raise typer.Exit(done.returncode)


@app.command(
    epilog=examples("gptops down", "gptops down local-3f2a --sync-first", "gptops down --all", "gptops down --discard")
)
def down(
    host: HostName = None,
    everything: Annotated[bool, typer.Option("--all", help="End every open machine.")] = False,
    sync_first: Annotated[
        bool, typer.Option("--sync-first", help="Stop the runs, let them save, bring everything home, then end it.")
    ] = False,
    discard: Annotated[bool, typer.Option("--discard", help="End it with whatever is only there.")] = False,
    as_json: Json = False,
) -> None:
    """End a machine, and prove that it is gone.

    Refuses while a run goes on or a whole checkpoint is not verified at home, and says which.
    """
    from launcher.books.ledger import Ledger
    from launcher.clock import SystemClock
    from launcher.errors import GptopsError, UsageError
    from launcher.hosts.down import Downer
    from launcher.paths import state_paths
    from launcher.running.tick import Talk

    if (host and everything) or (sync_first and discard):
        raise UsageError("these two exclude each other", hint="gptops down --help")
    state, clock = state_paths(), SystemClock()
    ended: list[Ended] = []
    failed: list[GptopsError] = []
    with Ledger(state.ledger, clock) as ledger:
        talk = Talk(screen.progress, lambda pulled: console.say(f"synced `{pulled.name}`"), console.say)
        downer = Downer(ledger, state, clock, talk, sync_first=sync_first, discard=discard)
        several = _to_end(ledger, host, everything)
        for row in several:
            try:
                ended.append(downer.end(row))
                console.say(told(ended[-1]))
            except GptopsError as error:
                failed.append(error)
                if len(several) > 1:
                    console.show_error(error)
    if failed and not (as_json and (everything or len(several) > 1)):
        raise failed[0]
    if as_json:
        console.emit_json({"ended": [ended_json(each) for each in ended], "errors": errors_json(failed)})
    elif not ended:
        console.say("no host is open")
    if failed:
        raise typer.Exit(failed[0].exit_code)


def _to_end(ledger: Ledger, host: str | None, everything: bool) -> list[InstanceRow]:
    from launcher.books.ledger import InstanceState
    from launcher.hosts.down import require_whole
    from launcher.running.select import pick_host

    if everything:
        return ledger.instances()
    found = ledger.group(host) or [
        pick_host(ledger, host, InstanceState.OPEN, InstanceState.INTENDED, InstanceState.CLOSING)
    ]
    require_whole(found, ledger)
    return found


def _host_and_command(words: list[str]) -> tuple[str | None, list[str]]:
    """`[--json] [HOST] [--] CMD...`; without a `--` the first word is the host."""
    while words[:1] == ["--json"]:
        words = words[1:]
    before = words.index("--") if "--" in words[:2] else min(1, len(words))
    command = words[before + 1 :] if "--" in words[:2] else words[before:]
    return (words[0] if before else None), command
