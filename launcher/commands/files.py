"""What upload types on a host: read and write the list of uploaded files, remove those that vanished at home. Pure.

Names travel on stdin, each ended by NUL, so no shell ever reads one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import PurePosixPath

from launcher.remote.transport import Command


def read_list(path: PurePosixPath) -> Command:
    """Print the list; nothing where there is none yet."""
    return Command(("sh", "-c", 'if [ -f "$1" ]; then cat -- "$1"; fi', "sh", str(path)))


def write_list(path: PurePosixPath, names: Iterable[str]) -> Command:
    """Replace the list as a whole."""
    script = 'mkdir -p -- "$(dirname -- "$1")" && cat >"$1.tmp" && mv -f -- "$1.tmp" "$1"'
    return Command(("sh", "-c", script, "sh", str(path)), stdin=joined(names))


def remove_files(folder: PurePosixPath, names: Iterable[str]) -> Command:
    """Remove `names` below `folder`; what is not there is as good as removed."""
    script = 'if [ -d "$1" ]; then cd -- "$1" && xargs -0 rm -f --; fi'
    return Command(("sh", "-c", script, "sh", str(folder)), stdin=joined(f"./{name}" for name in names))


def remove_empty_folders(folder: PurePosixPath, names: Iterable[str]) -> Command:
    """Remove the folders `names` below `folder` where nothing is left in them; deepest first is the caller's part."""
    script = 'if [ -d "$1" ]; then cd -- "$1" && xargs -0 rmdir -- 2>/dev/null; fi; true'
    return Command(("sh", "-c", script, "sh", str(folder)), stdin=joined(f"./{name}" for name in names))


def joined(names: Iterable[str]) -> bytes:
    """Names as the list keeps them."""
    return b"".join(os.fsencode(name) + b"\0" for name in names)


def split(listed: str) -> tuple[str, ...]:
    """The names of a list that came back as text (surrogateescape)."""
    return tuple(name for name in listed.split("\0") if name)
