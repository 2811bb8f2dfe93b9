"""What a whole checkpoint is, for the side that writes it and the side that brings it home.

A checkpoint is a directory `step_00000500/` with a MANIFEST.json, written last,
that names every file with its bytes and sha256. It is built as
`step_00000500.tmp/`, fsynced and renamed; whatever ends in `.tmp` is invisible.

A doorway module, and standard library only: on a host without any package,
`python3 manifest.py list DIR` prints the whole checkpoints as JSON, and
`python3 manifest.py remove CHECKPOINT SHA256` removes one, provided that its
MANIFEST.json still has that hash.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

FILE_NAME = "MANIFEST.json"
FORMAT = 1
_STEP = re.compile(r"step_([0-9]{8}|[1-9][0-9]{8,})")


class BrokenCheckpoint(Exception):
    """A directory that looks like a checkpoint and is not whole; the text says what is wrong with it."""


@dataclass(frozen=True)
class FileEntry:
    """One file of a checkpoint: its size and hash as they were when it was written."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The contents of MANIFEST.json."""

    step: int
    files: dict[str, FileEntry]
    """By path relative to the checkpoint, `/` between parts; MANIFEST.json itself is not among them."""

    @property
    def total_bytes(self) -> int:
        return sum(entry.bytes for entry in self.files.values())

    def to_json(self) -> str:
        files = {name: {"bytes": entry.bytes, "sha256": entry.sha256} for name, entry in sorted(self.files.items())}
        return json.dumps({"format": FORMAT, "step": self.step, "files": files}, indent=1) + "\n"


def step_name(step: int) -> str:
    """`step_00000500` for 500."""
    return f"step_{step:08d}"


def step_of(name: str) -> int | None:
    """500 for `step_00000500`; None for any other name, `*.tmp` included."""
    match = _STEP.fullmatch(name)
    return int(match[1]) if match else None


def parse_manifest(text: str) -> Manifest:
    """The manifest `text` holds. Raises BrokenCheckpoint where it is not one, or names a file outside its folder."""
    try:
        raw = json.loads(text)
        if raw["format"] != FORMAT:
            raise BrokenCheckpoint(f"{FILE_NAME} has format {raw['format']}, this version reads {FORMAT}")
        files = {str(name): FileEntry(int(e["bytes"]), str(e["sha256"])) for name, e in raw["files"].items()}
        manifest = Manifest(step=int(raw["step"]), files=files)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise BrokenCheckpoint(f"{FILE_NAME} cannot be read ({type(error).__name__})") from error
    for name in files:
        # A manifest comes from a rented machine: it must not reach outside the checkpoint.
        parts = name.split("/")
        if {"", ".", ".."} & set(parts) or "\\" in name or "\0" in name or name == FILE_NAME:
            raise BrokenCheckpoint(f"{FILE_NAME} names `{name}`, which is no file of a checkpoint")
    return manifest


def read_manifest(checkpoint: Path) -> Manifest:
    """The manifest of a checkpoint directory. Raises BrokenCheckpoint."""
    try:
        text = (checkpoint / FILE_NAME).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise BrokenCheckpoint(f"{FILE_NAME} is missing") from error
    except (OSError, UnicodeDecodeError) as error:
        raise BrokenCheckpoint(f"{FILE_NAME} cannot be read") from error
    manifest = parse_manifest(text)
    if step_name(manifest.step) != checkpoint.name.split(".")[0]:
        raise BrokenCheckpoint(f"{FILE_NAME} is of step {manifest.step}")
    return manifest


def verify(checkpoint: Path) -> Manifest:
    """The manifest, after every file was read and found to match. Raises BrokenCheckpoint naming the first misfit."""
    manifest = read_manifest(checkpoint)
    for name, entry in manifest.files.items():
        verify_file(checkpoint, name, entry)
    return manifest


def verify_file(checkpoint: Path, name: str, entry: FileEntry) -> None:
    """Read one file of a checkpoint and compare it with its entry. Raises BrokenCheckpoint saying how they differ."""
    path = checkpoint / name
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise BrokenCheckpoint(f"`{name}` is no regular file")
        if path.lstat().st_size != entry.bytes:
            raise BrokenCheckpoint(f"`{name}` has {path.lstat().st_size} bytes, {entry.bytes} were written")
        if sha256_of(path) != entry.sha256:
            raise BrokenCheckpoint(f"`{name}` is not what was written (sha256 differs)")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BrokenCheckpoint(f"`{name}` is missing") from error
    except OSError as error:
        raise BrokenCheckpoint(f"`{name}` cannot be read ({error.strerror})") from error


