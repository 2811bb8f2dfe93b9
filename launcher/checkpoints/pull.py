"""One checkpoint from a host to its place at home: room, transfer, proof, name.

The transfer lands in `.incoming/<step>/` and goes on there after any
interruption. Only the files that the manifest names are asked for, as regular
files: a host can slip in neither a link nor anything else. Whatever happens,
nothing here deletes a checkpoint, at home or on the host.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from launcher.checkpoints.home import commit
from launcher.checkpoints.parts import one_listing
from launcher.checkpoints.remote_checkpoints import Listing, RemoteCheckpoint, list_remote, remove_remote
from launcher.clock import Clock
from launcher.commands.checkpoints import verify_checkpoint
from launcher.crash import crashpoint
from launcher.errors import GptopsError, LocalFault, NotVerified, Unreachable
from launcher.paths import LocalRun
from launcher.remote.rsync import PARTIAL
from launcher.remote.several import Several, machines
from launcher.remote.together import each
from launcher.remote.transport import Transport
from trainer.manifest import FILE_NAME, BrokenCheckpoint, FileEntry

Progress = Callable[[str, float], AbstractContextManager[Callable[[float], None]]]
"""`screen.progress`: a bar for the time of a block."""

SPARE_BYTES = 64 << 20
"""Room that stays free at home besides the checkpoint: for the log, the ledger and everybody else."""


@dataclass(frozen=True)
class Pulled:
    """A checkpoint that has just come home."""

    step: int
    name: str
    bytes: int
    seconds: float
    path: Path
    from_nodes: tuple[tuple[int, int], ...] = ()
    """The bytes that each node of the run gave: its place, and how many."""


@dataclass(frozen=True)
class Puller:
    """Brings checkpoints of one run home. Raises NotVerified, LocalFault, or what the transport raises."""

    transport: Transport
    folder: PurePosixPath
    """The host's `checkpoints/`."""
    local: LocalRun
    clock: Clock
    progress: Progress
    lock: int
    """Descriptor of the run's lock; rsync inherits it, so that a killed gptops and its orphan are one holder."""

    @property
    def host_name(self) -> str:
        """Of the host, or of all nodes."""
        return ", ".join(machine.host.name for machine in machines(self.transport))

    def list(self) -> Listing:
        """The checkpoints there are now. Of several nodes, those that answer are enough."""
        if not isinstance(self.transport, Several):
            return list_remote(self.transport, self.folder)
        nodes, names = self.transport.nodes, self.transport.names
        answers = each(names, lambda node: list_remote(nodes[node], self.folder))
        silent = [answer for answer in answers if isinstance(answer, GptopsError)]
        for error in silent:
            if not isinstance(error, Unreachable) or len(silent) == len(nodes):
                raise error
        return one_listing(names, [answer if isinstance(answer, Listing) else None for answer in answers])

    def remove(self, checkpoint: RemoteCheckpoint) -> None:
        """Make every machine forget it, or its part of it, if it is still exactly this one."""
        if not checkpoint.pieces:
            remove_remote(self.transport, self.folder, checkpoint)
        for piece in checkpoint.pieces:
            remove_remote(machines(self.transport)[piece.node], self.folder, piece.checkpoint)

    def pull(self, checkpoint: RemoteCheckpoint) -> Pulled:
        began = self.clock.monotonic()
        arriving = self.local.incoming / checkpoint.name
        try:
            path = self._pull(checkpoint, arriving)
        except OSError as error:
            raise self._local_fault(checkpoint, error) from error
        seconds = self.clock.monotonic() - began
        gave = tuple((node, _bytes_of(files)) for node, files in _sources(checkpoint))
        return Pulled(checkpoint.step, checkpoint.name, checkpoint.total_bytes, seconds, path, gave)

    def _pull(self, checkpoint: RemoteCheckpoint, arriving: Path) -> Path:
        while True:
            resumed = prepare(arriving, checkpoint)
            self._require_room(checkpoint, arriving)
            self._transfer(checkpoint, arriving)
            crashpoint("sync:transferred")
            try:
                return commit(self.local, arriving, checkpoint)
            except BrokenCheckpoint as error:
                shutil.rmtree(arriving)
                # What lay here before may have been of another day; what came in one piece from the host is the host's.
                if not resumed:
                    raise self._not_verified(checkpoint, error) from error

    def _transfer(self, checkpoint: RemoteCheckpoint, arriving: Path) -> None:
        with self.progress(checkpoint.name, checkpoint.total_bytes) as update:
            before = 0

            def on_progress(done: int) -> None:
                update(before + done)
                crashpoint("sync:transferring")

            for node, files in _sources(checkpoint):
                machine = machines(self.transport)[node]
                machine.pull([*files], self.folder / checkpoint.name, arriving, on_progress=on_progress, lock=self.lock)
                before += _bytes_of(files)

    def _require_room(self, checkpoint: RemoteCheckpoint, arriving: Path) -> None:
        # Finished files only: rsync goes on from a half one by writing all of it anew beside it.
        files = checkpoint.manifest.files.items()
        there = sum(entry.bytes for name, entry in files if _has_size(arriving / name, entry.bytes))
        wanted = checkpoint.total_bytes - there + SPARE_BYTES
        free = shutil.disk_usage(arriving).free
        if free < wanted:
            raise LocalFault(
                f"no room at home for `{checkpoint.name}`",
                why=f"{wanted / 1e9:.2f} GB are needed in {self.local.root}, {free / 1e9:.2f} GB are free",
                hint="make room and run the same command again; nothing is lost, on the host or here",
            )

    def _local_fault(self, checkpoint: RemoteCheckpoint, error: OSError) -> LocalFault:
        return LocalFault(
            f"`{checkpoint.name}` could not be stored in {self.local.root}",
            why=error.strerror or str(error),
            hint="mend that and run the same command again; nothing is lost, on the host or here",
        )

    def _not_verified(self, checkpoint: RemoteCheckpoint, error: BrokenCheckpoint) -> NotVerified:
        """Where the damage is, as far as the host can tell."""
        where = self.folder / checkpoint.name
        damaged_there, host = False, self.host_name
        for node, _files in _sources(checkpoint):
            machine = machines(self.transport)[node]
            if machine.run(verify_checkpoint(where), timeout_seconds=600).exit_code != 0:
                damaged_there, host = True, machine.host.name
        why = f"{error}: " + (f"the copy on {host} is damaged itself" if damaged_there else "it was damaged on the way")
        hint = (
            "nothing was deleted; resume from the checkpoint before it"
            if damaged_there
            else "run the same command again"
        )
        return NotVerified(f"`{checkpoint.name}` did not come home whole", why=why, hint=hint)


