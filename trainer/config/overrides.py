"""`key=value` on a command line, laid over a configuration.

    train.max_steps=10   optim.lr=3e-4   sample.prompt='To be'

The value is read as YAML, so numbers are numbers and quotes make text.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from trainer.config.problems import ConfigError, Problem
from trainer.config.yaml import parse_yaml


def apply_overrides(config: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy of `config` with every `dotted.key=value` laid over it. Raises ConfigError on other forms."""
    result = copy.deepcopy(dict(config))
    for override in overrides:
        key, equals, text = override.partition("=")
        parts = key.split(".")
        if not equals or not all(part.strip() == part and part for part in parts):
            message = "is not of the form key=value"
            raise ConfigError([Problem(override, "", message)], hint="write for example `train.max_steps=10`")
        _set(result, parts, parse_yaml(text, override) if text else "", override)
    return result


def with_its_overrides(problem: Problem, at: str, overrides: Iterable[str]) -> Problem:
    """A problem of a configuration at `at`, its source followed by those overrides that are about the same key."""
    path = problem.path.removeprefix(at).lstrip(".")
    concerned = " ".join(each for each in overrides if _concerns(each.partition("=")[0], path, problem.message))
    return replace(problem, source=f"{problem.source} with {concerned}") if concerned else problem


def _concerns(key: str, path: str, message: str) -> bool:
    """Whether `key` is `path`, above it or below it; of the whole, whether the message names it."""
    if not path:
        return key in message
    return f"{path}.".startswith(f"{key}.") or key.startswith(f"{path}.")


def _set(config: dict[str, Any], parts: list[str], value: Any, override: str) -> None:
    *parents, last = parts
    for part in parents:
        child = config.setdefault(part, {})
        if not isinstance(child, dict):
            raise ConfigError([Problem(override, part, f"holds `{child}`, which has no keys below it")])
        config = child
    config[last] = value
