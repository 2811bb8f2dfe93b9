"""What is asked of one of several machines (templates/node.py). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath

from launcher.remote.transport import Command
from launcher.running.render import template

REDUCE_SECONDS = 150
"""Importing torch from a slow disk on a busy machine takes most of it."""


def facts(venv: PurePosixPath | str) -> Command:
    """Print what the node is: versions, GPUs, drivers."""
    return _ask("facts", str(venv))


def way(peers: list[str]) -> Command:
    """Print the address and the interface from which the node reaches its peers."""
    return _ask("way", *peers)


def look(venv: PurePosixPath | str, wanted_port: int | None, peers: list[str]) -> Command:
    """Print all of these: facts, the way to the peers, and a port there."""
    return _ask("look", str(venv), str(wanted_port or 0), *peers)


def addresses() -> Command:
    """Print the node's addresses, by interface."""
    return _ask("addresses")


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


def all_reduce(
    folder: PurePosixPath, python: str, environment: Mapping[str, str], processes: int, size: int
) -> Command:
    """One node's part of an all-reduce over all of them; `environment` is what run.env would say of the meeting."""
    interface, first = environment["GPTOPS_INTERFACE"], environment["GPTOPS_NODE_RANK"] == "0"
    torchrun = (
        f"--nnodes={environment['GPTOPS_NODES']}",
        f"--node-rank={environment['GPTOPS_NODE_RANK']}",
        f"--nproc-per-node={processes}",
        f"--local-addr={environment['GPTOPS_ADDRESS']}",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={environment['GPTOPS_RENDEZVOUS']}",
        f"--rdzv-id={folder.name}",
        f"--rdzv-conf=is_host={int(first)},join_timeout={REDUCE_SECONDS}",
    )
    settings = (f"GLOO_SOCKET_IFNAME={interface}", f"NCCL_SOCKET_IFNAME=={interface}", "OMP_NUM_THREADS=1")
    program = (str(folder / "preflight.py"), "nodes", str(size))
    limit = ("timeout", "-k", "5", str(REDUCE_SECONDS))
    return Command((*limit, "env", *settings, python, "-m", "torch.distributed.run", *torchrun, *program))


def _ask(*words: str) -> Command:
    return Command(("python3", "-", *words), stdin=template("node.py").encode())
