"""Tools that a policy may call while it answers: finds the calls in a turn, runs them, writes down what they gave.

A tool is a Python function; it runs in a process of its own with a time limit. What goes wrong is told to the policy
as the result, as a person's mistake would be.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from trainer.chats.encoding import encode_segments
from trainer.chats.messages import Conversation, Message
from trainer.chats.template import Segment, Template, opening_of
from trainer.rewards.calling import Caller
from trainer.tokenizer import Tokenizer
from trainer.tokenizer.special import FUNCTION_CALL, FUNCTION_CALL_END

_CALL = re.compile(f"{re.escape(FUNCTION_CALL)}(.*?){re.escape(FUNCTION_CALL_END)}", re.DOTALL)
_LONGEST_RESULT = 4000
"""Characters; a tool that prints a file must not fill the row."""


class Tools:
    """The functions a policy may call, by name."""

    def __init__(self, uses: Mapping[str, str], timeout_seconds: float) -> None:
        """Loads each. Raises DataError where there is none."""
        self._uses, self._timeout_seconds, self._caller = uses, timeout_seconds, Caller()
        for use in uses.values():
            self._caller.require(use)

    def results(self, turn: str) -> list[str]:
        """What each call in a turn gave, in their order; none where the turn calls nothing."""
        return [self._result(text) for text in _CALL.findall(turn)] if self._uses else []

    def close(self) -> None:
        """End the process in which the tools run."""
        self._caller.close()

    def _result(self, text: str) -> str:
        try:
            call = json.loads(text)
            name, arguments = call["name"], call.get("arguments", {})
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return "error: the call is no JSON object with name and arguments"
        if not isinstance(name, str) or name not in self._uses:
            return f"error: there is no function `{str(name)[:80]}`"
        if not isinstance(arguments, dict):
            return "error: the arguments are no JSON object"
        answer = self._caller.call(self._uses[name], arguments, self._timeout_seconds)
        return f"error: {answer.problem}" if answer.problem else _shown(answer.value)


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST_RESULT else text[:_LONGEST_RESULT] + "…"


def continuation(results: list[str], tokenizer: Tokenizer, kind: Template) -> list[int]:
    """The ids that follow a turn that called: what the tools gave, and the beginning of the next turn."""
    told = opening_of(Conversation(tuple(Message("tool", result) for result in results)), kind)
    # In a transcript a line's end follows what ends a turn.
    lead = [] if kind == "tagged" else [Segment("\n")]
    ids: list[int] = encode_segments([*lead, *told], tokenizer).ids.tolist()
    return ids
