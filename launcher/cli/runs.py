"""Verbs about runs: train, logs, stop."""

from __future__ import annotations

import os
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launcher import console, screen
from launcher.cli import completion
from launcher.cli.options import Json, examples
from launcher.cli.run_views import print_copy, stay, tell_started, tell_stopped, tell_upload
from launcher.errors import NotFound, Unreachable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from launcher.books.ledger import InstanceRow
    from launcher.remote.transport import Transport
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
    from launcher.running.launch import launch
    from launcher.running.launch_plan import new_run_id, plan_json, plan_text
    from launcher.running.launch_request import LaunchRequest, plan_of
    from launcher.running.means import Means

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
        tell_upload(plan)
        transport: Transport
        there = [reached.get(each.label) or transport_to(each, state, clock) for each in hosts]
        with closing(Several(there)) as several:
            if len(hosts) == 1:
                [on], [transport] = hosts, several.nodes
                row = launch(plan, on, Means(transport, ledger, state, clock, console.say, screen.progress))
            else:
                means = NodesMeans(several, ledger, state, clock, console.say)
                row, transport = launch_on_nodes(plan, hosts, means)
            if newest is not None:
                adopt(newest, plan.local)
            tell_started(row, [each.host.name for each in machines(transport)], detach=detach, as_json=as_json)
            if detach:
                return 0
            return stay(Attached(row, transport, ledger, state, clock, console.say), start=0, as_json=as_json)


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
                    return stay(there, start=start, as_json=as_json)
        if status is not None and status.job is not None and status.job.waits:
            console.say(f"`{row.run_id}` waits: {status.job.words()}")
        if status is not None and status.phase is Phase.LOST:
            console.warn(ended_before(row, status) + (f": {status.job.words()}" if status.job else ""))
        print_copy(row, copy, start, status, as_json=as_json)
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
    tell_stopped(row, status, as_json=as_json)


def _talk() -> Talk:
    from launcher.running.tick import Talk

    return Talk(screen.progress, lambda pulled: console.say(f"synced `{pulled.name}`"), console.say)
