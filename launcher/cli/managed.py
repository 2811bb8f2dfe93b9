"""The verbs that see a job through to its end: run, watch."""

from __future__ import annotations

import datetime
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from launcher import console, screen
from launcher.cli import completion
from launcher.cli.options import Json, examples
from launcher.errors import ExitCode, GptopsError, NotFound, UsageError

if TYPE_CHECKING:
    from launcher.books.ledger import Ledger
    from launcher.managed.errand import Errand
    from launcher.managed.here import Choices

app = typer.Typer()

# What these verbs need is imported inside them: `gptops --help` needs none of it.


@app.command(
    epilog=examples(
        "gptops run demo",
        "gptops run pretrain sft --yes",
        "gptops run pretrain --yes --detach",
        "gptops run pretrain --resume pretrain-1017-1612-3f2a",
    )
)
def run(
    jobs: Annotated[
        list[str],
        typer.Argument(
            metavar="JOB...", help="Jobs of jobs.yaml, one after the other.", autocompletion=completion.jobs
        ),
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Rent without asking.")] = False,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return when the first run has begun; `gptops watch` comes back.")
    ] = False,
    resume: Annotated[
        str | None,
        typer.Option(help="Begin from the newest checkpoint at home of this run.", autocompletion=completion.runs),
    ] = None,
    skip_setup: Annotated[bool, typer.Option("--skip-setup", help="Use the machines' environment as it is.")] = False,
    skip_test: Annotated[bool, typer.Option("--skip-test", help="Do not examine machines before training.")] = False,
    as_json: Json = False,
) -> int:
    """See jobs through: rent, test, train, bring everything home, end the machine.

    A machine that is taken back, falls silent or fails is replaced, and the training goes on from its newest
    checkpoint at home. Ctrl-C leaves the training alone; the same command again goes on wherever it was. Ends with 0
    when all is done and at home, else with the code of what ended it.
    """
    from launcher.books.ledger import Ledger
    from launcher.clock import SystemClock
    from launcher.managed import errand as errands
    from launcher.managed.here import Choices, checked_jobs
    from launcher.paths import state_paths
    from launcher.project import find_project

    project = find_project(Path.cwd())
    checked_jobs(project, tuple(jobs))
    with Ledger(state_paths().ledger, SystemClock()) as ledger:
        errand = errands.going(ledger, project.root, jobs)
        if errand is None:
            _ask(project.root, jobs, yes=yes)
            errand = errands.begin(ledger, project.root, jobs, _run_id(ledger, resume))
        else:
            console.say(f"going on with `{errand.errand_id}`")
        return _carry_out(errand, ledger, Choices(skip_setup, skip_test), detach=detach, as_json=as_json)


@app.command(epilog=examples("gptops watch", "gptops watch pretrain-3f2a", "gptops watch pretrain-1017-1612-3f2a"))
def watch(
    errand: Annotated[
        str | None,
        typer.Argument(
            help="A `gptops run`, or one of its runs, or the beginning of either's name.",
            autocompletion=completion.errands,
        ),
    ] = None,
    as_json: Json = False,
) -> int:
    """Come back to a `gptops run` that was detached or killed, and see it through."""
    from launcher.books.ledger import Ledger
    from launcher.clock import SystemClock
    from launcher.managed.here import Choices
    from launcher.paths import state_paths

    with Ledger(state_paths().ledger, SystemClock()) as ledger:
        return _carry_out(_pick(ledger, errand), ledger, Choices(), detach=False, as_json=as_json)


def _carry_out(errand: Errand, ledger: Ledger, choices: Choices, *, detach: bool, as_json: bool) -> int:
    from launcher.clock import SystemClock
    from launcher.hosts.steps import Lines
    from launcher.lock import hold
    from launcher.managed import errand as errands
    from launcher.managed.here import Here, checked_jobs
    from launcher.managed.loop import carry_out
    from launcher.paths import state_paths
    from launcher.project import find_project
    from launcher.running.tick import Talk

    state, clock, project = state_paths(), SystemClock(), find_project(Path(errand.project_root))
    jobs = checked_jobs(project, errand.jobs)
    with hold(state.locks / errands.lock_name(errand), f"gptops run {shlex.join(errand.jobs)}", clock):
        # Read under the lock: another gptops may have gone on with it until just now.
        errand = errands.read(ledger.errand(errand.errand_id))
        with screen.Live() as live:
            talk = Talk(live.progress, lambda pulled: live.say(f"synced `{pulled.name}`"), live.say)
            here = Here(project, jobs, ledger, state, clock, Lines(live.say, clock), talk, choices)
            outside = here.outside(errand, lambda view: live.draw(view.rows, view.line))
            try:
                errand = carry_out(errand, outside, only_start=detach)
            except KeyboardInterrupt:
                errand = errands.read(ledger.errand(errand.errand_id))
                detach = False
            except GptopsError as error:
                live.say(_left(errands.read(ledger.errand(errand.errand_id)), ledger))
                raise error
        return _tell(errand, ledger, detached=detach, as_json=as_json)


