"""The verb that shows everything at once: demo."""

from __future__ import annotations

import typer

from launcher import console
from launcher.cli.options import Json, examples

app = typer.Typer()


@app.command(epilog=examples("gptops demo"))
def demo(as_json: Json = False) -> None:
    """Run the whole job on this machine: open a host, check it, train a small GPT, bring it home, close the host."""
    from pathlib import Path

    from launcher.books.ledger import Ledger

    # Late: none of this is of use to `gptops --help`.
    from launcher.clock import SystemClock
    from launcher.demo import HOST, ending, run_demo
    from launcher.errors import NotFound
    from launcher.paths import state_paths
    from launcher.project import find_project

    project = find_project(Path.cwd())
    if project.jobs_file is None:
        raise NotFound("there is no jobs.yaml here", why="the demo runs its job `demo`", hint="gptops init")
    with Ledger(state_paths().ledger, SystemClock()) as ledger:
        host_is_open = any(row.name == HOST for row in ledger.instances())
    result = run_demo(project.root, console.say, host_is_open=host_is_open)
    if as_json:
        console.emit_json({"run_id": result.run_id, "checkpoint": str(result.checkpoint), "sample": result.sample})
    else:
        for line in ending(result, project.root):
            console.emit(line)
