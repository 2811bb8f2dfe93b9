"""Which processes belong to a local host, and how all of them end.

Found anew each time by what they show (sshd by its configuration file or, before
it has one, by a mark of its own; the rest by parentage, by a mark in the environment,
by its socket), never by a remembered pid, which another process may have by now.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

MARK = "GPTOPS_INSTANCE"
"""In the environment of everything that runs on a local host."""
LISTENER_MARK = "GPTOPS_SSHD_OF"
"""In the environment of its sshd, and of the shell that is about to become it."""
ROUNDS = 50
"""Looks for processes born while their parents were being killed; each waits up to ROUND_SECONDS."""
ROUND_SECONDS = 0.1


def sshd_process(config: Path) -> psutil.Process | None:
    """The listening sshd that was started with this configuration file."""
    return next((process for process in _living() if _was_started_with(process, config)), None)


def end_all(instance_id: str, config: Path, ports: Sequence[int]) -> list[int]:
    """Kill everything that belongs to the host, sshd first so that nobody new comes in. Returns pids that survive."""
    import psutil  # late: `gptops ps` needs none of this

    belonging: list[psutil.Process] = []
    for _ in range(ROUNDS):
        belonging = list(_belonging(instance_id, config, ports))
        if not belonging:
            return []
        for process in belonging:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue  # ended by itself, or with its parent
        psutil.wait_procs(belonging, timeout=ROUND_SECONDS)
    return [process.pid for process in belonging]


def _belonging(instance_id: str, config: Path, ports: Sequence[int]) -> Iterator[psutil.Process]:
    others = [each for each in _living() if _is_marked(each, instance_id) or _serves(each, ports)]
    # Looked for after them: what was no sshd yet is one by now, and its title may cover its mark.
    listener = sshd_process(config)
    if listener is not None:
        yield listener
        yield from _children(listener)
    yield from others


def _living() -> Iterator[psutil.Process]:
    import psutil

    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                yield process
        except psutil.Error:
            continue  # gone in the meantime, or not ours to look at


def _children(process: psutil.Process) -> list[psutil.Process]:
    import psutil

    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def _was_started_with(process: psutil.Process, config: Path) -> bool:
    import psutil

    try:
        # sshd rewrites its command line into one title, `sshd: /usr/sbin/sshd -D -f … [listener] …`
        return "sshd" in process.name() and f"-f {config} " in " ".join(process.cmdline()) + " "
    except psutil.Error:
        return False


def _is_marked(process: psutil.Process, instance_id: str) -> bool:
    import psutil

    try:
        environment = process.environ()
        return instance_id in (environment.get(MARK), environment.get(LISTENER_MARK))
    except (psutil.Error, OSError):
        return False


def _serves(process: psutil.Process, ports: Sequence[int]) -> bool:
    """An sshd session that lost its listener. Its title tells nothing, its socket does: but a port may have been
    given to another host's sshd since, so whatever has a listener belongs to that one."""
    import psutil

    try:
        if not process.name().startswith("sshd"):
            return False
        if any(_listens(relative) for relative in [process, *process.parents()]):
            return False
        return any(connection.laddr and connection.laddr.port in ports for connection in process.net_connections("tcp"))
    except psutil.Error:
        return False


def _listens(process: psutil.Process) -> bool:
    """By its title, or, where titles are not rewritten, by the options that only a listener is started with."""
    words = process.cmdline()
    return "sshd" in process.name() and ("-f" in words or "[listener]" in " ".join(words))
