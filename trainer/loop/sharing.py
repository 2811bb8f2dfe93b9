"""Where nodes share no disk: each gets the newest checkpoint there is, from those that have it or its parts.

After a restart the nodes may be others, or numbered otherwise; what one wrote alone (DDP) the others lack, and of what
all wrote (FSDP) each has a part. The first process of every node says what lies there; the newest that is sound goes
from its holders to all who lack it, over gloo, and is verified and merged there. It is on every node before it gets its
name on any.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
import torch.distributed as dist
from torch import Tensor

from trainer import manifest
from trainer.checkpoints.checkpoint import with_disk_errors_named
from trainer.checkpoints.keeping import MARGIN_BYTES, require_space, sweep
from trainer.console import Console, size_text
from trainer.errors import CheckpointError
from trainer.loop.crew import PATIENCE, lost_peers_named
from trainer.loop.distributed import World
from trainer.manifest import BrokenCheckpoint, Manifest

_INCOMING = ".sharing.tmp"
_CHUNK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class _Offer:
    """What one node has of one step."""

    manifest: Manifest
    text: bytes
    """Of its manifest, byte for byte: two with the same one have the same content."""


_Offers = dict[int, _Offer]
"""By step, what one process can give; of a process that is not the first of its disk, nothing."""


def share_newest(folder: Path, world: World, console: Console) -> None:
    """Let `folder` have the newest sound checkpoint on every node; nothing where they share a disk, or none has any.

    Every rank calls this. Raises CheckpointError.
    """
    if world.disk.is_shared:
        return
    offers = world.gather(world.on_all(lambda: _offers(folder) if world.disk.is_first else {}))
    for step in sorted({step for offer in offers for step in offer}, reverse=True):
        for givers in _givers(step, offers):
            if all(world.gather(world.rank not in givers or _is_sound(folder, step))):
                _share(folder, step, givers, offers, world, console)
                return


def _offers(folder: Path) -> _Offers:
    found: _Offers = {}
    if folder.is_dir():
        sweep(folder)
        shutil.rmtree(folder / _INCOMING, ignore_errors=True)
    for path in manifest.published(folder):
        try:
            text = (path / manifest.FILE_NAME).read_bytes()
            found[manifest.read_manifest(path).step] = _Offer(manifest.parse_manifest(text.decode()), text)
        except (OSError, BrokenCheckpoint, UnicodeDecodeError):
            continue  # whoever chooses from this folder will say so
    return found


def _givers(step: int, offers: Sequence[_Offers]) -> list[list[int]]:
    """The groups of ranks that have all of `step` between them: alone, or its parts in order."""
    have = {rank: offer[step].manifest for rank, offer in enumerate(offers) if step in offer}
    alone = [[rank] for rank, found in have.items() if found.is_whole]
    groups = []
    for save, parts in sorted({(found.save, found.parts) for found in have.values() if not found.is_whole}):
        by_part = {found.part: rank for rank, found in have.items() if found.save == save and found.parts == parts}
        if len(by_part) == parts:
            groups.append([by_part[part] for part in range(parts)])
    return alone + groups


def _is_sound(folder: Path, step: int) -> bool:
    try:
        manifest.verify_files(folder / manifest.step_name(step))
    except BrokenCheckpoint:
        return False
    return True


def _share(
    folder: Path, step: int, givers: list[int], offers: Sequence[_Offers], world: World, console: Console
) -> None:
    given = [offers[rank][step] for rank in givers]
    firsts = [rank for rank, is_first in enumerate(world.gather(world.disk.is_first)) if is_first]
    lacking = {rank for rank in firsts if len(given) > 1 or offers[rank].get(step) != given[0]}
    if not lacking:
        return
    num_bytes, name, lacks = sum(o.manifest.total_bytes for o in given), manifest.step_name(step), world.rank in lacking
    console.say(f"bringing `{name}` to {len(lacking)} of {len(firsts)} nodes ({size_text(num_bytes)})")
    _on_all_disks(lambda: _make_room(folder, num_bytes) if lacks else None, folder, world)
    incoming = folder / _INCOMING
    sinks = [_Sink(incoming / str(giver) / name if lacks and giver != world.rank else None) for giver in givers]
    with lost_peers_named():
        group = dist.new_group(firsts, backend="gloo", timeout=PATIENCE)
        for giver, offer, sink in zip(givers, given, sinks, strict=True) if world.rank in firsts else ():
            _broadcast(folder / name, offer.manifest, sink, giver, giver == world.rank, group)

    def build() -> None:
        for offer, sink in zip(given, sinks, strict=True):
            sink.finish(offer.text)
        if lacks:
            _build([sink.folder or folder / name for sink in sinks], incoming / name)

    _on_all_disks(build, folder, world)
    _on_all_disks(lambda: _swap_in(incoming / name, folder / name) if lacks else None, folder, world)


def _make_room(folder: Path, num_bytes: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    require_space(folder, num_bytes + MARGIN_BYTES)


def _on_all_disks(act: Callable[[], None], folder: Path, world: World) -> None:
    world.on_all(lambda: with_disk_errors_named(act, folder))


def _build(sources: list[Path], whole: Path) -> None:
    """The whole checkpoint out of what arrived. Raises CheckpointError where it was damaged on the way."""
    try:
        if len(sources) > 1:
            manifest.merge_parts(sources, whole)
        else:
            manifest.verify(sources[0])
            sources[0].rename(whole)
    except BrokenCheckpoint as problem:
        raise CheckpointError(
            f"`{whole.name}` did not arrive whole from the other nodes", why=str(problem)
        ) from problem


def _swap_in(whole: Path, final: Path) -> None:
    """Give it its name, which a part or another checkpoint of that step may have."""
    before = final.with_name(final.name + ".part")
    manifest.remove(before)
    if final.exists():
        final.rename(before)
    whole.rename(final)
    manifest.fsync(final.parent)
    manifest.remove(before)
    shutil.rmtree(whole.parent, ignore_errors=True)


class _Sink:
    """Where one giver's files go; nowhere, on a node that does not lack them. Its trouble is kept until `finish`: the
    others go on sending."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._file: BinaryIO | None = None
        self._error: OSError | None = None

    def open(self, name: str) -> None:
        """The bytes of this file come next."""
        self._attempt(lambda: self._begin(name))

    def write(self, data: memoryview) -> None:
        """Some more of them."""
        if self._file is not None:
            self._attempt(lambda: self._put(data))

    def finish(self, manifest_text: bytes) -> None:
        """All have come. Raises OSError."""
        self._attempt(self._settle)
        if self._error is not None:
            raise self._error
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / manifest.FILE_NAME).write_bytes(manifest_text)
            manifest.fsync(self.folder / manifest.FILE_NAME)
            for folder in (*(path for path in self.folder.rglob("*") if path.is_dir()), self.folder):
                manifest.fsync(folder)

    def _settle(self) -> None:
        """What came is on the disk: the checkpoint is about to get its name."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None

    def _begin(self, name: str) -> None:
        self._settle()
        if self.folder is not None:
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("wb")

    def _put(self, data: memoryview) -> None:
        assert self._file is not None
        self._file.write(data)

    def _attempt(self, act: Callable[[], None]) -> None:
        if self._error is None:
            try:
                act()
            except OSError as error:
                self._error = error


def _broadcast(source: Path, files: Manifest, sink: _Sink, giver: int, gives: bool, group: dist.ProcessGroup) -> None:
    """Send every file of `source` from the process `giver` to the others of the group."""
    for name, entry in sorted(files.files.items()):
        sink.open(name)
        for start in range(0, entry.bytes, _CHUNK_BYTES):
            chunk = torch.zeros(min(_CHUNK_BYTES, entry.bytes - start), dtype=torch.uint8)
            if gives:
                with suppress(OSError):  # the others wait for it: what is wrong with it they will find
                    _read(source / name, start, chunk)
            dist.broadcast(chunk, src=giver, group=group)
            if not gives:
                sink.write(chunk.numpy().data)


def _read(path: Path, start: int, into: Tensor) -> None:
    with path.open("rb") as file:
        file.seek(start)
        file.readinto(into.numpy().data)
