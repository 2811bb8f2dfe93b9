"""Which format a row has, by its columns, and what it says in that format.

| format | columns |
|---|---|
| `messages` | `messages`: role and content, with `tool_calls` and role `tool`; `tools` beside it |
| `sharegpt` | `conversations`: from and value |
| `alpaca` | `instruction`, `output`, perhaps `input` and `system` |
| `prompt` | `prompt` and `completion` (or `response`, `answer`) |
| `preference` | `chosen` and `rejected`: texts, HH-RLHF dialogues or messages, with `prompt` or without |

A row that says something impossible is refused with the column and the value; nothing is guessed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast, get_args

from trainer.chats.messages import Conversation, Message, Preference, Prompt, Role, ToolCall
from trainer.config.mapping import FORMAT_COLUMNS
from trainer.errors import DataError

Format = Literal["preference", "messages", "sharegpt", "alpaca", "prompt"]
PairFormat = Literal["texts", "dialogues", "messages"]
"""How the two sides of a pair are written; dialogues are those of HH-RLHF."""
FORMATS: tuple[Format, ...] = get_args(Format)
"""In the order in which they are looked for."""

_COMPLETIONS = ("completion", "response", "answer")
_ROLES: dict[str, Role] = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "chatgpt": "assistant",
    "function_call": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "function_response": "tool",
}  # fmt: skip
_TURN = re.compile(r"\n\n(Human|Assistant):[ \n]?")


class NotThatFormat(ValueError):
    """What is wrong with one row, in words; whoever knows its number makes a DataError of it."""


def format_of(row: Mapping[str, Any]) -> Format:
    """The format its columns tell. Raises DataError with what would do where they tell none."""
    names = {name for name, value in row.items() if value is not None}
    for format in FORMATS:
        if FORMAT_COLUMNS[format].needed <= names:
            return format
    seen = ", ".join(f"`{name}`" for name in list(row)[:12]) or "none"
    raise DataError(
        "no known format of conversations",
        why=f"the columns are {seen}",
        hint="rows have messages; conversations; instruction and output; prompt and completion; or chosen and "
        "rejected; else say which column is what: `data.mapping.prompt=COLUMN data.mapping.completion=COLUMN`",
    )


def conversation_of(row: Mapping[str, Any], format: Format) -> Conversation:
    """The conversation in a row. Raises NotThatFormat."""
    if format == "messages":
        return Conversation(_messages(row["messages"], "messages"), _tools(row.get("tools")))
    if format == "sharegpt":
        return Conversation(_messages(row["conversations"], "conversations"), _tools(row.get("tools")))
    if format == "alpaca":
        return _alpaca(row)
    if format == "prompt":
        return _with_completion(row)
    raise NotThatFormat("chosen and rejected are a pair: `dpo`, `orpo` and `reward` train on those")


def preference_of(row: Mapping[str, Any]) -> Preference:
    """The pair in a row of format `preference`. Raises NotThatFormat where the two are equal or one is not there."""
    _require_sides(row)
    chosen, rejected = (_side(row[name], name) for name in ("chosen", "rejected"))
    if row.get("prompt") is not None:
        prompt = _prompt_messages(row["prompt"])
        chosen, rejected = (_after(prompt, side) for side in (chosen, rejected))
    else:
        shared = _shared(chosen, rejected)
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    for name, side in (("chosen", chosen), ("rejected", rejected)):
        if not any(message.content.strip() or message.tool_calls for message in side):
            raise NotThatFormat(f"`{name}` says nothing")
    if chosen == rejected:
        raise NotThatFormat("`chosen` and `rejected` are equal")
    return Preference(Conversation(prompt, _tools(row.get("tools"))), chosen, rejected)


def pair_format_of(row: Mapping[str, Any]) -> PairFormat:
    """How the sides of a pair are written. Raises NotThatFormat where one is not there."""
    _require_sides(row)
    if not isinstance(row["chosen"], str):
        return "messages"
    return "dialogues" if _dialogue(row["chosen"]) else "texts"


def prompt_of(row: Mapping[str, Any], format: Format) -> Prompt:
    """What a policy is asked: the conversation without its last answer, and all columns. Raises NotThatFormat."""
    if format == "prompt":
        conversation = Conversation(_prompt_messages(row["prompt"]), _tools(row.get("tools")))
    elif format == "preference":
        conversation = preference_of(row).prompt
    else:
        whole = conversation_of(row, format)
        kept = whole.messages[:-1] if whole.messages[-1].role == "assistant" else whole.messages
        conversation = Conversation(kept, whole.tools)
    if not conversation.messages:
        raise NotThatFormat("there is nothing to ask")
    return Prompt(conversation, dict(row))


def _require_sides(row: Mapping[str, Any]) -> None:
    missing = [f"`{name}`" for name in ("chosen", "rejected") if row.get(name) is None]
    if missing:
        raise NotThatFormat(f"it has no {' and '.join(missing)}")


def _messages(value: Any, column: str) -> tuple[Message, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise NotThatFormat(f"`{column}` is no list of messages")
    return tuple(_message(each, f"{column}[{place}]") for place, each in enumerate(value))


def _message(value: Any, where: str) -> Message:
    if not isinstance(value, Mapping):
        raise NotThatFormat(f"`{where}` is no object with role and content")
    said = value.get("role", value.get("from"))
    role = _ROLES.get(str(said).lower())
    if role is None:
        raise NotThatFormat(f"`{where}` has the role `{said}`; known are {', '.join(sorted(_ROLES))}")
    content = value.get("content", value.get("value"))
    calls = _tool_calls(value.get("tool_calls"), where)
    if str(said).lower() == "function_call":
        content, calls = "", (_call(_parsed(content, where), where),)
    if not isinstance(content, str):
        content = _joined(content, where) if content else ""
    return Message(role, content, calls)


def _joined(content: Any, where: str) -> str:
    """Content in parts, as OpenAI's API writes it; only text can be trained on."""
    if isinstance(content, Sequence) and all(isinstance(part, Mapping) and "text" in part for part in content):
        return "".join(str(part["text"]) for part in content)
    raise NotThatFormat(f"`{where}` has content that is no text")


