"""Private networks between machines of one physical cluster, where a provider makes them.

A second contract beside launcher.providers.base: whoever rents several machines that train together makes their network
first, creates the machines into it, and deletes it after the last of them is proven gone. Asks once and returns.

A network may make its machines itself (RunPod's clusters): then `Provider.create` finds in it what was made, by its
label, and the machines end together alone (by_name.ends_together).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from launcher.providers.base import CreateRequest, Offer

PREFIX = "gptops-"
"""What every name of ours begins with."""


Machines = Sequence[tuple[Offer, CreateRequest]]
"""What `create` of each of them is told."""


@dataclass(frozen=True)
class Network:
    """One network, as its provider shows it."""

    network_id: str
    name: str
    cluster_id: str = ""
    subnet: str = ""
    """`10.0.0.0/24`: where its machines' addresses lie; "" where the provider does not tell."""

    def has(self, address: str) -> bool:
        """Whether this is an address inside it."""
        try:
            return ipaddress.ip_address(address) in ipaddress.ip_network(self.subnet, strict=False)
        except ValueError:
            return False


class Networks(Protocol):
    """Three calls. All raise launcher.errors.ProviderError or KeyRefused where the API refuses or answers nonsense."""

    def create(self, cluster_id: str, name: str, machines: Machines = ()) -> None:
        """Make it. Called once per name, whose intent the caller has on the disk; `named` tells what came of it.

        `machines`: all that will be in it; where it makes them itself, this is what costs money. Raises OfferGone
        where they are not to be had."""
        ...

    def named(self, prefix: str) -> list[Network]:
        """All existing networks of the account whose name starts with `prefix`."""
        ...

    def delete(self, network_id: str) -> None:
        """End it. Already gone is success; the proof is `named`."""
        ...


def machine_label(label: str, number: int) -> str:
    """Of the machine with that number in the network with that label. As long as the others: none begins another."""
    return f"{label}-{number:03d}"


def network_name(label: str) -> str:
    """`gptops-0123456789ab` for `gptops:<project>:0123456789ab`: Vast's own client takes a-z, 0-9 and - and no more."""
    return PREFIX + label.rpartition(":")[2].lower()
