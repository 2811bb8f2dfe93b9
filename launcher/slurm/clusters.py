"""Which of the user's hosts is a cluster's login node, and what its Slurm wants to be told. Pure.

One login node may stand in jobs.yaml several times, with a partition each, and be
open once: the entry that is named says what is submitted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from launcher.books.ledger import InstanceRow
from launcher.errors import NotFound
from launcher.remote.host import Address
from launcher.spec.jobs import HostSpec
from launcher.spec.slurm import SlurmSpec

Hosts = Mapping[str, HostSpec]
Cluster = tuple[Sequence[InstanceRow], SlurmSpec]
"""The login node, where it is open, and its Slurm."""


def slurm_named(hosts: Hosts, name: str | None) -> SlurmSpec | None:
    """What stands there under this name; None where it is no cluster."""
    spec = hosts.get(name) if name is not None else None
    return spec.slurm if spec is not None and spec.scheduler else None


def is_login_node(hosts: Hosts, row: InstanceRow) -> bool:
    """Whether a host that was opened is a cluster's."""
    return _entry_of(hosts, row) is not None


def cluster_for(
    hosts: Hosts, open_hosts: Sequence[InstanceRow], asked: str | None, job_host: str | None, *, must_be_open: bool
) -> Cluster | None:
    """The cluster that a job is for; None where another kind of machine is meant.

    `asked` is what was typed: an entry under `hosts`, or the beginning of an open host's name. Nothing typed: the
    job's own host, else the only open one. Raises NotFound where a cluster is meant that is not open.
    """
    meant = asked if asked is not None else job_host
    if (slurm := slurm_named(hosts, meant)) is not None:
        assert meant is not None
        there = _open_as(hosts, open_hosts, meant)
        if not there and must_be_open:
            why = "its login node was not met yet"
            raise NotFound(f"`{meant}` is not open", why=why, hint=f"gptops up --host {meant}")
        return there[:1], slurm
    if asked is not None:
        fitting = [row for row in open_hosts if row.name == asked]
        fitting = fitting or [row for row in open_hosts if row.name.startswith(asked)]
    else:
        fitting = [] if job_host is not None else list(open_hosts)
    if len(fitting) != 1 or (entry := _entry_of(hosts, fitting[0])) is None:
        return None
    return fitting, entry.slurm


def _open_as(hosts: Hosts, open_hosts: Sequence[InstanceRow], name: str) -> list[InstanceRow]:
    """Under its own name, else under another one at its address."""
    at = [row for row in open_hosts if row.address == _address(hosts[name])]
    return sorted(at, key=lambda row: row.name != _plain(name))


def _entry_of(hosts: Hosts, row: InstanceRow) -> HostSpec | None:
    """The cluster's entry that an open host was opened by."""
    at = {name: spec for name, spec in hosts.items() if spec.scheduler and _address(spec) == row.address}
    named = [spec for name, spec in at.items() if _plain(name) == row.name]
    return next(iter([*named, *at.values()]), None)


def _address(spec: HostSpec) -> str:
    """As the ledger has it."""
    return str(Address(spec.host, spec.port, spec.user))


def _plain(name: str) -> str:
    """As launcher.hosts.planning calls the host."""
    return name.lower().replace("_", "-")
