"""What a whole checkpoint is, for the side that writes it and the side that brings it home.

A checkpoint is a directory `step_00000500/` with a MANIFEST.json, written last,
that names every file with its bytes and sha256. It is built as
`step_00000500.tmp/`, fsynced and renamed; whatever ends in `.tmp` is invisible.

Where nodes that train together share no disk, each publishes a part of it: a
directory of the same name whose manifest says which of how many it is. A part
is no checkpoint; all parts of one save, merged, are.

A doorway module, and standard library only: on a host without any package,
`python3 manifest.py list DIR` prints the checkpoints and the parts as JSON, and
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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE_NAME = "MANIFEST.json"
FORMAT = 1
PART_FORMAT = 2
"""Of a part: readers that know nothing of parts take it for broken, never for whole."""
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
    part: int = 0
    """Which part this is, from 0 on."""
    parts: int = 1
    """How many parts the checkpoint has; 1 is a whole one."""
    save: str = ""
    """What all parts of one save have in common, and parts of another save of the same step do not; "" if whole."""

    @property
    def is_whole(self) -> bool:
        return self.parts == 1

    @property
    def total_bytes(self) -> int:
        return sum(entry.bytes for entry in self.files.values())

    def to_json(self) -> str:
        files = {name: {"bytes": entry.bytes, "sha256": entry.sha256} for name, entry in sorted(self.files.items())}
        head: dict[str, Any] = {"format": FORMAT, "step": self.step}
        if not self.is_whole:
            head = {**head, "format": PART_FORMAT, "part": self.part, "parts": self.parts, "save": self.save}
        return json.dumps({**head, "files": files}, indent=1) + "\n"


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
        if raw["format"] not in (FORMAT, PART_FORMAT):
            raise BrokenCheckpoint(f"{FILE_NAME} has format {raw['format']}, this version reads up to {PART_FORMAT}")
        files = {str(name): FileEntry(int(e["bytes"]), str(e["sha256"])) for name, e in raw["files"].items()}
        manifest = Manifest(int(raw["step"]), files, **(_part_of(raw) if raw["format"] == PART_FORMAT else {}))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise BrokenCheckpoint(f"{FILE_NAME} cannot be read ({type(error).__name__})") from error
    for name in files:
        # A manifest comes from a rented machine: it must not reach outside the checkpoint.
        parts = name.split("/")
        if {"", ".", ".."} & set(parts) or "\\" in name or "\0" in name or name == FILE_NAME:
            raise BrokenCheckpoint(f"{FILE_NAME} names `{name}`, which is no file of a checkpoint")
    return manifest


def _part_of(raw: Mapping[str, Any]) -> dict[str, Any]:
    part, parts, save = int(raw["part"]), int(raw["parts"]), str(raw["save"])
    if not (0 <= part < parts and parts > 1 and save):
        raise BrokenCheckpoint(f"{FILE_NAME} says part {part} of {parts}, which cannot be")
    return {"part": part, "parts": parts, "save": save}


def read_manifest(checkpoint: Path) -> Manifest:
    """The manifest of a checkpoint directory, or of a part. Raises BrokenCheckpoint."""
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
    """The manifest, after every file was read and found to match. Raises BrokenCheckpoint naming the first misfit,
    and for a part."""
    manifest = read_manifest(checkpoint)
    if not manifest.is_whole:
        raise BrokenCheckpoint(f"it is one of {manifest.parts} parts, and the others are elsewhere")
    return verify_files(checkpoint)


def verify_files(checkpoint: Path) -> Manifest:
    """As `verify`, of a checkpoint or of a part."""
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
    step = step_of(building.with_suffix("").name)
    assert step is not None, building
    return publish_as(building, Manifest(step, settled_files(building)))


def settled_files(building: Path) -> dict[str, FileEntry]:
    """Every file there is in `building`, with its hash, on the disk by now."""
    files = {}
    for path in sorted(p for p in building.rglob("*") if p.is_file()):
        files[path.relative_to(building).as_posix()] = settled_file(path)
    return files


def settled_file(path: Path) -> FileEntry:
    """The entry of a file that is complete, after it was forced to the disk."""
    fsync(path)
    return FileEntry(path.stat().st_size, sha256_of(path))


def publish_as(building: Path, manifest: Manifest) -> Path:
    """`publish` with a manifest that names the files in `building`, which are on the disk: of a part, or put together
    by several writers."""
    final = building.with_suffix("")
    assert building.suffix == ".tmp", building
    assert step_of(final.name) == manifest.step, building
    (building / FILE_NAME).write_text(manifest.to_json(), encoding="utf-8")
    fsync(building / FILE_NAME)
    for folder in (*(path for path in building.rglob("*") if path.is_dir()), building):
        fsync(folder)
    building.rename(final)
    fsync(final.parent)
    return final


def merge_parts(parts: Sequence[Path], destination: Path) -> Path:
    """Make of all parts of one save, in any order, the whole checkpoint `destination`, which must not exist.

    Every byte is read; the parts stay as they are and share their files with it where the disk knows links. Raises
    BrokenCheckpoint, with nothing made, where a part is missing, damaged, or of another save.
    """
    found = [(part, verify_files(part)) for part in parts]
    whole = merged([manifest for _part, manifest in found])
    building = destination.with_name(destination.name + ".tmp")
    shutil.rmtree(building, ignore_errors=True)
    try:
        for folder, manifest in found:
            for name in manifest.files:
                _share(folder / name, building / name)
        return publish_as(building, whole)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


def merged(parts: Sequence[Manifest]) -> Manifest:
    """The manifest of the whole that `parts` make up. Raises BrokenCheckpoint."""
    kinds = {(manifest.step, manifest.parts, manifest.save) for manifest in parts}
    if len(kinds) != 1:
        raise BrokenCheckpoint("these are not the parts of one save" if kinds else "there are no parts to merge")
    ((step, count, _save),) = kinds
    if sorted(manifest.part for manifest in parts) != list(range(count)):
        has = ", ".join(str(number) for number in sorted(manifest.part for manifest in parts))
        raise BrokenCheckpoint(f"it has the parts 0 to {count - 1}, and these are {has}")
    files: dict[str, FileEntry] = {}
    for manifest in parts:
        for name, entry in manifest.files.items():
            if files.setdefault(name, entry) != entry:
                raise BrokenCheckpoint(f"two parts have a `{name}`, and they differ")
    return Manifest(step, files)


def _share(source: Path, target: Path) -> None:
    if target.exists():  # another part has the same
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another disk, or one that knows no links
        shutil.copy2(source, target)
        fsync(target)


def checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints in `folder`, oldest step first, by what their manifests say. Published, not verified."""
    return [path for path in published(folder) if not is_part(path)]


