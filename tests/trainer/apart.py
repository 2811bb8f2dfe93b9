"""Processes that train together as those of several nodes do: a folder and a node number for each, and a store beside.

Each finds what torchrun would tell it, and nobody watches over it. The store, which torchrun keeps on its first node,
is a process of its own, so that it can be lost as well. Ports are chosen by the kernel.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.trainer.tiny import ROOT, finished, start_trainer

_STORE = """
import time, torch.distributed as dist
store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
print(store.port, flush=True)
time.sleep(3600)
"""


class Apart:
    """`count` nodes of one process each; whatever still runs ends with the block."""

    def __init__(self, folders: Sequence[Path], *overrides: str) -> None:
        self.store = subprocess.Popen([sys.executable, "-c", _STORE], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self.store.stdout is not None
        port = self.store.stdout.readline().strip()
        self.nodes = [
            start_trainer(
                folder,
                *overrides,
                RANK=str(rank),
                WORLD_SIZE=str(len(folders)),
                LOCAL_RANK="0",
                LOCAL_WORLD_SIZE="1",
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=port,
                GLOO_SOCKET_IFNAME="lo",
                TORCHELASTIC_USE_AGENT_STORE="True",
            )
            for rank, folder in enumerate(folders)
        ]

    def __enter__(self) -> Apart:
        return self

    def __exit__(self, *_: object) -> None:
        for process in (*self.nodes, self.store):
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.communicate()

    def finished(self) -> list[tuple[int, str, str]]:
        """Of each node, exit code, stdout and stderr, after all have ended."""
        return [finished(node) for node in self.nodes]
