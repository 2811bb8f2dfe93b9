"""Rented machines that have a network between them: nodes of tests/doubles/nodes.py, as a double starts them.

    with Nodes(folder, 2) as nodes, VastCloud(other) as vast:
        vast.machines = Rack(nodes)        # instances are network namespaces now, with an interface inside

Each node is rented once: it dies with the thread that gave it power, so no answer of the double can start it again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from launcher.remote.host import Address
from tests.doubles.machines import DRIVER, Machine, Machines
from tests.doubles.nodes import Node, Nodes


class RackMachine(Machine):
    """One node, rented."""

    def __init__(self, rack: Rack, node: Node, keys: Sequence[str], environment: Mapping[str, str]) -> None:
        self.rack, self.node, self.folder = rack, node, node.folder
        self.is_up = False
        (node.folder / "authorized_keys").write_text("".join(f"{key}\n" for key in keys))
        for name, value in environment.items():
            node.export(name, value)

    @property
    def home(self) -> Path:
        return self.node.home

    @property
    def address(self) -> Address:
        return self.node.address

    def boot(self) -> Address:
        assert self.node.is_up, "a node has no second life"
        self.is_up = True
        return self.address

    def join(self, address: str) -> None:
        """One switch for each overlay, which the second byte of its addresses tells."""
        switch = f"over{address.split('.')[1]}"
        self.rack.nodes.join(self.node.number, switch, address, interface=self.rack.interface)

    def cut(self) -> None:
        self.is_up = False
        self.rack.nodes.kill(self.node.number)

    def end(self) -> None:
        if self.is_up:
            self.cut()


class Rack(Machines):
    """So many machines as there are nodes, and no more at a time."""

    def __init__(self, nodes: Nodes, interface: str = "eth0") -> None:
        self.nodes, self.interface = nodes, interface
        self.free = list(nodes.all)
        self.all: list[Machine] = []

    def start(
        self,
        public_keys: Sequence[str],
        *,
        gpus: Sequence[str] | str = (),
        driver: str = DRIVER,
        environment: Mapping[str, str] | None = None,
        booted: bool = True,
    ) -> Machine:
        machine = RackMachine(self, self.free.pop(0), public_keys, environment or {})
        machine.set_gpus(gpus, driver=driver)
        self.all.append(machine)
        if booted:
            machine.boot()
        return machine

    def end_all(self) -> None:
        """Nothing: the nodes end with their context."""
        self.all.clear()
