"""`gptops sync`: bring the checkpoints of a run home, once or until it has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from launcher import console, screen
from launcher.cli import completion
from launcher.cli.options import Json, examples
from launcher.sizes import size_text

if TYPE_CHECKING:
    from launcher.books.ledger import Ledger, RunRow
    from launcher.checkpoints.pull import Pulled
    from launcher.running.tick import Tick

app = typer.Typer()


@app.command(
    epilog=examples(
        "gptops sync", "gptops sync --watch", "gptops sync demo-1a2b --no-delete", "gptops sync --json | jq .missing"
    )
)
def sync(
    run: Annotated[
        str | None,
        typer.Argument(help="Run, or the beginning of its name. None: the only one.", autocompletion=completion.runs),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on until the run has ended and everything is home.")
    ] = False,
    delete: Annotated[
        bool | None,
        typer.Option("--delete/--no-delete", help="Delete on the host what is verified here. Else: as the job says."),
    ] = None,
    interval: Annotated[
        float | None,
        typer.Option("--interval", min=0.1, help="With --watch: seconds between two looks. Else: as the job says."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Bring checkpoints home, and then delete them there.

    Only whole ones; nothing is deleted before every byte was verified here. Log and metrics come too. An interrupted
    transfer goes on where it stopped; the same command again is always right.
    """
    # Late: `gptops --help` needs none of this.
    from launcher.books.ledger import Ledger
    from launcher.checkpoints.sync import Policy
    from launcher.clock import SystemClock
    from launcher.paths import state_paths
    from launcher.running.connection import connection_to
    from launcher.running.select import pick_run
    from launcher.running.tick import Talk, watching
    from launcher.running.watch import look_once, watch_until_home

    state, clock, pulled = state_paths(), SystemClock(), list["Pulled"]()

    def on_pulled(one: Pulled) -> None:
        pulled.append(one)
        console.say(summary(one))

    with Ledger(state.ledger, clock) as ledger:
        row = pick_run(ledger, run)
        seconds, max_hours, max_usd = _job_settings(row) if watch else (0.0, None, None)
        policy = Policy(row.delete_remote if delete is None else delete, row.keep_remote)
        talk = Talk(screen.progress, on_pulled, console.say)
        what = f"gptops sync {row.run_id}" + (" --watch" if watch else "")
        with watching(
            row,
            ledger,
            state=state,
            clock=clock,
            talk=talk,
            what=what,
            policy=policy,
            max_hours=max_hours,
            max_usd=max_usd,
        ) as watched:
            connect = lambda: connection_to(row, ledger, state, clock)  # noqa: E731
            last = watch_until_home(watched, connect, interval or seconds) if watch else look_once(watched, connect)
        if as_json:
            console.emit_json(_as_json(row, ledger, last, pulled))
        else:
            console.say(_last_line(row, last, pulled))
        for problem in last.synced.problems[:1]:
            # With --json, the answer is out already, and holds all of them.
            raise typer.Exit(problem.error.exit_code) if as_json else problem.error


def summary(one: Pulled) -> str:
    """``synced `step_00000500` (1.4 GiB, 12 s, 118 MiB/s)``"""
    speed = size_text(one.bytes / max(one.seconds, 1e-6))
    seconds = f"{one.seconds:.{0 if one.seconds >= 10 else 1}f} s"
    return f"synced `{one.name}` ({size_text(one.bytes)}, {seconds}, {speed}/s)"


def _last_line(row: RunRow, last: Tick, pulled: list[Pulled]) -> str:
    """What stands where, now."""
    kept = len(last.synced.listing.whole) - len(last.synced.pruned)
    states = {
        "ended": f"ended with exit code {last.status.exit_code}",
        "lost": "is lost",
        "absent": "is not on the host",
    }
    state = states.get(last.status.phase.value, "goes on")
    news = f"{len(pulled)} came home" if pulled else "nothing new"
    there = f"{len(last.synced.pruned)} deleted on the host, {kept} kept there"
    return f"`{row.run_id}` {state}: {news}, {there}; {row.local_root}"


def _as_json(row: RunRow, ledger: Ledger, last: Tick, pulled: list[Pulled]) -> dict[str, Any]:
    synced = last.synced
    return {
        "run": row.run_id,
        "folder": row.local_root,
        "phase": last.status.phase.value,
        "exit_code": last.status.exit_code,
        "synced": [{"step": one.step, "bytes": one.bytes, "seconds": round(one.seconds, 3)} for one in pulled],
        "pruned": [c.step for c in ledger.checkpoints(row.run_id) if c.pruned_at is not None],
        "home": [c.step for c in ledger.checkpoints(row.run_id)],
        "missing": synced.missing,
        "broken": [{"name": broken.name, "why": broken.why} for broken in synced.broken],
        "problems": [console.error_json(problem.error)["error"] for problem in synced.problems],
    }


def _job_settings(row: RunRow) -> tuple[float, float | None, float | None]:
    """Seconds between two looks, and the run's hours and dollars: what the job says now, if it can be read."""
    from pathlib import Path

    from launcher.errors import GptopsError
    from launcher.project import JOBS_FILE
    from launcher.spec.jobs import SyncPolicy
    from launcher.spec.jobs_file import load_jobs

    try:
        job = load_jobs(Path(row.project_root) / JOBS_FILE).job(row.job)
    except GptopsError as error:
        console.warn(f"looking every {SyncPolicy().every_seconds} s, without a budget: {error.what}")
        return SyncPolicy().every_seconds, None, None
    return job.sync.every_seconds, job.budget.max_hours, job.budget.max_usd
