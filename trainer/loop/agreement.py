"""Which checkpoint all nodes go on from, each with a copy of its own where they share no disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from trainer.errors import CheckpointError
from trainer.loop.distributed import World


def agreed_checkpoint(choose: Callable[[], Path | None], world: World) -> Path | None:
    """What the first process of each disk chose, as this process finds it on its own. Every rank calls this.

    Raises CheckpointError where the nodes chose differently.
    """
    own = world.on_all(lambda: choose() if world.disk.is_first else None)
    chosen = {
        part: path for part, is_first, path in world.gather((world.disk.part, world.disk.is_first, own)) if is_first
    }
    names = {part: path.name if path else "none" for part, path in sorted(chosen.items())}
    if len(set(names.values())) > 1:
        error = CheckpointError(
            "the nodes would go on from different checkpoints",
            why="they share no disk, and the newest whole one is "
            + ", ".join(f"{name} on node {part}" for part, name in names.items()),
            hint="bring the same one to every node, or let them write to a disk that they share",
        )
        error.on_every_rank = True
        raise error
    return chosen[world.disk.part]
