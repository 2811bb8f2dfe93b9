"""Machines that know each other by IPv6 alone train as any others do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from launcher.nodes.meeting import Meeting, Place, order_of
from launcher.remote.host import Address, parse_address
from launcher.running.render import template
from tests.launcher.nodes_lab import Lab, make_lab


def node(*words: str) -> Any:
    """What templates/node.py says here."""
    asked = subprocess.run([sys.executable, "-", *words], input=template("node.py"), capture_output=True, text=True)
    return json.loads(asked.stdout)


def test_an_address_with_colons_stands_in_brackets_before_its_port() -> None:
    address = Address("fd00::1", 22, "root")
    assert str(address) == "root@[fd00::1]:22"
    assert parse_address(str(address)) == address
    assert Meeting((Place("fd00::1", "lan0"), Place("fd00::2", "lan0")), 29500).endpoint == "[fd00::1]:29500"


def test_nodes_are_ordered_by_the_text_of_their_addresses_as_torchrun_orders_them() -> None:
    assert order_of([Place("fd00::9", "lan0"), Place("fd00::10", "lan0"), Place("fd00::a", "lan0")]) == [1, 0, 2]


def test_a_node_finds_its_way_and_a_free_port_by_ipv6_too() -> None:
    answer = node("way", "::1")
    if "no way" in answer["error"]:
        pytest.skip(f"no IPv6 here: {answer['error']}")
    assert answer["error"].startswith("the peers are reached over loopback")
    assert node("port", "::1")["port"] > 0


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    for made in make_lab(tmp_path_factory.mktemp("lab"), 2, v6=True):
        opened = made.gptops("up", "--nodes", "2", "--host", "lan")
        assert (opened.exit_code, opened.stdout) == (0, "box0\nbox1\n"), opened.stderr
        yield made


@pytest.mark.slow
def test_two_nodes_without_ipv4_train_to_the_end(lab: Lab) -> None:
    trained = lab.gptops("train", "two")
    assert trained.exit_code == 0, trained.stdout + trained.stderr
    assert trained.stdout.count("step 6/6  loss") == 1
    [met] = [line for line in trained.stderr.splitlines() if "2 nodes met at" in line]
    assert f"[{lab.nodes[0].address.host}]:" in met
    assert met.endswith("over lan0")
