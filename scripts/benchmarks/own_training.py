"""A training of ours as it is measured: the engine's own loop over a stage whose steps wait for their turn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from turns import Pace


def train_paced(stage: str, settings: dict[str, Any], pace: Pace) -> None:
    """Train by `settings`, whose `out_dir` is made; `pace` ends the process."""
    from trainer.config import run_config
    from trainer.console import Console
    from trainer.loop.allocator import keep_freed_memory
    from trainer.loop.distributed import opened_world
    from trainer.loop.engine import train
    from trainer.stages import open_stage

    config = run_config(settings, source="bench")
    Path(config.out_dir).mkdir()
    with opened_world(config.train) as world:
        if world.device.type == "cpu":
            keep_freed_memory()  # as every training here
        console = Console(False)
        train(config, PacedStage(open_stage(stage, config, world, console), pace), world, console)


class PacedStage:
    """A stage whose steps wait for their turn."""

    def __init__(self, stage: Any, pace: Pace) -> None:
        self._stage, self._pace = stage, pace

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stage, name)

    def batches(self, policy: Any) -> Iterator[Any]:
        found = self._stage.batches(policy)
        while True:  # a batch is a step
            self._pace.edge()
            yield next(found)
