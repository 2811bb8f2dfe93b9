"""Trackers by the names that `log.trackers` may hold: is one usable here, and open it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from importlib.util import find_spec

from trainer.errors import EngineError
from trainer.trackers.base import TrackedRun, Tracker
from trainer.trackers.by_accelerate import ByAccelerate
from trainer.trackers.tensorboard import TensorBoard
from trainer.trackers.weights_and_biases import WeightsAndBiases, require_key


def require_trackers(names: Iterable[str], environ: Mapping[str, str] = os.environ) -> None:
    """Refuse, before anything costs time, what could not be opened later. Raises EngineError."""
    for name in names:
        if find_spec(name) is None:
            raise EngineError(
                f"the tracker `{name}` is not installed here",
                why=f"`log.trackers` names it, and there is no package `{name}`",
                hint="pip install 'gptops[trackers]'" if name in ("tensorboard", "wandb") else f"pip install {name}",
            )
        if name == "wandb":
            require_key(environ)


def open_tracker(name: str, run: TrackedRun) -> Tracker:
    """The tracker of that name, ready for rows. Raises EngineError, and whatever its package raises."""
    if name == "tensorboard":
        return TensorBoard(run)
    if name == "wandb":
        return WeightsAndBiases(run)
    return ByAccelerate(name, run)
