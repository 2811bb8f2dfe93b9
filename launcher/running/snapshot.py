"""Which local files are the code: names, sizes and a fingerprint, before anything is sent.

In a git work tree: what git tracks and what is new and not ignored, submodules
included. Elsewhere: everything but an ignore list. A file that can be neither
taken nor left out on purpose is an error; what is left out is said.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from launcher.errors import LocalFault
from launcher.git import git_files, work_tree
from launcher.sizes import size_text

LARGE_BYTES = 200 * 10**6
"""An upload of more than this is worth a warning: it is sent over a home connection."""

OUTPUTS = "runs"
"""Local outputs of runs, at the root of the project: never uploaded, whoever tracks them."""

IGNORED_NAMES = frozenset((
    ".git", ".hg", ".svn", ".venv", "venv", "__pycache__", "node_modules", ".mypy_cache", ".ruff_cache",
    ".pytest_cache", ".hypothesis", ".tox", ".nox", ".ipynb_checkpoints", ".DS_Store", ".idea", ".vscode",
))  # fmt: skip
IGNORED_SUFFIXES = (".pyc", ".pyo", ".egg-info")
"""Outside git, what no host needs. An environment is also known by its pyvenv.cfg."""

_SECRET_FILES = frozenset({".env", ".netrc", "id_rsa", "id_ed25519", "id_ecdsa", "credentials.json"})


@dataclass(frozen=True)
class LocalFile:
    """One file, or one symbolic link, relative to the root."""

    name: str
    """Any bytes but NUL, as os.fsdecode gives them."""
    bytes: int


@dataclass(frozen=True)
class Snapshot:
    """The files of a project as they are now, in a stable order."""

    root: Path
    files: tuple[str, ...]
    total_bytes: int
    largest: tuple[LocalFile, ...]
    """At most five, largest first."""
    fingerprint: str
    """Changes when a name, size, time, mode or link does. It does not read the files."""
    left_out: tuple[str, ...]
    """Names outside git that the ignore list took, and `runs/`."""
    warnings: tuple[str, ...]
    """What the user should know before it is sent."""


def snapshot(root: Path) -> Snapshot:
    """What would be uploaded of `root`. Raises LocalFault where a file or folder cannot be read."""
    root = root.resolve()
    names, left_out = _names(root)
    kept = sorted(name for name in names if name.split("/", 1)[0] != OUTPUTS)
    if len(kept) < len(names) or (root / OUTPUTS).is_dir():
        left_out = (*left_out, f"{OUTPUTS}/")
    files, digest, warnings = [], hashlib.sha256(), []
    for name in kept:
        status = _status(root, name)
        if status is None:  # tracked by git and deleted here: not part of the code any more
            continue
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)):
            warnings.append(f"`{visible(name)}` is neither a file nor a link and cannot be uploaded")
            continue
        warnings += _doubts(root, name, status)
        files.append(LocalFile(name, status.st_size))
        digest.update(_identity(root, name, status))
    total = sum(file.bytes for file in files)
    largest = tuple(sorted(files, key=lambda file: -file.bytes)[:5])
    if total > LARGE_BYTES:
        warnings.append(f"{size_text(total)} is much to upload; is data or a checkpoint among the largest files?")
    return Snapshot(
        root, tuple(file.name for file in files), total, largest, digest.hexdigest(), left_out, tuple(warnings)
    )


def visible(name: str) -> str:
    """A file name on one line, whatever is in it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in name)


def _names(root: Path) -> tuple[set[str], tuple[str, ...]]:
    if work_tree(root) is not None:
        names = git_files(root)
        if names is not None:
            return names, ()
    left_out: set[str] = set()
    return set(_walk(root, "", left_out)), tuple(sorted(left_out))


def _walk(root: Path, folder: str, left_out: set[str]) -> Iterator[str]:
    """Everything below, relative to `root`, but what the ignore list takes."""
    try:
        entries = sorted(os.scandir(root / folder), key=lambda entry: entry.name)
    except OSError as error:
        raise _unreadable(folder or str(root), error) from error
    for entry in entries:
        name = f"{folder}/{entry.name}" if folder else entry.name
        is_folder = entry.is_dir(follow_symlinks=False)
        if _is_ignored(entry.name) or (is_folder and os.path.exists(os.path.join(entry.path, "pyvenv.cfg"))):
            left_out.add(entry.name + "/" * is_folder)
        elif is_folder:
            yield from _walk(root, name, left_out)
        else:
            yield name


def _is_ignored(name: str) -> bool:
    return name in IGNORED_NAMES or name.endswith(IGNORED_SUFFIXES)


def _status(root: Path, name: str) -> os.stat_result | None:
    """What lstat says; None where there is nothing any more. Raises LocalFault where it could not be read."""
    path = root / name
    try:
        status = os.lstat(path)
        if stat.S_ISREG(status.st_mode) and not os.access(path, os.R_OK):
            raise PermissionError(13, "Permission denied")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _unreadable(name, error) from error
    return status


def _doubts(root: Path, name: str, status: os.stat_result) -> Iterable[str]:
    if stat.S_ISLNK(status.st_mode):
        target = os.path.normpath(os.path.join(root, os.path.dirname(name), os.readlink(root / name)))
        if os.path.commonpath([root, target]) != str(root):
            where = f"to {visible(target)}, outside the project"
            yield f"`{visible(name)}` is a link {where}: it will point nowhere on the host"
    elif os.path.basename(name) in _SECRET_FILES or name.endswith(".pem"):
        instead = "add it to .gitignore, and name the variable under `secrets`"
        yield f"`{visible(name)}` may hold a secret and would go to the host: {instead}"


def _identity(root: Path, name: str, status: os.stat_result) -> bytes:
    link = os.readlink(root / name) if stat.S_ISLNK(status.st_mode) else ""
    facts = (name, link, str(status.st_mode), str(status.st_size), str(status.st_mtime_ns))
    return b"".join(os.fsencode(fact) + b"\0" for fact in facts)


def _unreadable(name: str, error: OSError) -> LocalFault:
    return LocalFault(
        f"cannot read `{visible(name)}`, which belongs to the code",
        why=error.strerror or str(error),
        hint="make it readable, or add it to .gitignore",
    )
