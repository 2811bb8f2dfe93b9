"""The double of several machines is what its users take it for: apart, cut without a word, gone with its maker."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.doubles.nodes import Nodes, reason_to_skip
from tests.launcher.waiting import wait_until


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    if reason := reason_to_skip():
        pytest.skip(reason)
    with Nodes(tmp_path_factory.mktemp("nodes") / "lan", 2) as made:
        yield made


def answers(nodes: Nodes, number: int, timeout: float = 0.5) -> bool:
    try:
        with socket.create_connection((nodes[number].address.host, 22), timeout) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def test_nodes_share_a_path_for_their_homes_and_nothing_in_them(nodes: Nodes) -> None:
    (nodes[0].home / "mine").write_text("here")

    assert nodes[0].call("sh", "-c", "cat ~root/mine") == "here"
    assert nodes[0].call("sh", "-c", "echo ~root") == nodes[1].call("sh", "-c", "echo ~root")
    assert not (nodes[1].home / "mine").exists()


def test_each_node_has_its_own_name_boot_and_processes(nodes: Nodes) -> None:
    boots = {node.call("cat", "/proc/sys/kernel/random/boot_id") for node in nodes.all}

    assert len(boots) == 2
    assert [node.call("hostname").strip() for node in nodes.all] == ["node0", "node1"]
    assert nodes[0].processes() == []


def test_a_cable_that_was_pulled_out_can_be_plugged_in_again(nodes: Nodes) -> None:
    nodes.cut(1)
    assert not answers(nodes, 1)
    assert answers(nodes, 0, timeout=60)

    nodes.heal(1)
    wait_until(lambda: answers(nodes, 1), what="the healed node answers")


def test_a_power_cut_ends_every_process_without_a_word_and_keeps_the_disk(nodes: Nodes) -> None:
    (nodes[1].home / "kept").write_text("yes")
    boot = nodes[1].call("cat", "/proc/sys/kernel/random/boot_id")
    with socket.create_connection((nodes[1].address.host, 22), 60) as connection:
        connection.recv(1)
        nodes.kill(1)
        connection.settimeout(0.5)
        with pytest.raises(TimeoutError):  # neither an end of the stream nor a reset comes
            _read_to_the_end(connection)

    nodes.restart(1)

    wait_until(lambda: answers(nodes, 1), what="the restarted node answers")
    assert nodes[1].call("sh", "-c", "cat ~root/kept") == "yes"
    assert nodes[1].call("cat", "/proc/sys/kernel/random/boot_id") != boot


def test_whoever_made_the_nodes_may_be_killed_and_nothing_stays_behind(nodes: Nodes, tmp_path: Path) -> None:
    program = textwrap.dedent("""\
        import pathlib, sys, time
        from tests.doubles.nodes import Nodes
        with Nodes(pathlib.Path(sys.argv[1]), 1) as nodes:
            print(nodes[0].process.pid, nodes._switch.pid, flush=True)
            time.sleep(600)
    """)
    repository = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    argv = [sys.executable, "-c", program, str(tmp_path / "lan")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment) as maker:
        assert maker.stdout is not None
        pids = maker.stdout.readline().split()
        maker.send_signal(signal.SIGKILL)

    wait_until(lambda: not any(_lives(pid) for pid in pids), what="its processes are gone")
    wait_until(lambda: f"gpt{maker.pid}-" not in _interfaces(), what="its interface is gone")


def _read_to_the_end(connection: socket.socket) -> None:
    while connection.recv(4096):
        pass


def _lives(pid: str) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def _interfaces() -> str:
    return subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout
