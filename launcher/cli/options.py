"""What several verbs share on the command line: their words, and how help shows examples."""

from __future__ import annotations

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, errors too.")]


def examples(*lines: str) -> str:
    """The epilog of a verb's help: one example a line."""
    return "\n".join(["Examples:", *(f"  {line}".replace("[", r"\[") for line in lines)])
