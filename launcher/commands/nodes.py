"""What is asked of one of several machines (templates/node.py). Pure."""

from __future__ import annotations

from pathlib import PurePosixPath

from launcher.remote.transport import Command
from launcher.running.render import template


def facts(venv: PurePosixPath | str) -> Command:
    """Print what the node is: versions, GPUs, drivers."""
    return _ask("facts", str(venv))


def way(peers: list[str]) -> Command:
    """Print the address and the interface from which the node reaches its peers."""
    return _ask("way", *peers)


def port(address: str, wanted: int | None) -> Command:
    """Print a free port at this address of the node, or whether `wanted` is free."""
    return _ask("port", address, *([str(wanted)] if wanted else []))


def listen(address: str, number: int, count: int) -> Command:
    """Wait on the node for `count` others."""
    return _ask("listen", address, str(number), str(count))


def reach(address: str, number: int, size: int) -> Command:
    """Go from the node to the one that listens, and measure the way with `size` bytes."""
    return _ask("reach", address, str(number), str(size))


def code(folder: PurePosixPath) -> Command:
    """Print one hash over the code in this folder."""
    return _ask("code", str(folder))


def _ask(*words: str) -> Command:
    return Command(("python3", "-", *words), stdin=template("node.py").encode())