def _ask(project: Path, jobs: list[str], *, yes: bool) -> None:
    """Once, before anything costs money: what is allowed, and that it goes on by itself."""
    from launcher.project import JOBS_FILE
    from launcher.spec.jobs_file import load_jobs

    known = load_jobs(project / JOBS_FILE)
    billed = [name for name in jobs if known.job(name).provider not in ("local", "ssh")]
    for name in billed:
        job = known.job(name)
        price, usd = job.resources.max_price_per_hour, job.budget.max_usd
        at_most = f"${price:.2f}/h at most" if price is not None else "at any price"
        in_all = f"${usd:.2f} in all" if usd is not None else "without a limit in all (budget.max_usd)"
        each = f", for each of its {job.resources.nodes} machines" if job.resources.nodes > 1 else ""
        console.say(f"`{name}` rents at `{job.provider}`: {at_most}{each}, {in_all}")
    if billed and not yes and not (sys.stdin.isatty() and typer.confirm("rent, and replace what is lost?", err=True)):
        raise UsageError("nothing was rented", why="renting costs money", hint=f"gptops run {shlex.join(jobs)} --yes")


def _run_id(ledger: Ledger, name: str | None) -> str | None:
    """The run to begin from, which must have something at home."""
    from launcher.checkpoints.restore import newest_at_home
    from launcher.paths import LocalRun
    from launcher.running.select import pick_run

    if name is None:
        return None
    row = pick_run(ledger, name)
    if newest_at_home([LocalRun(Path(row.local_root))]) is None:
        raise NotFound(f"no checkpoint of `{row.run_id}` is at home", why=f"in {row.local_root}", hint="gptops sync")
    return row.run_id


def _pick(ledger: Ledger, name: str | None) -> Errand:
    """The errand of this name, or with this run; or the only one that goes on."""
    from launcher.managed.errand import all_going

    going = all_going(ledger)
    fitting = [
        errand
        for errand in going
        if not name or any(word.startswith(name) for word in (errand.errand_id, *errand.runs))
    ]
    if len(fitting) == 1:
        return fitting[0]
    known = ", ".join(errand.errand_id for errand in going) or "none"
    if fitting:
        raise UsageError("several are going on: say which", why=known, hint=f"gptops watch {fitting[-1].errand_id}")
    what = f"nothing called `{name}` is going on" if name else "no `gptops run` is going on"
    raise NotFound(what, why=f"going on: {known}", hint="gptops run JOB, or for a single run: gptops sync RUN --watch")


def _tell(errand: Errand, ledger: Ledger, *, detached: bool, as_json: bool) -> int:
    """How it is now, and what the shell is told."""
    ending = errand.ending if errand.is_over else None
    if as_json:
        console.emit_json(_as_json(errand))
    if ending is None:
        console.say(_left(errand, ledger))
        return ExitCode.OK if detached else ExitCode.INTERRUPTED
    if ending.exit_code == ExitCode.OK:
        console.say(f"`{errand.errand_id}` is done, and everything is at home")
    elif not as_json:
        console.show_error(GptopsError(ending.what, why=ending.why, hint=ending.hint))
    return ending.exit_code


def _left(errand: Errand, ledger: Ledger) -> str:
    """What goes on without us, and how to come back to it or end it."""
    from launcher.paths import LocalRun

    back = f"come back with `gptops watch {errand.errand_id}`"
    row = ledger.instance(errand.label) if errand.label else None
    if row is None or row.state.value == "closed":
        return f"no machine is open; {back}"
    rows = ledger.group(row.group_name) or [row]
    price = sum(each.price_per_hour for each in rows)
    bills = f", for ${price:.2f}/h" if price else ""
    deadlines, at_most = [each.deadline for each in rows if each.deadline is not None], ""
    if deadlines:
        ends = datetime.datetime.fromtimestamp(max(deadlines)).isoformat(" ", "minutes")
        at_most = f"; it ends itself at {ends} at the latest"
    on = [label for run in ledger.runs() if run.run_id == errand.run_id for label in ledger.machines(run)]
    names = ", ".join(f"`{ledger.instance(label).name}`" for label in on or [each.label for each in rows])
    what = f"`{errand.run_id}` goes on on {names}" if on else f"{names} {'are' if rows[1:] else 'is'} open"
    rest = "" if errand.is_last else f"; {', '.join(errand.jobs[errand.position + 1 :])} wait until you are back"
    end = f"gptops down {row.group_name or row.name} --sync-first"
    if errand.run_id and LocalRun(Path(errand.project_root) / "runs" / errand.run_id).batch.exists():
        end = f"gptops stop {errand.run_id}"  # the machine is a login node, with others' runs
    return f"{what}{bills}{at_most}{rest}; {back}, end it with `{end}`"


def _as_json(errand: Errand) -> dict[str, Any]:
    shown = errand.model_dump(mode="json", include={"errand_id", "jobs", "run_id", "runs", "moves", "restarts"})
    state = "going" if not errand.is_over or errand.ending is None else "ended"
    ending = errand.ending.model_dump() if errand.ending is not None else None
    return {**shown, "job": errand.job, "host": errand.host_name, "state": state, "ending": ending}