def _tool_calls(value: Any, where: str) -> tuple[ToolCall, ...]:
    if not value:
        return ()
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise NotThatFormat(f"`{where}.tool_calls` is no list")
    return tuple(_call(each, where) for each in value)


def _call(value: Any, where: str) -> ToolCall:
    inner = value.get("function", value) if isinstance(value, Mapping) else None
    if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
        raise NotThatFormat(f"`{where}` has a tool call without a name")
    arguments = inner.get("arguments", {})
    if isinstance(arguments, str):
        arguments = _parsed(arguments, f"{where}: the arguments of `{inner['name']}`")
    if not isinstance(arguments, Mapping):
        raise NotThatFormat(f"`{where}`: the arguments of `{inner['name']}` are no JSON object")
    return ToolCall(inner["name"], dict(arguments))


def _tools(value: Any) -> tuple[Mapping[str, Any], ...]:
    value = _parsed(value, "tools") if isinstance(value, str) and value.strip() else value
    if not value:
        return ()
    if not isinstance(value, Sequence) or not all(isinstance(each, Mapping) for each in value):
        raise NotThatFormat("`tools` is no list of JSON schemas")
    return tuple(cast("Sequence[Mapping[str, Any]]", value))


def _parsed(text: Any, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise NotThatFormat(f"{where}: not JSON ({error})") from error


def _alpaca(row: Mapping[str, Any]) -> Conversation:
    asked = _text(row, "instruction")
    if extra := str(row.get("input") or "").strip():
        asked = f"{asked}\n\n{extra}"
    system = str(row.get("system") or "").strip()
    messages = (Message("system", system),) if system else ()
    return Conversation((*messages, Message("user", asked), Message("assistant", _text(row, "output"))))


def _with_completion(row: Mapping[str, Any]) -> Conversation:
    name = next((name for name in _COMPLETIONS if row.get(name) is not None), None)
    if name is None:
        raise NotThatFormat(f"`prompt` without one of {', '.join(_COMPLETIONS)}: there is nothing to learn")
    if isinstance(row["prompt"], str) and isinstance(row[name], str):
        return Conversation((Message("user", row["prompt"]), Message("assistant", row[name])), ends_open=True)
    return Conversation((*_prompt_messages(row["prompt"]), *_side(row[name], name)), _tools(row.get("tools")))


def _prompt_messages(value: Any) -> tuple[Message, ...]:
    if isinstance(value, str):
        return _dialogue(value) or (Message("user", value),)
    return _messages(value, "prompt")


def _side(value: Any, name: str) -> tuple[Message, ...]:
    if isinstance(value, str):
        return _dialogue(value) or (Message("assistant", value),)
    return _messages([value] if isinstance(value, Mapping) else value, name)


def _dialogue(text: str) -> tuple[Message, ...]:
    """The turns of `\\n\\nHuman: … \\n\\nAssistant: …`; () where the text does not begin like that."""
    if not _TURN.match(text):
        return ()
    _, *parts = _TURN.split(text)
    roles = {"Human": "user", "Assistant": "assistant"}
    turns = zip(parts[::2], parts[1::2], strict=True)
    return tuple(Message(cast("Role", roles[who]), said.strip()) for who, said in turns)


def _shared(chosen: Sequence[Message], rejected: Sequence[Message]) -> int:
    """How many turns the two begin with alike; the last turn of each is its answer in any case."""
    most = min(len(chosen), len(rejected)) - 1
    return next((i for i in range(most) if chosen[i] != rejected[i]), max(most, 0))


def _after(prompt: Sequence[Message], side: tuple[Message, ...]) -> tuple[Message, ...]:
    """An answer without the prompt in front of it, where the row repeats it there."""
    return side[len(prompt) :] if len(side) > len(prompt) and side[: len(prompt)] == tuple(prompt) else side


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise NotThatFormat(f"`{name}` is empty" if isinstance(value, str) else f"`{name}` is no text")
    return value
