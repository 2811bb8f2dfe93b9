"""From a run to its machines: a transport to where they are now, to several as to one."""

from __future__ import annotations

from collections.abc import Sequence

from launcher.books.ledger import InstanceRow, InstanceState, Ledger, RunRow
from launcher.clock import Clock
from launcher.errors import NotFound
from launcher.hosts.metering import note_price
from launcher.paths import StatePaths
from launcher.providers.base import Status
from launcher.remote.reach import gone, instance_of
from launcher.remote.several import Several
from launcher.remote.ssh import SshTransport, host_of
from launcher.remote.transport import Transport


def connection_to(run: RunRow, ledger: Ledger, state: StatePaths, clock: Clock) -> Transport:
    """A transport to where the run's host is now, or to all of its nodes. Raises NotFound where the host, or every
    node, was closed, stopped, or is gone."""
    rows = [ledger.instance(label) for label in ledger.machines(run)]
    if len(rows) == 1:
        return _to_host(rows[0], ledger, state, clock)
    return Several(_to_nodes(rows, ledger, state, clock))


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


def _to_nodes(rows: Sequence[InstanceRow], ledger: Ledger, state: StatePaths, clock: Clock) -> list[Transport]:
    """Those that are gone stand there as machines that never answer. Raises NotFound where all are gone."""
    found: list[Transport] = []
    errors: list[NotFound] = []
    for row in rows:
        try:
            found.append(_to_host(row, ledger, state, clock))
        except NotFound as error:
            errors.append(error)
            found.append(gone(row, state))
    if len(errors) == len(rows):
        raise errors[0]
    return found
