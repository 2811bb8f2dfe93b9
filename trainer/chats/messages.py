"""A conversation, a pair of answers, a prompt: what every format of rows comes down to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True)
class ToolCall:
    """One function that the assistant asks for."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Message:
    """One turn."""

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    """Of the assistant, after its content."""


@dataclass(frozen=True)
class Conversation:
    """Turns in their order."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    """JSON schemas of the functions there are, as OpenAI's API writes them."""
    ends_open: bool = False
    """Whether the last turn may go on: prompt/completion rows have no turns to end, only a text."""


@dataclass(frozen=True)
class Preference:
    """Two answers to one prompt."""

    prompt: Conversation
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]


@dataclass(frozen=True)
class Prompt:
    """What a policy is asked in RL, and whatever else the row says, for reward functions."""

    conversation: Conversation
    columns: Mapping[str, Any] = field(default_factory=dict)
