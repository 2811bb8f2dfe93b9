"""`python -m trainer generate --chat`: a conversation as a transcript that the model continues.

Any model can do it, in the way it was trained: a base model continues the transcript, no more.
"""

from __future__ import annotations

import sys
from typing import TextIO

from trainer.errors import ExitCode
from trainer.models.writer import Writer

YOU, MODEL = "User:", "Assistant:"


def converse(writer: Writer, lines: TextIO) -> int:
    """Answer each line until the end of input. An empty line begins anew."""
    transcript = ""
    _prompt(lines)
    for line in lines:
        said = line.rstrip("\n")
        transcript = transcript + f"{YOU} {said}\n{MODEL}" if said else ""
        if said:
            transcript += _answer(writer, transcript) + "\n"
        _prompt(lines)
    sys.stdout.write("\n")
    return ExitCode.OK


def _answer(writer: Writer, transcript: str) -> str:
    pieces = []
    for piece in writer.stream(transcript, stops=[f"\n{YOU}", f"\n{MODEL}"]):
        pieces.append(piece)
        sys.stdout.write(piece if len(pieces) > 1 else piece.lstrip())
        sys.stdout.flush()
    sys.stdout.write("\n")
    return "".join(pieces).rstrip("\n")


def _prompt(lines: TextIO) -> None:
    """`> ` where a person types."""
    if lines.isatty():
        sys.stdout.write("> ")
        sys.stdout.flush()
