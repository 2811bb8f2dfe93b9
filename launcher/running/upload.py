"""Bring the code to a host, once a change: only what differs is sent, and only what we sent is ever removed.

`gptops/uploads/<project>/` mirrors the snapshot; beside it lies the list of what
was uploaded. What stands on that list and vanished at home is removed there; no
other file is touched. It never decides what the code is: that is snapshot.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import trainer
from launcher.clock import Clock
from launcher.commands import files as commands
from launcher.errors import HostUnfit
from launcher.lock import hold
from launcher.paths import REMOTE_UPLOADS, state_paths
from launcher.project import Project
from launcher.remote.rsync import OnProgress, RsyncOutcome
from launcher.remote.transport import Command, Transport
from launcher.running.snapshot import Snapshot, visible
from launcher.sizes import size_text


@dataclass(frozen=True)
class Uploaded:
    """What an upload did."""

    target: PurePosixPath
    """The folder on the host, relative to the remote home."""
    files: int
    """Sent, because they were new or had changed."""
    bytes: int
    removed: int
    """Removed there, because they vanished here."""
    seconds: float


def remote_code(project: Project) -> PurePosixPath:
    """Where the project's code lies on a host."""
    return REMOTE_UPLOADS / project.slug


def upload(
    transport: Transport, project: Project, snapshot: Snapshot, clock: Clock, on_progress: OnProgress | None = None
) -> Uploaded:
    """Make the host's copy equal to `snapshot`, plus the trainer where the project has none of its own."""
    start = clock.monotonic()
    target = remote_code(project)
    ours = () if brings_trainer(snapshot) else trainer_files()
    lock = state_paths().locks / f"upload-{transport.host.name}-{project.slug}.lock"
    with hold(lock, f"uploads {project.root} to {transport.host.name}", clock):
        removed = _forget_vanished(transport, target, {*snapshot.files, *ours})
        # rsync takes a name that starts with `#` or `;` for a comment, skips it and ends with 0.
        names = [f"./{name}" for name in snapshot.files]
        sent = transport.push(names, snapshot.root, target, on_progress=on_progress)
        added = transport.push(ours, _trainer_folder().parent, target) if ours else RsyncOutcome(0, 0)
    return Uploaded(target, sent.files + added.files, sent.bytes + added.bytes, removed, clock.monotonic() - start)


def preview(snapshot: Snapshot) -> list[str]:
    """What will be uploaded, for people: how much, and the largest."""
    lines = [f"{len(snapshot.files):,} files, {size_text(snapshot.total_bytes)} in `{snapshot.root}`"]
    if snapshot.largest:
        sizes = (f"{visible(file.name)} {size_text(file.bytes)}" for file in snapshot.largest)
        lines.append("largest: " + ", ".join(sizes))
    if snapshot.left_out:
        lines.append("left out: " + ", ".join(visible(name) for name in snapshot.left_out))
    return lines


def brings_trainer(snapshot: Snapshot) -> bool:
    """Whether the project has a package `trainer` of its own, which then is what runs."""
    return "trainer/__init__.py" in snapshot.files


def trainer_files() -> tuple[str, ...]:
    """The installed trainer, relative to the folder it lies in."""
    folder = _trainer_folder()
    found = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return tuple(sorted(path.relative_to(folder.parent).as_posix() for path in found))


def _trainer_folder() -> Path:
    return Path(trainer.__file__).resolve().parent


def _forget_vanished(transport: Transport, target: PurePosixPath, wanted: set[str]) -> int:
    """Remove there what an earlier upload brought and this one does not, and keep the list. Returns how many.

    The new list is written before anything is sent: an upload that is cut leaves no file that no list knows.
    """
    listing = target.with_name(target.name + ".files")
    before = commands.split(_answer(transport, commands.read_list(listing)))
    # The list comes from a rented machine: it must not name anything outside the folder.
    vanished = sorted(name for name in {*before} - wanted if ".." not in name.split("/") and not name.startswith("/"))
    if vanished:
        _answer(transport, commands.remove_files(target, vanished))
        _answer(transport, commands.remove_empty_folders(target, _folders(vanished)))
    if {*before} != wanted:
        _answer(transport, commands.write_list(listing, sorted(wanted)))
    return len(vanished)


def _folders(names: Iterable[str]) -> list[str]:
    """The folders of `names`, deepest first."""
    folders = {str(parent) for name in names for parent in PurePosixPath(name).parents} - {"."}
    return sorted(folders, key=lambda name: (-name.count("/"), name))


def _answer(transport: Transport, command: Command) -> str:
    result = transport.run(command)
    if result.exit_code != 0:
        raise HostUnfit(
            f"`{transport.host.name}` could not keep the upload's books",
            why=result.stderr.strip() or f"`{command.argv[0]}` ended with {result.exit_code}",
            hint=f"gptops ssh {transport.host.name} -- df -h .",
        )
    return result.stdout
