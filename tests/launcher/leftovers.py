"""What a host has left on this machine: processes and files. Nothing, after its end."""

from __future__ import annotations

import os

import psutil

from launcher.paths import StatePaths
from launcher.providers.local_processes import MARK


def processes_of(state: StatePaths) -> list[str]:
    """Every living process that belongs to a host of this state directory, or was started with a path in it."""
    ours = {path.name for path in state.provider("local").glob("*")} if state.provider("local").exists() else set()
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() == psutil.STATUS_ZOMBIE or process.pid == os.getpid():
                continue
            words = " ".join(process.cmdline())
            home = process.environ().get("HOME", "") if MARK in process.environ() else ""
        except psutil.Error:
            continue
        if (
            str(state.root) in words
            or (home and home.startswith(str(state.root)))
            or any(name in words for name in ours)
        ):
            found.append(f"{process.pid}: {words}")
    return found


def files_of(state: StatePaths) -> list[str]:
    """Folders of hosts that are still there: the provider's, and ours about them."""
    folders = [state.provider("local"), state.provider("ssh"), state.root / "hosts"]
    return [str(path) for folder in folders if folder.exists() for path in folder.iterdir()]
