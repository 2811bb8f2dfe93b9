"""`gptops test-remote`: what would waste money on a host, found before it does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from launcher import console
from launcher.cli import completion
from launcher.cli.options import Json, examples

if TYPE_CHECKING:
    from launcher.books.ledger import InstanceRow
    from launcher.clock import Clock
    from launcher.hosts.preflight_checks import Asked, Check
    from launcher.paths import StatePaths

app = typer.Typer()


@app.command(
    name="test-remote",
    epilog=examples(
        "gptops test-remote",
        "gptops test-remote local-3f2a --gpus 8",
        "gptops test-remote cluster --job pretrain --wait 600",
        "gptops test-remote --json",
    ),
)
def preflight(
    host: Annotated[
        str | None,
        typer.Argument(
            help="Host, or the beginning of its name, or a group of hosts. None: the only one.",
            autocompletion=completion.hosts,
        ),
    ] = None,
    gpus: Annotated[int | None, typer.Option(min=0, help="GPUs it must have. Else: those it was opened with.")] = None,
    job: Annotated[
        str | None,
        typer.Option(
            help="Of a cluster: for what this job asks for. Else: for the largest of its jobs.",
            autocompletion=completion.jobs,
        ),
    ] = None,
    wait: Annotated[int, typer.Option(min=0, help="Of a cluster: seconds that its queue gets.")] = 120,
    as_json: Json = False,
) -> None:
    """Check a host before it costs time and money.

    Login, links, disk, GPUs, driver, torch, an all-reduce, and a checkpoint there and back. Ends
    with code 14 where a check fails: the run could not work there as asked. Of a group, every machine, and then what
    they are to each other: alike, reachable, how fast, and an all-reduce over all. Of a cluster, its login node, and by
    a small job of its Slurm the machines that would train.
    """
    # Late: `gptops --help` needs none of this.
    import tempfile
    from pathlib import Path

    from launcher.books.ledger import InstanceState, Ledger
    from launcher.clock import SystemClock
    from launcher.hosts.preflight import examine
    from launcher.hosts.preflight_checks import Asked
    from launcher.nodes.behind import cluster_at
    from launcher.paths import state_paths
    from launcher.project import find_project
    from launcher.remote.reach import transport_to
    from launcher.running.select import pick_host

    state, clock = state_paths(), SystemClock()
    with Ledger(state.ledger, clock) as ledger:
        group = ledger.group(host, InstanceState.OPEN)
        if group:
            return _examine_group(group, gpus, state, clock, as_json=as_json)
        cluster = cluster_at(find_project(Path.cwd()), ledger, host, job)
        row = pick_host(ledger, host) if cluster is None else cluster.row
    asked = Asked(row.name, row.gpus if gpus is None else gpus, (row.gpu_name,) if row.gpu_name else ())
    transport = transport_to(row, state, clock)
    try:
        with tempfile.TemporaryDirectory(prefix="gptops-") as scratch:
            checks = examine(transport, asked, clock, Path(scratch), console.say, trains=cluster is None)
        if cluster is not None:
            checks += cluster.preflight(transport, gpus, wait, clock, console.say).checks()
    finally:
        transport.close()
    _show(asked, checks, as_json=as_json)


def _examine_group(
    rows: list[InstanceRow], gpus: int | None, state: StatePaths, clock: Clock, *, as_json: bool
) -> None:
    import tempfile
    from pathlib import Path

    from launcher.hosts.preflight_checks import Asked
    from launcher.nodes.opening import connected
    from launcher.nodes.preflight import NodesPreflight
    from launcher.project import find_project
    from launcher.running.upload import remote_code
    from launcher.spec.groups import meeting_port
    from launcher.spec.jobs_file import load_jobs

    asked = [
        Asked(row.name, row.gpus if gpus is None else gpus, (row.gpu_name,) if row.gpu_name else ()) for row in rows
    ]
    insides = [row.inside for row in rows]
    project = find_project(Path.cwd())
    code = remote_code(project) if project.jobs_file else None
    port = meeting_port(load_jobs(project.jobs_file).jobs, rows[0].group_name) if project.jobs_file else None
    with connected(rows, state, clock) as there, tempfile.TemporaryDirectory(prefix="gptops-") as scratch:
        checks = NodesPreflight(there, insides, asked, code, port, clock, Path(scratch), console.say).checks()
    _show(Asked(rows[0].group_name), checks, as_json=as_json)


def _show(asked: Asked, checks: list[Check], *, as_json: bool) -> None:
    from launcher.errors import PreflightFailed
    from launcher.hosts.preflight_checks import Verdict

    failed = [check for check in checks if check.verdict is Verdict.FAIL]
    if as_json:
        console.emit_json(_as_json(asked, checks))
        raise typer.Exit(PreflightFailed.exit_code if failed else 0)
    console.table(("check", "", "found", "what to do"), [(c.name, c.verdict.value, c.found, c.todo) for c in checks])
    if failed:
        raise PreflightFailed(
            f"`{asked.host}` fails {len(failed)} of {len(checks)} checks",
            why=", ".join(check.name for check in failed),
            hint=next((check.todo for check in failed if check.todo), ""),
        )


def _as_json(asked: Asked, checks: list[Check]) -> dict[str, Any]:
    return {
        "host": asked.host,
        "passed": all(check.verdict != "fail" for check in checks),
        "checks": [{"name": c.name, "verdict": c.verdict.value, "found": c.found, "todo": c.todo} for c in checks],
    }
