"""Verbs about the project itself, before any machine: init, check, schema, doctor, upload."""

from __future__ import annotations

import typer

from launcher import console
from launcher.cli.options import examples

app = typer.Typer()


@app.command(epilog=examples("gptops schema > jobs.schema.json"))
def schema() -> None:
    """Print the JSON Schema of jobs.yaml, for editors."""
    # Late: pydantic takes as long to import as `gptops --help` may run.
    from launcher.jobs import JobSpec

    console.emit_json(JobSpec.model_json_schema())
