"""Where rented machines reach each other: each one's address inside the private network, by its own word."""

from __future__ import annotations

from collections.abc import Sequence

from launcher.commands import nodes as commands
from launcher.errors import HostUnfit
from launcher.nodes.facts import ask
from launcher.providers.networks import Network
from launcher.remote.together import together
from launcher.remote.transport import Transport

INTERFACE = "eth0"
"""To the overlay, says Vast's page on training with NCCL, and eth1 to the internet: where no subnet is told."""


def insides_of(transports: Sequence[Transport], network: Network, told: Sequence[str]) -> list[str]:
    """Each machine's address, by its own word, and by its provider's where that tells one (`told`; else "").

    Raises HostUnfit for one that has none there."""
    names = [transport.host.name for transport in transports]

    def look(node: int) -> str:
        found = ask(transports[node], commands.addresses()).get("addresses", {})
        own = {str(name): str(address) for name, address in found.items()}
        return _inside(own, network, names[node], told[node])

    return together(names, look)


def _inside(own: dict[str, str], network: Network, name: str, told: str) -> str:
    """`own`: its addresses, by interface."""
    if told:
        inside = [address for address in own.values() if address == told]
    elif network.subnet:
        inside = [address for address in own.values() if network.has(address)]
    else:
        inside = [own[INTERFACE]] if INTERFACE in own and len(own) > 1 else []
    if len(inside) == 1:
        return inside[0]
    has = ", ".join(f"{interface} {address}" for interface, address in sorted(own.items())) or "none"
    where = told or (f"in {network.subnet}" if network.subnet else f"on {INTERFACE} beside another interface")
    raise HostUnfit(
        f"`{name}` has no address in the private network {network.name}",
        why=f"one {where} was expected; it has: {has}",
        hint="gptops up takes other machines",
    )
