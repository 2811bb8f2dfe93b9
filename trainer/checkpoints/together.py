"""A checkpoint that all processes write: each its own pieces, and one on each disk publishes what lies there.

It is whole or invisible as any other. Where nodes share no disk, each publishes its part (trainer.manifest): then
it is whole once all parts were brought to one place. Meant for a thread of each process: what they have to agree on
goes over the crew's own group, and the training goes on.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trainer import manifest
from trainer.checkpoints import sharded
from trainer.checkpoints.checkpoint import TrainState, with_disk_errors_named, write_rest
from trainer.checkpoints.disk import Disk
from trainer.checkpoints.keeping import MARGIN_BYTES, require_space
from trainer.checkpoints.sharded import Shard
from trainer.config import RunConfig
from trainer.loop.crew import Crew
from trainer.manifest import FileEntry, Manifest
from trainer.tokenizer import Tokenizer


@dataclass(frozen=True)
class Published:
    """A checkpoint that was written, as one process sees it."""

    path: Path
    """On this process's disk: all of it, or this disk's part."""
    num_bytes: int
    """Of all parts."""


def write_together(
    folder: Path, state: TrainState, shard: Shard, *, crew: Crew, disk: Disk, config: RunConfig, tokenizer: Tokenizer
) -> Published:
    """Write `step_N/`. Every process calls this. Raises CheckpointError in all of them, leaving nothing of this save on
    any disk that had not published yet."""
    building = folder / (manifest.step_name(state.step) + ".tmp")
    save = crew.gather(secrets.token_hex(8))[0]
    sizes = crew.gather((disk.part, shard.num_bytes))
    wanted = sum(size for part, size in sizes if part == disk.part)

    def own_files() -> dict[str, FileEntry]:
        return _write_own(building, shard, lambda: write_rest(building, state, config, tokenizer))

    try:
        crew.on_all(lambda: with_disk_errors_named(lambda: _begin(building, disk, wanted), building))
        own = crew.on_all(lambda: with_disk_errors_named(own_files, building))
        written = crew.gather((disk.part, own))
        files = {name: entry for part, entries in written if part == disk.part for name, entry in entries.items()}
        whole = Manifest(state.step, files, disk.part, disk.parts, "" if disk.is_shared else save)
        crew.on_all(lambda: with_disk_errors_named(lambda: _publish(building, disk, whole), building))
    except BaseException:
        if disk.is_first:
            shutil.rmtree(building, ignore_errors=True)
        raise
    num_bytes = sum(entry.bytes for _part, entries in written for entry in entries.values())
    return Published(building.with_suffix(""), num_bytes)


def _begin(building: Path, disk: Disk, wanted_bytes: int) -> None:
    if disk.is_first:
        building.parent.mkdir(parents=True, exist_ok=True)
        require_space(building.parent, wanted_bytes + MARGIN_BYTES)
        shutil.rmtree(building, ignore_errors=True)
        for folder in (sharded.MODEL, sharded.OPTIMIZER):
            (building / folder).mkdir(parents=True)


def _write_own(building: Path, shard: Shard, write_rest: Callable[[], None]) -> dict[str, FileEntry]:
    """The files of this process, on the disk; the first process also writes what is no tensor."""
    files = [
        sharded.write_pieces(building / sharded.MODEL, shard.rank, shard.weights),
        sharded.write_pieces(building / sharded.OPTIMIZER, shard.rank, shard.moments),
    ]
    if shard.rank == 0:
        write_rest()
        tensors = {building / sharded.MODEL, building / sharded.OPTIMIZER}
        files += [path for path in building.rglob("*") if path.is_file() and path.parent not in tensors]
    return {path.relative_to(building).as_posix(): manifest.settled_file(path) for path in files}


def _publish(building: Path, disk: Disk, whole: Manifest) -> None:
    if disk.is_first:
        manifest.publish_as(building, whole)
