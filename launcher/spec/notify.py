"""Who is told of a job's turning points, as jobs.yaml says it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from trainer.config import Model

Event = Literal["end", "failure", "preemption", "budget"]
EVERY: tuple[Event, ...] = ("end", "failure", "preemption", "budget")


def _variable(value: object) -> object:
    if isinstance(value, str) and "://" in value:  # and the value is not repeated: it may be a secret
        raise ValueError("is an address: write the NAME of a variable of your environment that holds it")
    return value


class NotifySpec(Model):
    """Who is told by `gptops run`."""

    command: str | None = Field(None, min_length=1)
    """A shell line of yours, run here with GPTOPS_EVENT, GPTOPS_TEXT, GPTOPS_JOB, … in its environment."""
    webhook: Annotated[str | None, BeforeValidator(_variable)] = Field(None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """The name of a variable of your environment that holds a URL; it gets JSON by POST."""
    on: Annotated[tuple[Event, ...], Field(strict=False)] = EVERY
    """Of what: end, failure, preemption, budget."""
