"""A node that is lost ends the others soon and in words; one that is only busy ends nobody."""

from __future__ import annotations

import ctypes
import re
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import torch.distributed as dist

from tests.trainer.apart import Apart
from tests.trainer.tiny import checkpoints, finished, read_until
from trainer import manifest
from trainer.errors import ExitCode, PeerLost
from trainer.loop.peers import Peers

LONG = ("train.max_steps=1000000", "train.peer_timeout_seconds=5", "checkpoint.every_steps=10", "log.every_steps=5")
LIMIT_SECONDS = 2


def training(folder: Path) -> Apart:
    """Two nodes that have trained for a while, and would for long."""
    nodes = Apart([folder / "node0", folder / "node1"], *LONG)
    read_until(nodes.nodes[0], "saved `step_00000010`")
    return nodes


def test_a_node_that_falls_silent_ends_the_other_which_keeps_its_checkpoints(tmp_path: Path) -> None:
    with training(tmp_path) as nodes:
        nodes.nodes[1].send_signal(signal.SIGSTOP)
        code, _out, err = finished(nodes.nodes[0])
        nodes.nodes[1].send_signal(signal.SIGCONT)
        finds_nobody = finished(nodes.nodes[1])
    assert code == finds_nobody[0] == ExitCode.PEER_LOST, err + finds_nobody[2]
    assert "error: node 1 of this training is gone" in err
    # Node 0 by name where its beats stood still before the store went with it.
    assert re.search("error: (another process|node 0) of this training is gone", finds_nobody[2])
    for said in (err, finds_nobody[2]):
        assert said.count("error: ") == 1
        assert "Traceback" not in said
    assert checkpoints(tmp_path / "node0")
    for step in checkpoints(tmp_path / "node0"):
        manifest.verify(tmp_path / "node0" / "checkpoints" / manifest.step_name(step))


def test_a_store_that_falls_silent_ends_every_node(tmp_path: Path) -> None:
    with training(tmp_path) as nodes:
        nodes.store.send_signal(signal.SIGSTOP)
        ends = nodes.finished()
    assert [code for code, _out, _err in ends] == [ExitCode.PEER_LOST] * 2, ends
    # The first to end says why; the other may meet the closed connection before.
    assert any("error: the node that keeps this training together is gone" in err for _code, _out, err in ends)


class Gone:
    """A store on a machine that was switched off and answered so."""

    def set(self, key: str, value: str) -> None:
        raise RuntimeError("Broken pipe")

    def multi_get(self, keys: list[str]) -> list[bytes]:
        raise RuntimeError("Broken pipe")


def test_a_store_that_is_gone_is_told_at_once_and_once() -> None:
    lost: list[PeerLost] = []
    told = threading.Event()

    def note(error: PeerLost) -> None:
        lost.append(error)
        told.set()

    node = Peers(Gone(), node=0, num_nodes=2, beats=True, word="w", limit_seconds=60, lost=note)
    node.start()
    assert told.wait(60)
    node.leave()
    assert [(error.what, error.why) for error in lost] == [
        ("the node that keeps this training together is gone", "Broken pipe")
    ]


def peers(store: dist.Store, node: int, lost: Callable[[PeerLost], None]) -> Peers:
    found = Peers(store, node=node, num_nodes=2, beats=True, word="w", limit_seconds=LIMIT_SECONDS, lost=lost)
    found.announce()
    return found


def test_a_process_that_could_not_run_takes_nobody_for_lost() -> None:
    lost: list[PeerLost] = []
    store = dist.HashStore()
    nodes = [peers(store, node, lost.append) for node in (0, 1)]
    for node in nodes:
        node.start()
    ctypes.PyDLL(None).usleep(2 * LIMIT_SECONDS * 1_000_000)  # keeps Python's lock
    for node in nodes:
        node.leave()
    assert lost == []


def test_a_node_that_said_goodbye_is_not_missed() -> None:
    lost = threading.Event()
    store = dist.HashStore()
    one, other = (peers(store, node, lambda _error: lost.set()) for node in (0, 1))
    other.start()
    other.leave()
    one.start()
    assert not lost.wait(2 * LIMIT_SECONDS)
    one.leave()
