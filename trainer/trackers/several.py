"""All trackers of a run. One that fails while training is left out from then on: it may cost no training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from trainer.console import Console
from trainer.errors import EngineError, TrainerError
from trainer.trackers.base import TrackedRun, Tracker
from trainer.trackers.by_name import open_tracker


class Trackers:
    """Those that `log.trackers` names; none until `open`."""

    def __init__(self, names: Iterable[str], console: Console) -> None:
        self._names, self._console = tuple(dict.fromkeys(names)), console
        self._open: dict[str, Tracker] = {}

    def open(self, run: TrackedRun) -> None:
        """Begin, or go on. Raises EngineError: nothing is lost yet, and somebody is still looking."""
        for name in self._names:
            try:
                self._open[name] = open_tracker(name, run)
            except TrainerError:
                raise
            except Exception as error:  # packages of many hands raise anything
                raise EngineError(
                    f"the tracker `{name}` could not be opened",
                    why=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}",
                    hint="look at its documentation, or leave it out of `log.trackers`",
                ) from error

    def log(self, row: Mapping[str, Any]) -> None:
        """A row of metrics.jsonl: its finite numbers, and its texts."""
        step = row["step"]
        shown = {name: value for name, value in row.items() if name != "step" and _is_shown(value)}
        if shown:
            self._each(lambda tracker: tracker.log(step, shown))

    def close(self) -> None:
        """The end of the run, or a stop."""
        self._each(lambda tracker: tracker.close())
        self._open.clear()

    def _each(self, act: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._open.items()):
            try:
                act(tracker)
            except Exception as error:  # noqa: BLE001  a network, a full disk, a service: none may end a training
                self._console.say(f"tracker `{name}` failed and is left out from here on: {error}")
                del self._open[name]


def _is_shown(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, (int, float)) and math.isfinite(value))
