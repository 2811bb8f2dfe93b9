"""Verbs about runs: train, logs, stop."""

from __future__ import annotations

import codecs
import json
import os
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from launcher import console
from launcher.cli import completion
from launcher.cli.options import Json, examples
from launcher.errors import ExitCode, NotFound, Unreachable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from launcher.books.ledger import InstanceRow, RunRow
    from launcher.remote.transport import Transport
    from launcher.running.attach import Attached
    from launcher.running.launch_plan import LaunchPlan
    from launcher.running.log_stream import LogCopy, Sink
    from launcher.running.status import RunStatus
    from launcher.running.tick import Talk

app = typer.Typer()

_RUN = "Run, or the beginning of its name; left out where only one is possible."
RunArgument = Annotated[str | None, typer.Argument(help=_RUN, autocompletion=completion.runs)]
LivingRun = Annotated[str | None, typer.Argument(help=_RUN, autocompletion=completion.living_runs)]

# What these verbs need is imported inside them: `gptops --help` needs none of it.


@app.command(
    epilog=examples(
        "gptops train demo",
        "gptops train demo train.max_steps=200 optim.lr=3e-4",
        "gptops train pretrain --host vast-1a2b --detach",
        "gptops train demo --dry-run",
        "gptops train pretrain --nodes 2 --resume pretrain-1017-1612-3f2a",
    )
)
def train(
    job: Annotated[str, typer.Argument(help="A job of jobs.yaml.", autocompletion=completion.jobs)],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Training values laid over the job's.")
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(
            help="Which open host, or group of hosts; left out where only one is open.",
            autocompletion=completion.hosts,
        ),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Start the run and return; print its id.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and touch nothing.")] = False,
    skip_setup: Annotated[bool, typer.Option("--skip-setup", help="Use the host's environment as it is.")] = False,
    nodes: Annotated[
        int | None, typer.Option(min=1, help="Machines of an open group that train together. Else: as the job says.")
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(help="Go on from the newest checkpoint of this run.", autocompletion=completion.runs),
    ] = None,
    as_json: Json = False,
) -> int:
    """Train a job on an open host: upload, set up, start, and stream the log.

    The run goes on without this command: Ctrl-C detaches, and `gptops logs -f` comes back to it. Ends with 0 when the
    training succeeded, 9 when it failed, 75 when it was stopped.
    """
    from launcher.books.ledger import Ledger
    from launcher.checkpoints.restore import adopt
    from launcher.clock import SystemClock
    from launcher.nodes.choosing import choose_nodes, open_group
    from launcher.nodes.launching import NodesMeans, launch_on_nodes
    from launcher.paths import state_paths
    from launcher.remote.reach import transport_to
    from launcher.remote.several import Several, machines
    from launcher.running.attach import Attached
    from launcher.running.going_on import resume_point
    from launcher.running.launch import Means, launch
    from launcher.running.launch_plan import new_run_id, plan_json, plan_text
    from launcher.running.launch_request import LaunchRequest, plan_of

    state, clock = state_paths(), SystemClock()
    with Ledger(state.ledger, clock) as ledger:
        newest = None if resume is None or dry_run else resume_point(ledger, resume, state, clock, _talk())
        request = LaunchRequest(
            job, overrides or [], host, skip_setup, only_look=dry_run, nodes=nodes, resume_from=newest
        )
        run_id = new_run_id(job, clock.now(), os.urandom(2).hex())
        reached: dict[str, Transport] = {}

        def choose(name: str | None, count: int) -> Sequence[InstanceRow]:
            if dry_run:
                return open_group(ledger, name)[:count]
            return choose_nodes(ledger, name, count, job, state, clock, keep=reached)

        plan, hosts = plan_of(
            request, start=Path.cwd(), environment=os.environ, ledger=ledger, run_id=run_id, choose=choose
        )
        if dry_run:
            console.emit_json(plan_json(plan)) if as_json else console.emit(plan_text(plan))
            return 0
        _tell_upload(plan)
        transport: Transport
        there = [reached.get(each.label) or transport_to(each, state, clock) for each in hosts]
        with closing(Several(there)) as several:
            if len(hosts) == 1:
                [on], [transport] = hosts, several.nodes
                row = launch(plan, on, Means(transport, ledger, state, clock, console.say, console.progress))
            else:
                means = NodesMeans(several, ledger, state, clock, console.say)
                row, transport = launch_on_nodes(plan, hosts, means)
            if newest is not None:
                adopt(newest, plan.local)
            _tell_started(row, [each.host.name for each in machines(transport)], detach=detach, as_json=as_json)
            if detach:
                return 0
            return _stay(Attached(row, transport, ledger, state, clock, console.say), start=0, as_json=as_json)


