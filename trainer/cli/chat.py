"""`python -m trainer generate --chat`: a conversation, written down as the model was taught it.

A model that was fine-tuned answers; a base model continues the transcript, no more.
"""

from __future__ import annotations

import sys
from typing import TextIO

from trainer.chats.encoding import encode_segments, special_id
from trainer.chats.messages import Conversation, Message
from trainer.chats.template import Template, opening_of, stop_tokens
from trainer.errors import ExitCode
from trainer.models.writer import Writer

_NEXT_TURN = ("\nUser:", "\nAssistant:")
"""Where a model that never learnt to end its answer goes on with somebody else's."""


def converse(writer: Writer, lines: TextIO, template: Template) -> int:
    """Answer each line until the end of input. An empty line begins anew."""
    messages: tuple[Message, ...] = ()
    _prompt(lines)
    for line in lines:
        said = line.rstrip("\n")
        messages = (*messages, Message("user", said)) if said else ()
        if said:
            messages = (*messages, Message("assistant", _answer(writer, Conversation(messages), template)))
        _prompt(lines)
    sys.stdout.write("\n")
    return ExitCode.OK


def _answer(writer: Writer, conversation: Conversation, kind: Template) -> str:
    ids = encode_segments(opening_of(conversation, kind), writer.tokenizer).ids.tolist()
    stop_ids = [special_id(token, writer.tokenizer) for token in stop_tokens(kind)]
    answer = ""
    for piece in writer.stream_after(ids, stop_ids, _NEXT_TURN if kind == "transcript" else ()):
        shown = piece if answer else piece.lstrip()
        answer += shown
        sys.stdout.write(shown)
        sys.stdout.flush()
    sys.stdout.write("\n")
    return answer


def _prompt(lines: TextIO) -> None:
    """`> ` where a person types."""
    if lines.isatty():
        sys.stdout.write("> ")
        sys.stdout.flush()
