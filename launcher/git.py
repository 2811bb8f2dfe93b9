"""What git knows about a folder's files. Asked through the git program; git's own rules are not repeated here."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from launcher.errors import LocalFault


def work_tree(folder: Path) -> Path | None:
    """The root of the git work tree `folder` lies in; None outside git."""
    return next((each for each in (folder, *folder.parents) if (each / ".git").exists()), None)


def git_files(root: Path) -> set[str] | None:
    """Names relative to `root`: tracked, and new but not ignored; submodules and nested repositories included.

    None where `root` lies in a work tree that ignores it as a whole. Names may belong to files deleted since.
    """
    listed = _git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    names = {name for name in listed.split("\0") if name}
    if not names and _is_ignored(root):
        return None
    for name in sorted(names):
        path = root / name
        if path.is_dir() and not path.is_symlink():  # a submodule, or a repository inside this one
            names.remove(name)
            inside = git_files(path) if (path / ".git").exists() else None
            if inside is None:
                raise LocalFault(
                    f"the submodule `{name}` is not checked out",
                    why="the code on the host would lack it",
                    hint="git submodule update --init --recursive",
                )
            names |= {f"{name.rstrip('/')}/{each}" for each in inside}
    return names


def _is_ignored(root: Path) -> bool:
    # From the outside: seen from within, `.` is never ignored.
    outside = root.parent
    if work_tree(outside) is None:
        return False
    argv = ["git", "-C", str(outside), "check-ignore", "-q", "--", root.name]
    return subprocess.run(argv, env=_environment(), capture_output=True).returncode == 0


def _git(folder: Path, *arguments: str) -> str:
    """What git prints. A warning is an error: git says `could not open directory` and goes on without it."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], env=_environment(), capture_output=True)
    except FileNotFoundError as error:
        raise LocalFault(
            "git is not installed here, and this folder is a git work tree",
            why="without git nobody knows which files .gitignore leaves out",
            hint="apt-get install git   (macOS: xcode-select --install)",
        ) from error
    said = done.stderr.decode(errors="replace").strip()
    if done.returncode != 0 or "could not open directory" in said:
        hint = f"git config --global --add safe.directory '{folder}'" if "dubious ownership" in said else "git status"
        raise LocalFault(
            f"git could not list the files of {folder}", why=said.splitlines()[0] if said else "", hint=hint
        )
    return os.fsdecode(done.stdout)


def _environment() -> dict[str, str]:
    """English words, and no GIT_DIR of a hook that happens to call us."""
    hooks = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")
    return {**{name: value for name, value in os.environ.items() if name not in hooks}, "LC_ALL": "C"}
