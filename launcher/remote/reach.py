"""From a line of the ledger to a connection: the provider says where the host is now."""

from __future__ import annotations

from launcher.books.ledger import InstanceRow
from launcher.clock import Clock
from launcher.errors import NotFound
from launcher.paths import StatePaths
from launcher.providers.base import Instance
from launcher.providers.by_name import open_provider
from launcher.remote.host import Host
from launcher.remote.several import Gone
from launcher.remote.ssh import SshTransport, host_of
from launcher.remote.transport import Transport


def instance_of(row: InstanceRow, state: StatePaths) -> Instance:
    """The instance as its provider sees it. NotFound when it is gone, whoever ended it."""
    instance = open_provider(row.provider, state).get(row.instance_id) if row.instance_id else None
    if instance is None:
        raise NotFound(
            f"`{row.name}` does not exist at `{row.provider}` any more",
            why="it was ended elsewhere, or never came to be",
            hint=f"gptops down {row.name} --discard",
        )
    return instance


def transport_to(row: InstanceRow, state: StatePaths, clock: Clock) -> SshTransport:
    """A transport to an open host; it connects at the first command. The caller closes it."""
    host = host_of(row, instance_of(row, state), state)
    return SshTransport(host, clock, control_sockets=state.control_sockets)


def transport_if_there(row: InstanceRow, state: StatePaths, clock: Clock) -> Transport:
    """The same to one of several; one that does not exist any more never answers, and is no error."""
    try:
        return transport_to(row, state, clock)
    except NotFound:
        return gone(row, state)


def gone(row: InstanceRow, state: StatePaths) -> Transport:
    """What stands for a machine that is not there any more."""
    return Gone(Host(row.name, (), state.private_key, state.known_hosts(row.name)))
