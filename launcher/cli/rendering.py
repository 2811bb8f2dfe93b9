"""The verb that writes a job down for somebody else's scheduler: render."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from launcher import console
from launcher.cli import completion
from launcher.cli.options import Json, examples

app = typer.Typer()

# What the verb needs is imported inside it, as in launcher.cli.hosts.


@app.command(
    epilog=examples(
        "gptops render pretrain --for slurm >job.sbatch",
        "gptops render pretrain --for slurm --host cluster train.max_steps=2000",
        "gptops render pretrain --for skypilot >task.yaml",
        "gptops render demo --for torchrun | sh",
    )
)
def render(
    job: Annotated[str, typer.Argument(help="A job of jobs.yaml.", autocompletion=completion.jobs)],
    target: Annotated[str, typer.Option("--for", metavar="WHO", help="slurm, skypilot, accelerate or torchrun.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Training values laid over the job's.")
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(
            help="With slurm: which cluster under `hosts`; left out where there is one.",
            autocompletion=completion.entries,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a job as another scheduler wants it, to stdout: a batch file, a task, or the plain command lines.

    Nothing is touched or asked, and secrets stay names. What it runs is the same training with the same checkpoints;
    gptops does not watch it or bring anything home.
    """
    from launcher.rendering.request import RenderRequest, rendered

    text = rendered(RenderRequest(job, target, overrides or [], host), start=Path.cwd())
    if as_json:
        console.emit_json({"job": job, "for": target, "text": text})
    else:
        console.emit_bytes(text.encode())