def prepare(arriving: Path, checkpoint: RemoteCheckpoint) -> bool:
    """Make ready to receive, keeping what an interrupted transfer of this very checkpoint left. Whether it left any."""
    manifest = arriving / FILE_NAME
    if arriving.is_dir() and not (manifest.is_file() and manifest.read_bytes() == checkpoint.manifest_text.encode()):
        # rsync believes a file of the same size and time: what belongs to another manifest must not look arrived.
        shutil.rmtree(arriving)
    arriving.mkdir(parents=True, exist_ok=True)
    manifest.write_bytes(checkpoint.manifest_text.encode())
    for name in checkpoint.manifest.files:
        _salvage(arriving / name)
    return any(path != manifest for path in arriving.rglob("*"))


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _salvage(path: Path) -> None:
    """Let rsync go on from its own temporary file: killed by SIGKILL, it could not put it aside itself."""
    if not path.parent.is_dir():
        return
    for left in path.parent.iterdir():
        if left.name.startswith(f".{path.name}.") and len(left.name) == len(path.name) + 8 and not left.is_symlink():
            partial = path.parent / PARTIAL / path.name
            partial.parent.mkdir(exist_ok=True)
            if not partial.exists() or partial.stat().st_size < left.stat().st_size:
                left.replace(partial)
            else:
                left.unlink()


def _sources(checkpoint: RemoteCheckpoint) -> Iterator[tuple[int, Mapping[str, FileEntry]]]:
    """Which node gives which files; what several parts have comes from the first."""
    if not checkpoint.pieces:
        yield 0, checkpoint.manifest.files
    seen: set[str] = set()
    for piece in checkpoint.pieces:
        files = piece.checkpoint.manifest.files
        fresh = {name: files[name] for name in files if name not in seen}
        if fresh:
            yield piece.node, fresh
        seen |= set(files)


def _bytes_of(files: Mapping[str, FileEntry]) -> int:
    return sum(entry.bytes for entry in files.values())