@app.command(
    epilog=examples(
        "gptops logs",
        "gptops logs -f",
        "gptops logs demo-1017 --since 10m",
        "gptops logs --since 4096",
        "gptops logs --node 1",
    )
)
def logs(
    run: RunArgument = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run has ended.")] = False,
    since: Annotated[
        str | None, typer.Option(help="Begin that long ago (90s, 10m, 2h, 1d), or at that byte of the log (4096).")
    ] = None,
    node: Annotated[int, typer.Option(min=0, help="Of a run on several nodes: whose log.")] = 0,
    as_json: Json = False,
) -> int:
    """Print the log of a run, and keep a copy at home.

    Without -f it prints what there is and ends. A copy lies in runs/RUN/train.log, which is also shown when the host
    is gone. With -f it ends as `gptops train` does: 0, 9 when the training failed, 75 when it was stopped.
    """
    from launcher.books.ledger import Ledger
    from launcher.clock import SystemClock
    from launcher.paths import LocalRun, state_paths
    from launcher.running.attach import attached
    from launcher.running.log_stream import LogCopy
    from launcher.running.outcome import ended_before
    from launcher.running.select import pick_run
    from launcher.running.status import Phase
    from launcher.since import parse_since

    state, clock, beginning = state_paths(), SystemClock(), parse_since(since)
    with Ledger(state.ledger, clock) as ledger:
        row = pick_run(ledger, run)
        copy, status, start = LogCopy(LocalRun(Path(row.local_root)).of_node(node).log), None, beginning.offset
        with ExitStack() as stack:
            try:
                there = stack.enter_context(attached(row, ledger, state, clock, console.say, node=node))
                start = there.offset(beginning)
                status = None if follow else there.look()
            except (NotFound, Unreachable) as error:
                if not copy.size:
                    raise
                console.warn(f"{error.what}; this is the copy at home")
            else:
                if follow:
                    return _stay(there, start=start, as_json=as_json)
        if status is not None and status.job is not None and status.job.waits:
            console.say(f"`{row.run_id}` waits: {status.job.words()}")
        if status is not None and status.phase is Phase.LOST:
            console.warn(ended_before(row, status) + (f": {status.job.words()}" if status.job else ""))
        _print_copy(row, copy, start, status, as_json=as_json)
        return 0


@app.command(epilog=examples("gptops stop", "gptops stop demo-1017 --grace 60"))
def stop(
    run: LivingRun = None,
    grace: Annotated[int, typer.Option(min=0, help="Seconds it gets to save before it is killed.")] = 300,
    as_json: Json = False,
) -> None:
    """Stop a run: let it save a checkpoint, end every process of it, and prove that.

    The host stays open, and billing where it bills: `gptops down` ends that. Stopping what has ended changes nothing.
    """
    from launcher.books.ledger import Ledger
    from launcher.clock import SystemClock
    from launcher.paths import state_paths
    from launcher.running.attach import attached
    from launcher.running.select import pick_run

    state, clock = state_paths(), SystemClock()
    with Ledger(state.ledger, clock) as ledger:
        row = pick_run(ledger, run)
        with attached(row, ledger, state, clock, console.say) as there:
            job = there.job() if there.is_on_slurm else None
            if job is not None and job.waits:
                console.say(f"taking `{row.run_id}` out of the queue: {job.words()}")
            else:
                console.say(f"asking `{row.run_id}` to save and end; it gets {grace} s")
            try:
                status = there.stop(grace)
            except KeyboardInterrupt:
                console.say(f"its host goes on stopping it; look again with `gptops stop {row.run_id}`")
                raise
    _tell_stopped(row, status, as_json=as_json)


# What they say


def _talk() -> Talk:
    from launcher.running.tick import Talk

    return Talk(console.progress, lambda pulled: console.say(f"synced `{pulled.name}`"), console.say)


def _tell_upload(plan: LaunchPlan) -> None:
    from launcher.running.upload import preview

    for line in preview(plan.code):
        console.say(line)
    for warning in plan.code.warnings:
        console.warn(warning)


def _tell_started(row: RunRow, names: Sequence[str], *, detach: bool, as_json: bool) -> None:
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


def _stay(run: Attached, *, start: int, as_json: bool) -> int:
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


def _print_copy(row: RunRow, copy: LogCopy, start: int, status: RunStatus | None, *, as_json: bool) -> None:
    if as_json:
        text = copy.read(start, copy.size).decode("utf-8", errors="replace")
        known = {"run_id": row.run_id, "phase": None} if status is None else _status_json(row, status)
        console.emit_json({**known, "offset": start, "text": text})
        return
    while block := copy.read(start, start + (1 << 20)):
        console.emit_bytes(block)
        start += len(block)


def _tell_stopped(row: RunRow, status: RunStatus, *, as_json: bool) -> None:
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
