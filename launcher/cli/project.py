"""Verbs about the project itself, before any machine: init, check, schema, doctor, upload."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from launcher import console, screen
from launcher.cli import completion
from launcher.cli.options import Json, examples
from launcher.errors import ExitCode, UsageError
from launcher.sizes import size_text

app = typer.Typer()

# The modules behind these verbs are imported inside them: pydantic and yaml alone take as long as `gptops --help` may.


@app.command(epilog=examples("gptops init", "gptops init ~/my-gpt"))
def init(
    folder: Annotated[Path, typer.Argument(help="Where; left out: here.")] = Path(),
    as_json: Json = False,
) -> None:
    """Write a commented jobs.yaml to start from.

    An existing one is never overwritten.
    """
    from launcher.spec.starter import write_starter

    path = write_starter(folder)
    if as_json:
        console.emit_json({"jobs_file": str(path.absolute())})
    else:
        console.say(f"wrote {path}; next: `gptops check`, then `gptops train demo`")


@app.command(
    epilog=examples(
        "gptops check", "gptops check --job demo train.max_steps=50", "gptops check other.yaml --json | jq .jobs"
    )
)
def check(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="FILE|KEY=VALUE", help="The file, and training values to try.")
    ] = None,
    job: Annotated[
        str | None, typer.Option(help="Only this job, which must be one that can run.", autocompletion=completion.jobs)
    ] = None,
    as_json: Json = False,
) -> None:
    """Check jobs.yaml and print what it resolves to.

    The training configurations are checked too, as the host would. Nothing is opened, nothing is sent.
    """
    from launcher.spec.check import check_file, check_job, overview
    from launcher.spec.jobs_file import load_jobs

    path, overrides = _file_and_overrides(words or [])
    jobs = load_jobs(path)
    job = job or (next(iter(jobs.jobs)) if len(jobs.jobs) == 1 else None)
    checked = [check_job(jobs, job, overrides)] if job else check_file(jobs, overrides)
    for each in checked:
        for warning in each.warnings:
            console.warn(warning)
    if as_json:
        console.emit_json({"file": str(path), "jobs": {each.name: each.as_json() for each in checked}})
    elif job:
        console.emit(checked[0].as_yaml().rstrip("\n"))
    else:
        console.table(*overview(checked))


@app.command(epilog=examples("gptops schema > jobs.schema.json", "gptops schema --markdown > docs/jobs.md"))
def schema(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the reference page instead.")] = False,
    as_json: Json = False,
) -> None:
    """Print the JSON Schema of jobs.yaml, for editors."""
    from launcher.spec.schema import jobs_schema, reference

    if markdown and not as_json:
        console.emit(reference().rstrip("\n"))
    else:
        console.emit_json(jobs_schema())


@app.command(
    epilog=examples(
        "gptops doctor",
        "gptops doctor --online",
        "gptops doctor --json | jq -r '.checks[] | select(.verdict != \"pass\")'",
    )
)
def doctor(
    online: Annotated[
        bool, typer.Option("--online", help="Ask each cloud whether it takes its API key; else nobody is asked.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Look whether this machine has what gptops needs, and an API key for each cloud.

    What it lacks is said with the command that brings it. The line `key` shows the key that a machine of your own
    must let in. No cloud is needed to begin: `--provider local` opens a host on this machine.
    """
    from launcher.clock import SystemClock
    from launcher.doctor import diagnosis
    from launcher.hosts.preflight_checks import Verdict
    from launcher.key_doctor import key_checks
    from launcher.paths import state_paths
    from launcher.project import find_project

    state = state_paths()
    checks = diagnosis(find_project(Path.cwd()).root, state)
    checks += key_checks(state, SystemClock(), online=online)
    lacking = [check for check in checks if check.verdict is Verdict.FAIL]
    if as_json:
        console.emit_json({"ok": not lacking, "checks": [asdict(check) for check in checks]})
    else:
        rows = [(check.name, check.verdict.value, check.found, check.todo) for check in checks]
        console.table(("check", "verdict", "found", "what to do"), rows)
    if lacking:
        raise typer.Exit(ExitCode.LOCAL_FAULT)


@app.command(epilog=examples("gptops upload", "gptops upload --host local-3f2a --json"))
def upload(
    host: Annotated[
        str | None,
        typer.Option(help="Which open host; left out where only one is open.", autocompletion=completion.hosts),
    ] = None,
    as_json: Json = False,
) -> None:
    """Send the code to a host.

    That is what git tracks, and what is new and not ignored; outside git everything but what no host needs. Only
    what differs travels. `gptops train` does this by itself.
    """
    # Late: SSH alone would double the time of `gptops --help`.
    from launcher.books.ledger import Ledger
    from launcher.clock import SystemClock
    from launcher.paths import state_paths
    from launcher.project import find_project
    from launcher.remote.reach import transport_to
    from launcher.running.select import pick_host
    from launcher.running.snapshot import snapshot
    from launcher.running.upload import preview
    from launcher.running.upload import upload as send

    clock, state = SystemClock(), state_paths()
    project = find_project(Path.cwd())
    with Ledger(state.ledger, clock) as ledger:
        row = pick_host(ledger, host)
    files = snapshot(project.root)
    for line in preview(files):
        console.say(line)
    for warning in files.warnings:
        console.warn(warning)
    transport = transport_to(row, state, clock)
    try:
        with screen.progress(f"uploading to {row.name}", files.total_bytes) as update:
            done = send(transport, project, files, clock, update)
    finally:
        transport.close()
    if as_json:
        console.emit_json({**asdict(done), "target": str(done.target), "host": row.name})
    else:
        removed = f", {done.removed} removed there" if done.removed else ""
        sent = f"uploaded {done.files:,} files ({size_text(done.bytes)}, {done.seconds:.1f} s){removed}"
        console.say(f"{sent} to `{row.name}:{done.target}`")


def _file_and_overrides(words: list[str]) -> tuple[Path, list[str]]:
    """The first word is the file unless it holds a `=` and is no file. No file given: the project's."""
    from launcher.project import JOBS_FILE, find_project

    if words and ("=" not in words[0] or Path(words[0]).is_file()):
        path, overrides = Path(words[0]), words[1:]
    else:
        path, overrides = find_project(Path.cwd()).jobs_file or Path(JOBS_FILE), words
    if others := [word for word in overrides if "=" not in word]:
        raise UsageError(f"`{others[0]}` is not of the form key=value", hint="gptops check --help")
    return path, overrides
