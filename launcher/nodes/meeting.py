"""Where the nodes of one run meet: each one's address and interface, their order, and a port that is free.

torchrun numbers nodes by the text of their addresses, so the nodes of a run stand in that order: node 0, where they
meet, has rank 0 too, and writes what one process writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launcher.commands import nodes as commands
from launcher.errors import HostUnfit
from launcher.nodes.facts import ask
from launcher.remote.together import together
from launcher.remote.transport import Transport

MEET_SECONDS = 120.0
"""Longer than the patience of templates/node.py, which says what went wrong."""


@dataclass(frozen=True)
class Place:
    """Where a node is for the others."""

    address: str
    interface: str


@dataclass(frozen=True)
class Meeting:
    """Everything that run.sh is told about the other nodes."""

    places: tuple[Place, ...]
    port: int

    @property
    def endpoint(self) -> str:
        """Node 0's address and port, as torchrun reads them."""
        host = self.places[0].address
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    def environment(self, node: int) -> dict[str, str]:
        """For run.env of this node."""
        return {
            "GPTOPS_NODES": str(len(self.places)),
            "GPTOPS_NODE_RANK": str(node),
            "GPTOPS_RENDEZVOUS": self.endpoint,
            "GPTOPS_ADDRESS": self.places[node].address,
            "GPTOPS_INTERFACE": self.places[node].interface,
        }


@dataclass(frozen=True)
class Link:
    """The way from a node to node 0, as it was measured."""

    node: int
    round_trip_seconds: float
    there_bytes_per_second: float
    back_bytes_per_second: float


def places_of(transports: Sequence[Transport], insides: Sequence[str]) -> list[Place]:
    """Where each node reaches the others from; `insides` are their names or addresses on the common network.

    Raises HostUnfit for a node that has no way to another, or several.
    """
    names = [transport.host.name for transport in transports]

    def look(node: int) -> Place:
        return place_in(ask(transports[node], commands.way(ways(insides, node))), names[node])

    return together(names, look)


def ways(insides: Sequence[str], node: int) -> list[str]:
    """Whom this node has to reach."""
    return [inside for other, inside in enumerate(insides) if other != node]


def place_in(answer: Mapping[str, Any], name: str) -> Place:
    """What the node answered for its way to the others. Raises HostUnfit as `places_of` does."""
    if "address" not in answer:
        raise HostUnfit(
            f"`{name}` has no right interface to the other nodes",
            why=str(answer.get("error", "it does not tell")),
            hint="write each machine's address on the common network as `inside` under `hosts` in jobs.yaml",
        )
    return Place(str(answer["address"]), str(answer["interface"]))


def order_of(places: Sequence[Place]) -> list[int]:
    """The nodes as torchrun will number them."""
    return sorted(range(len(places)), key=lambda node: places[node].address)


def free_port(first: Transport, place: Place, wanted: int | None) -> int:
    """A port on node 0 that nobody has. Raises HostUnfit where the wanted one is taken."""
    return port_in(ask(first, commands.port(place.address, wanted)), first.host.name, place)


def port_in(answer: Mapping[str, Any], name: str, place: Place) -> int:
    """What a node answered for a port at its place. Raises HostUnfit as `free_port` does."""
    if "port" not in answer:
        raise HostUnfit(
            f"the nodes cannot meet on `{name}`",
            why=f"{answer.get('error', 'it tells no port')} at {place.address}",
            hint=f"gptops ssh {name} -- ss -ltnp, or leave resources.rendezvous_port out: a free one is then taken",
        )
    return int(answer["port"])


def meet(transports: Sequence[Transport], places: Sequence[Place], port: int, *, size: int = 0) -> list[Link]:
    """Let every node reach node 0 on that port once, with `size` bytes each way. Raises HostUnfit where one cannot."""
    names = [transport.host.name for transport in transports]
    address = places[0].address

    def go(node: int) -> Link | None:
        if node == 0:
            command = commands.listen(address, port, len(transports) - 1)
        else:
            command = commands.reach(address, port, size)
        answer = ask(transports[node], command, timeout_seconds=MEET_SECONDS + size / 1e5)
        if "error" in answer:
            raise _no_way(names, node, str(answer["error"]))
        if node == 0:
            return None
        rates = answer["bytes_per_second"]
        return Link(node, float(answer["round_trip"]), float(rates["to"]), float(rates["from"]))

    return [link for link in together(names, go) if link is not None]


def _no_way(names: Sequence[str], node: int, why: str) -> HostUnfit:
    what = f"`{names[node]}` cannot reach `{names[0]}`" if node else f"not every node reached `{names[0]}`"
    return HostUnfit(what, why=why, hint="open the network between the nodes: every port, for torch chooses its own")
