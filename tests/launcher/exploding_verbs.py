"""Verbs that end in every way a verb can end; test_errors.py lends them to the command line."""

from __future__ import annotations

import errno

import typer

from launcher import errors
from launcher.cli.options import Json
from trainer.errors import TrainerError

app = typer.Typer()

ENDS: dict[str, BaseException] = {
    "bug": ValueError("the answer is \x1b[31m42"),
    "ctrl-c": KeyboardInterrupt(),
    "end-of-input": EOFError(),
    "abort": typer.Abort(),
    "trainer": TrainerError("optim.lr is wrong", why="it is text", hint="write 3e-4"),
    "disk-full": OSError(errno.ENOSPC, "No space left on device", "/data/x"),
    "forbidden": PermissionError(errno.EACCES, "Permission denied", b"/data/\xff"),
    "socket": BrokenPipeError(errno.EPIPE, "Broken pipe"),
    "exit-9": typer.Exit(9),
    **{
        name: kind("what", why="why", hint="hint")
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.GptopsError)
    },
}


@app.command()
def explode(end: str, as_json: Json = False) -> None:
    """End like that."""
    raise ENDS[end]


@app.command()
def nothing() -> None:
    """Do nothing, and be a second command."""
