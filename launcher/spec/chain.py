"""A job that begins where another one ended: `model.init_from: job:NAME` in its training configuration.

Here, before anything ran, only the shape is taken over: size of the model and tokenizer of the other job, under what
the job writes itself. Which checkpoint it will be is known when the run starts (launcher.running.beginning).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from trainer.config import RunConfig, apply_overrides

PREFIX = "job:"

_NOT_INHERITED = {"init_from", "preset", "dropout"}
"""What says how a model began, or how it is trained, and not what it is."""


def earlier_job(train: Any, overrides: Iterable[str] = ()) -> str | None:
    """The job that a training configuration begins from; None where it names none. Raises ConfigError."""
    if not isinstance(train, Mapping):
        return None
    model = apply_overrides(train, overrides).get("model", {})
    source = model.get("init_from") if isinstance(model, Mapping) else None
    return source.removeprefix(PREFIX) if isinstance(source, str) and source.startswith(PREFIX) else None


def with_shape_of(train: Mapping[str, Any], earlier: RunConfig) -> dict[str, Any]:
    """The configuration with the earlier job's model and tokenizer under its own words."""
    shape = {key: value for key, value in earlier.model.model_dump().items() if key not in _NOT_INHERITED}
    model, data = train.get("model", {}), train.get("data", {})
    if not isinstance(model, Mapping) or not isinstance(data, Mapping):
        return dict(train)  # of a wrong shape: its own validator says so
    tokenizer = data.get("tokenizer", earlier.data.tokenizer.model_dump(exclude_defaults=True))
    return {**train, "model": {**shape, **model}, "data": {**data, "tokenizer": tokenizer}}
