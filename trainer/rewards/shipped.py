"""Rewards that come with the trainer. Each is a function `(prompt, completion, **columns) -> float | None`.

| name | is | options |
|---|---|---|
| `exact_match` | 1 where the completion is the answer, else 0 | `answer` |
| `length` | 1 at `target` words, falling to 0 at none and at twice as many | `target` |
| `regex` | 1 where the pattern is found, else 0 | `pattern` |
| `tool_call` | how right the calls are, from -1 to 1 | `calls`, `tools` |

This file imports nothing of ours: it runs in the process of a user's functions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

_CALL = re.compile(r"<\|function_call\|>(.*?)<\|/function_call\|>", re.DOTALL)
_FORMAT, _FUNCTION, _TYPES, _VALUES = 0.2, 0.4, 0.2, 0.2
_PER_CALL_TOO_MANY_OR_MISSING = 0.5


def exact_match(
    completion: str,
    answer: Any = None,
    reference: str | None = None,
    turns: Sequence[str] | None = None,
    **columns: Any,
) -> float | None:
    """1 where the last turn equals the column `answer` (or the answer the row ends with), apart from white space."""
    wanted = reference if answer is None else str(answer)
    said = turns[-1] if turns else completion
    return None if wanted is None else float(said.split() == wanted.split())


def length(completion: str, target: float = 50, **columns: Any) -> float:
    """1 at `target` words."""
    return max(0.0, 1.0 - abs(len(completion.split()) - target) / max(target, 1))


def regex(completion: str, pattern: str, **columns: Any) -> float:
    """1 where the pattern is found; `.` matches a line's end too."""
    return float(re.search(pattern, completion, re.DOTALL) is not None)


def tool_call(
    completion: str, calls: Any = None, tools: Any = None, turns: Sequence[str] | None = None, **columns: Any
) -> float | None:
    """Compares the calls in a completion with those of the column `calls`: a list of {"name": …, "arguments": {…}}.

    Format 0.2: the tags are balanced and JSON stands between them. Right function 0.4. Names and types of the
    arguments 0.2: as the schema in `tools` says, or as in the right call. Their values 0.2. Less 0.5 for every call
    too many or missing; never below -1. None where a row has no `calls`.
    """
    wanted = _parsed(calls)
    if not isinstance(wanted, list):
        return None
    completion = "\n".join(turns) if turns else completion
    wanted = [call.get("function", call) for call in wanted]
    written = _CALL.findall(completion)
    found = [call for call in map(_parsed, written) if isinstance(call, Mapping) and isinstance(call.get("name"), str)]
    balanced = completion.count("<|function_call|>") == completion.count("<|/function_call|>") == len(written)
    well_formed = balanced and len(found) == len(written)
    if not wanted:
        return 1.0 if well_formed and not found else max(-1.0, -_PER_CALL_TOO_MANY_OR_MISSING * max(1, len(found)))
    parts = [_matched(call, found, _schemas(tools)) for call in wanted]
    score = _FORMAT * float(well_formed and bool(found)) + sum(parts) / len(wanted)
    return max(-1.0, min(1.0, score - _PER_CALL_TOO_MANY_OR_MISSING * abs(len(found) - len(wanted))))


def _matched(wanted: Mapping[str, Any], found: Sequence[Mapping[str, Any]], schemas: Mapping[str, Any]) -> float:
    """The best that some call comes to, without its format."""
    gold, schema = _arguments(wanted) or {}, schemas.get(wanted["name"])
    same = (call for call in found if call["name"] == wanted["name"])
    return max((_likeness(gold, _arguments(call), schema) for call in same), default=0.0)


def _likeness(gold: Mapping[str, Any], has: Any, schema: Any) -> float:
    if not isinstance(has, Mapping):
        return _FUNCTION
    types = _fits(has, schema) if isinstance(schema, Mapping) else _same_types(gold, has)
    right = sum(name in has and has[name] == value for name, value in gold.items())
    most = max(len(gold), len(has))
    return _FUNCTION + _TYPES * float(types) + _VALUES * (right / most if most else 1.0)


def _same_types(gold: Mapping[str, Any], has: Mapping[str, Any]) -> bool:
    return gold.keys() == has.keys() and all(_kind(has[name]) == _kind(value) for name, value in gold.items())


def _fits(has: Mapping[str, Any], schema: Mapping[str, Any]) -> bool:
    """Whether the arguments are those of a JSON Schema: all that are required, none that is unknown, right types."""
    properties = schema.get("properties", {})
    return set(schema.get("required", ())) <= has.keys() <= set(properties) and all(
        _is(value, properties[name].get("type")) for name, value in has.items()
    )


def _is(value: Any, kind: Any) -> bool:
    kinds = kind if isinstance(kind, list) else [kind]
    return kind is None or _kind(value) in kinds or (_kind(value) == "integer" and "number" in kinds)


def _kind(value: Any) -> str:
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null", list: "array"}
    return kinds.get(type(value), "object")


def _schemas(tools: Any) -> dict[str, Any]:
    """The parameters of each function, by its name."""
    listed = _parsed(tools)
    each = [tool.get("function", tool) for tool in listed or () if isinstance(tool, Mapping)]
    return {tool["name"]: tool.get("parameters") for tool in each if "name" in tool}


def _arguments(call: Mapping[str, Any]) -> Any:
    return _parsed(call.get("arguments", {}))


def _parsed(value: Any) -> Any:
    """JSON that stands in a text, or the value itself."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None