def publish(building: Path) -> Path:
    """Turn `step_N.tmp/` into `step_N/`: hash, fsync, write the manifest, rename. Returns the final directory.

    After a power cut there is either the whole checkpoint or none. `step_N/` must not exist.
    """
    final = building.with_suffix("")
    step = step_of(final.name)
    assert building.suffix == ".tmp", building
    assert step is not None, building
    files = {}
    for path in sorted(p for p in building.rglob("*") if p.is_file()):
        entry = FileEntry(path.stat().st_size, sha256_of(path))
        files[path.relative_to(building).as_posix()] = entry
        fsync(path)
    (building / FILE_NAME).write_text(Manifest(step, files).to_json(), encoding="utf-8")
    fsync(building / FILE_NAME)
    fsync(building)
    building.rename(final)
    fsync(final.parent)
    return final


def checkpoints(folder: Path) -> list[Path]:
    """Directories in `folder` that carry a manifest, oldest step first. They are published, not verified."""
    if not folder.is_dir():
        return []
    found = [(step_of(path.name), path) for path in folder.iterdir()]
    return [path for step, path in sorted((s, p) for s, p in found if s is not None) if (path / FILE_NAME).is_file()]


def remove(checkpoint: Path) -> None:
    """Delete a checkpoint so that no reader ever sees half of it: hide by rename first.

    Rotation and `gptops sync` may both do it: what the other already took away is no error, and what a killed
    removal left behind goes with it.
    """
    hidden = checkpoint.with_name(checkpoint.name + ".removed.tmp")
    _remove_tree(hidden)
    try:
        checkpoint.rename(hidden)
    except FileNotFoundError:
        return
    _remove_tree(hidden)


def _remove_tree(folder: Path) -> None:
    """Delete a folder, together with somebody who is deleting it at the same time."""

    def ignore_missing(_function: object, _path: str, problem: tuple[type, BaseException, object]) -> None:
        if not isinstance(problem[1], FileNotFoundError):
            raise problem[1]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # onexc is its new name, from Python 3.12 on only
        shutil.rmtree(folder, onerror=ignore_missing)


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fsync(path: Path) -> None:
    """Force a file, or a directory's entries, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _listing(folder: Path) -> list[dict[str, object]]:
    """What `python3 manifest.py list` prints: the whole checkpoints with the text of their manifests."""
    rows: list[dict[str, object]] = []
    for path in checkpoints(folder):
        try:
            read_manifest(path)
            text = (path / FILE_NAME).read_bytes().decode(errors="replace")  # byte for byte: its hash is compared
            rows.append({"name": path.name, "manifest": text})
        except (BrokenCheckpoint, OSError) as error:  # removed by rotation in between, or broken: not whole
            rows.append({"name": path.name, "broken": str(error)})
    return rows


def _remove_if(checkpoint: Path, manifest_sha256: str) -> None:
    """Remove a checkpoint that is still the one meant; already gone is success. Raises BrokenCheckpoint otherwise."""
    path = checkpoint / FILE_NAME
    if checkpoint.exists() and not (path.is_file() and sha256_of(path) == manifest_sha256):
        raise BrokenCheckpoint("its manifest changed; it was left alone")
    remove(checkpoint)


def _main(arguments: list[str]) -> None:
    # No `match`: a bare host's python3 may be as old as 3.8.
    if arguments[:1] == ["list"] and len(arguments) == 2:
        print(json.dumps(_listing(Path(arguments[1]))))
    elif arguments[:1] == ["verify"] and len(arguments) == 2:
        print(verify(Path(arguments[1])).to_json(), end="")
    elif arguments[:1] == ["remove"] and len(arguments) == 3:
        _remove_if(Path(arguments[1]), arguments[2])
    else:
        sys.exit("usage: manifest.py list FOLDER | verify CHECKPOINT | remove CHECKPOINT MANIFEST_SHA256")


if __name__ == "__main__":
    try:
        _main(sys.argv[1:])
    except (BrokenCheckpoint, OSError) as error:
        sys.exit(f"{sys.argv[2]}: {error}")
