"""From a run to its machines: a transport to where they are now, to several as to one."""

from __future__ import annotations

from launcher.books.ledger import InstanceRow, InstanceState, Ledger, RunRow
from launcher.clock import Clock
from launcher.errors import NotFound
from launcher.hosts.metering import note_price
from launcher.paths import StatePaths
from launcher.providers.base import Status
from launcher.remote.host import Host
from launcher.remote.reach import instance_of
from launcher.remote.several import Gone, Several
from launcher.remote.ssh import SshTransport, host_of
from launcher.remote.transport import Transport


def connection_to(run: RunRow, ledger: Ledger, state: StatePaths, clock: Clock) -> Transport:
    """A transport to where the run's host is now, or to all of its nodes. Raises NotFound where the host, or node 0,
    was closed, stopped, or is gone; another node may be gone."""
    first = _to_host(ledger.instance(run.instance_label), ledger, state, clock)
    others = [node for node in ledger.nodes(run.run_id) if node.node > 0]
    if not others:
        return first
    return Several([first, *(_to_node(ledger.instance(node.instance_label), ledger, state, clock) for node in others)])


def _to_host(row: InstanceRow, ledger: Ledger, state: StatePaths, clock: Clock) -> Transport:
    if row.state in (InstanceState.CLOSED, InstanceState.CLOSING):
        raise NotFound(f"`{row.name}` was closed", why="`gptops down` ended it", hint="gptops ps")
    instance = instance_of(row, state)
    note_price(row, instance, ledger)
    if instance.status in (Status.STOPPED, Status.FAILED):
        why = f"`{row.provider}` says: {instance.detail or instance.status.value}"
        raise NotFound(
            f"`{row.name}` is {instance.status.value} and will not run by itself again", why=why, hint="gptops ps"
        )
    return SshTransport(host_of(row, instance, state), clock, control_sockets=state.control_sockets)


def _to_node(row: InstanceRow, ledger: Ledger, state: StatePaths, clock: Clock) -> Transport:
    try:
        return _to_host(row, ledger, state, clock)
    except NotFound:
        return Gone(Host(row.name, (), state.private_key, state.known_hosts(row.name)))
