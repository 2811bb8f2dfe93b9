"""A completion's reward: the weighted sum of what several functions say of it.

A function may say None: it does not apply. One that raises, takes too long, or gives anything but a finite number
counts as None too, and is counted as failed. A completion of which all functions say None has no reward.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.chats.messages import Conversation
from trainer.config.reinforcement import RewardConfig, RewardFunction
from trainer.rewards.calling import Caller

SHIPPED = ("exact_match", "length", "regex", "tool_call")
_FILE = Path(__file__).with_name("shipped.py")


@dataclass(frozen=True)
class Completed:
    """A prompt, what followed it, and whatever else its row says."""

    prompt: str
    completion: str
    columns: Mapping[str, Any] = field(default_factory=dict)
    turns: Sequence[str] = ()
    """Of the completion, what the policy itself wrote: one text, or with tools one before and after each result."""
    asked: Conversation | None = None
    """The whole of what was asked, where it is more than `prompt`: reward models read it."""


@dataclass(frozen=True)
class Score:
    """Of one completion."""

    total: float | None
    """Weighted sum of the values there are."""
    values: tuple[float | None, ...]
    """Of each function, in the order of the configuration."""


class Scorer:
    """The reward functions of a configuration."""

    def __init__(self, config: RewardConfig) -> None:
        """Loads each function. Raises DataError where there is none."""
        self._config, self._caller = config, Caller()
        self.names = _names(config.functions)
        self.failures: Counter[str] = Counter()
        """How often each function failed, and how, as `name: problem`."""
        for function in config.functions:
            if not function.model:
                self._caller.require(_where(function.use))

    def score(self, completed: Completed, by_models: Sequence[float] = ()) -> Score:
        """What all functions say of it; what reward models say is given, in their order."""
        given = iter(by_models)
        pairs = zip(self._config.functions, self.names, strict=True)
        values = tuple(
            self._judged(next(given), name) if function.model else self._value(function, name, completed)
            for function, name in pairs
        )
        weighted = zip(self._config.functions, values, strict=True)
        parts = [function.weight * value for function, value in weighted if value is not None]
        return Score(math.fsum(parts) if parts else None, values)

    def close(self) -> None:
        """End the process in which the functions run."""
        self._caller.close()

    def _judged(self, value: float, name: str) -> float | None:
        if math.isfinite(value):
            return value
        self.failures[f"{name}: {_no_number(value)}"] += 1
        return None

    def _value(self, function: RewardFunction, name: str, completed: Completed) -> float | None:
        turns = list(completed.turns or [completed.completion])
        said = {"prompt": completed.prompt, "completion": completed.completion, "turns": turns}
        arguments = {**completed.columns, **function.options, **said}
        answer = self._caller.call(_where(function.use), arguments, self._config.timeout_seconds, leave_out=True)
        problem = answer.problem or _no_number(answer.value)
        if problem:
            self.failures[f"{name}: {problem}"] += 1
            return None
        return None if answer.value is None else float(answer.value)


def mean_values(names: Sequence[str], scores: Iterable[Score]) -> dict[str, float]:
    """Of each function, its mean where it applies; not a number where it never does."""
    columns = zip(*(score.values for score in scores), strict=True)
    applied = ([value for value in column if value is not None] for column in columns)
    return {
        name: math.fsum(values) / len(values) if values else math.nan
        for name, values in zip(names, applied, strict=False)
    }


def _no_number(value: Any) -> str:
    if value is None or (isinstance(value, (int, float)) and math.isfinite(value)):
        return ""
    return f"it gave `{str(value)[:60]}`, which is no finite number"


def _where(use: str) -> str:
    return f"{_FILE}:{use}" if use in SHIPPED else use


def _names(functions: Sequence[RewardFunction]) -> tuple[str, ...]:
    """What each is called in a log: the function's own name, and a number where two share it."""
    names = ["model" if function.model else function.use.rpartition(":")[2] for function in functions]
    return tuple(f"{name}_{i}" if names.count(name) > 1 else name for i, name in enumerate(names, start=1))