def published(folder: Path) -> list[Path]:
    """Directories in `folder` that carry a manifest, of a checkpoint or of a part, oldest step first."""
    if not folder.is_dir():
        return []
    found = [(step_of(path.name), path) for path in folder.iterdir()]
    return [path for step, path in sorted((s, p) for s, p in found if s is not None) if (path / FILE_NAME).is_file()]


def is_part(checkpoint: Path) -> bool:
    """Whether it is only a part, by its manifest; False for what is broken."""
    try:
        return not read_manifest(checkpoint).is_whole
    except BrokenCheckpoint:  # whoever looks closer will say so
        return False


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
    """What `python3 manifest.py list` prints: checkpoints and parts with the text of their manifests."""
    rows: list[dict[str, object]] = []
    for path in published(folder):
        try:
            found = read_manifest(path)
            text = (path / FILE_NAME).read_bytes().decode(errors="replace")  # byte for byte: its hash is compared
            rows.append({"name": path.name, "manifest": text, "part": found.part, "parts": found.parts})
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
        print(verify_files(Path(arguments[1])).to_json(), end="")
    elif arguments[:1] == ["remove"] and len(arguments) == 3:
        _remove_if(Path(arguments[1]), arguments[2])
    elif arguments[:1] == ["merge"] and len(arguments) > 3:
        print(merge_parts([Path(part) for part in arguments[2:]], Path(arguments[1])))
    else:
        sys.exit(
            "usage: manifest.py list FOLDER | verify CHECKPOINT | remove CHECKPOINT MANIFEST_SHA256"
            " | merge CHECKPOINT PART PART..."
        )


if __name__ == "__main__":
    try:
        _main(sys.argv[1:])
    except (BrokenCheckpoint, OSError) as error:
        sys.exit(f"{sys.argv[2]}: {error}")
