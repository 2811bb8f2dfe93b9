"""The micro-batches of each step, the next ones made ready while a GPU still works on these.

A GPU works through what was handed to it by itself. Between handing over and waiting for the result the next step's
batches are read, pinned and sent, so it never waits for them; this needs no thread, and the order of everything stays
what it was. Where a stage samples from its policy there is nothing to read ahead: the policy is about to change.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from torch import nn

from trainer.stages.base import Stage


class Supply:
    """What one rank trains on, step by step."""

    def __init__(self, stage: Stage[Any], policy: nn.Module, accumulation: int) -> None:
        self._stage, self._accumulation = stage, accumulation
        self._batches = stage.batches(policy)
        self._ahead: list[Any] | None = None
        self._state_before_ahead: Mapping[str, Any] = {}

    def take(self) -> list[Any]:
        """The micro-batches of the step that begins now."""
        batches, self._ahead = self._ahead, None
        return batches if batches is not None else self._draw()

    def look_ahead(self) -> None:
        """Make those of the next step ready, where they do not depend on this one."""
        if not self._stage.samples_from_policy and self._ahead is None:
            self._state_before_ahead = self._stage.state_dict()
            self._ahead = self._draw()

    @property
    def state(self) -> Mapping[str, Any]:
        """Where the stage's stream stands after the batches that were taken."""
        return self._stage.state_dict() if self._ahead is None else self._state_before_ahead

    def _draw(self) -> list[Any]:
        return list(itertools.islice(self._batches, self._accumulation))
