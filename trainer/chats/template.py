"""How a conversation is written down: as segments, each text or a special token, each learnt or not.

Two ways, chosen by what the tokenizer has. `tagged` puts the special tokens of trainer.tokenizer.special around turns
and calls. `transcript` is for tokenizers whose only special token is end-of-text: `User: …`, `Assistant: …`, and calls
in the same tags, spelled out. In both, what ends an answer is learnt, and nothing a user wrote becomes a special token.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol

from trainer.chats.messages import Conversation, Message, ToolCall
from trainer.tokenizer import special

TemplateKind = Literal["tagged", "transcript"]


@dataclass(frozen=True)
class Segment:
    """A part of what a model reads."""

    text: str
    is_trained: bool = False
    is_special: bool = False
    """Whether `text` names one id of the tokenizer, which no text becomes."""


class OwnTemplate(Protocol):
    """A template that a policy brings with it, instead of one of ours."""

    def segments(self, conversation: Conversation, trained: Sequence[bool] | None = None) -> list[Segment]:
        """As `segments_of`."""

    def answered(self, prompt: Conversation, answer: Sequence[Message]) -> list[Segment]:
        """As `answered`."""

    def opening(self, conversation: Conversation) -> list[Segment]:
        """As `opening_of`."""


Template = TemplateKind | OwnTemplate


def template_of(special_ids: Mapping[str, int]) -> TemplateKind:
    """The way a tokenizer with these special tokens can write."""
    needed = set(special.SPECIAL_TOKENS) - {special.PAD}
    return "tagged" if needed <= set(special_ids) else "transcript"


def segments_of(conversation: Conversation, kind: Template, *, trained: Sequence[bool] | None = None) -> list[Segment]:
    """The whole conversation. `trained`: for each message whether it is learnt; None: the assistant's are.

    After its last message an answer also ends the text: end-of-text is learnt with it.
    """
    if conversation.ends_open:
        return _plain(conversation, trained)
    if not isinstance(kind, str):
        return kind.segments(conversation, trained)
    learnt = trained or [message.role == "assistant" for message in conversation.messages]
    write = _Tagged() if kind == "tagged" else _Transcript()
    found = [*write.tools(conversation.tools)]
    for message, is_trained in zip(conversation.messages, learnt, strict=True):
        found += write.message(message, is_trained)
    if conversation.messages and conversation.messages[-1].role == "assistant" and kind == "tagged":
        found.append(Segment(special.END_OF_TEXT, learnt[-1], is_special=True))
    return found


def answered(prompt: Conversation, answer: Sequence[Message], kind: Template) -> list[Segment]:
    """A prompt and one answer to it, of which the assistant's turns are learnt."""
    if not isinstance(kind, str) and not prompt.ends_open:
        return kind.answered(prompt, answer)
    learnt = [False] * len(prompt.messages) + [message.role == "assistant" for message in answer]
    return segments_of(replace(prompt, messages=(*prompt.messages, *answer)), kind, trained=learnt)


def opening_of(conversation: Conversation, kind: Template) -> list[Segment]:
    """A conversation that the assistant is to go on with: nothing in it is learnt."""
    if conversation.ends_open:
        return [Segment(message.content) for message in conversation.messages]
    if not isinstance(kind, str):
        return kind.opening(conversation)
    write = _Tagged() if kind == "tagged" else _Transcript()
    told = [segment for message in conversation.messages for segment in write.message(message, False)]
    return [*write.tools(conversation.tools), *told, write.assistant_begins()]


def stop_tokens(kind: Template) -> tuple[str, ...]:
    """The special tokens that end an answer."""
    return (special.END, special.END_OF_TEXT) if kind == "tagged" else (special.END_OF_TEXT,)


def call_text(call: ToolCall) -> str:
    """The JSON of a call, as the model writes it: the name first."""
    return json.dumps({"name": call.name, "arguments": call.arguments}, ensure_ascii=False)


def tools_text(tools: Sequence[Mapping[str, Any]]) -> str:
    """What the model is told of the functions there are."""
    lines = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    return f"You can call these functions:\n{lines}"


def _plain(conversation: Conversation, trained: Sequence[bool] | None) -> list[Segment]:
    learnt = trained or [message.role == "assistant" for message in conversation.messages]
    told = [Segment(m.content, is_trained) for m, is_trained in zip(conversation.messages, learnt, strict=True)]
    return [*told, Segment(special.END_OF_TEXT, learnt[-1], is_special=True)]


class _Tagged:
    """Special tokens around everything."""

    _BEGIN: ClassVar = {"system": special.SYSTEM, "user": special.USER, "assistant": special.ASSISTANT}

    def tools(self, tools: Sequence[Mapping[str, Any]]) -> Iterator[Segment]:
        if tools:
            yield from (_tag(special.SYSTEM), Segment(tools_text(tools)), _tag(special.END))

    def message(self, message: Message, is_trained: bool) -> Iterator[Segment]:
        if message.role == "tool":
            yield from (_tag(special.FUNCTION_RESULT), Segment(message.content), _tag(special.FUNCTION_RESULT_END))
            return
        yield _tag(self._BEGIN[message.role])
        if message.content:
            yield Segment(message.content, is_trained)
        for call in message.tool_calls:
            yield _tag(special.FUNCTION_CALL, is_trained)
            yield Segment(call_text(call), is_trained)
            yield _tag(special.FUNCTION_CALL_END, is_trained)
        yield _tag(special.END, is_trained)

    def assistant_begins(self) -> Segment:
        return _tag(special.ASSISTANT)


class _Transcript:
    """Words instead of special tokens; only end-of-text, which ends an answer, is one."""

    _BEGIN: ClassVar = {"system": "System:", "user": "User:", "assistant": "Assistant:"}

    def tools(self, tools: Sequence[Mapping[str, Any]]) -> Iterator[Segment]:
        if tools:
            yield Segment(f"System: {tools_text(tools)}\n")

    def message(self, message: Message, is_trained: bool) -> Iterator[Segment]:
        if message.role == "tool":
            yield Segment(f"{special.FUNCTION_RESULT}{message.content}{special.FUNCTION_RESULT_END}\n")
            return
        yield Segment(self._BEGIN[message.role])
        calls = "".join(
            f"{special.FUNCTION_CALL}{call_text(call)}{special.FUNCTION_CALL_END}" for call in message.tool_calls
        )
        yield Segment(f" {message.content}{calls}", is_trained)
        if message.role == "assistant":
            yield Segment(special.END_OF_TEXT, is_trained, is_special=True)
        yield Segment("\n")

    def assistant_begins(self) -> Segment:
        return Segment(self._BEGIN["assistant"])


def _tag(token: str, is_trained: bool = False) -> Segment:
    return Segment(token, is_trained, is_special=True)
