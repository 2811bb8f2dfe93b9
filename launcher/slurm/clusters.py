"""Which of the user's hosts is a cluster's login node, and what its Slurm wants to be told. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from launcher.books.ledger import InstanceRow
from launcher.errors import NotFound
from launcher.remote.host import Address
from launcher.spec.jobs import HostSpec
from launcher.spec.slurm import SlurmSpec


def slurm_at(hosts: Mapping[str, HostSpec], name: str, address: str | None) -> SlurmSpec | None:
    """What stands in jobs.yaml for the open host of this name and address; None where it is no cluster.

    The same login node may stand there several times, with a partition each: then the name decides.
    """
    there = {key: spec for key, spec in hosts.items() if spec.scheduler and _address_of(hosts, key) == address}
    named = [spec for key, spec in there.items() if _plain(key) == name]
    chosen = named or list(there.values())
    return chosen[0].slurm if chosen else None


def cluster_for(
    hosts: Mapping[str, HostSpec],
    open_hosts: Sequence[InstanceRow],
    asked: str | None,
    job_host: str | None,
    *,
    must_be_open: bool,
) -> tuple[Sequence[InstanceRow], SlurmSpec] | None:
    """The login node that a job is for, where it is open, with its Slurm; None where another machine is meant.

    `asked` is what was typed, the beginning of a name at least. Nothing typed: the job's own host, else the only open
    one. Raises NotFound where a cluster is meant that is not open.
    """
    clusters = [(row, slurm) for row in open_hosts if (slurm := slurm_at(hosts, row.name, row.address))]
    if asked is not None or slurm_named(hosts, job_host):
        name = _plain(asked or job_host or "")
        fitting = [each for each in clusters if each[0].name == name]
        fitting = fitting or [each for each in clusters if each[0].name.startswith(name)]
        fitting = fitting or [each for each in clusters if each[0].address == _address_of(hosts, asked or job_host)]
    else:
        fitting = clusters if len(open_hosts) == 1 else []
    meant = asked if asked is not None else job_host
    named = slurm_named(hosts, meant)
    if not fitting and named and must_be_open:
        raise NotFound(f"`{meant}` is not open", why="its login node was not met yet", hint=f"gptops up --host {meant}")
    if len(fitting) == 1:
        return [fitting[0][0]], fitting[0][1]
    return ([], named) if named and not fitting else None


def slurm_named(hosts: Mapping[str, HostSpec], name: str | None) -> SlurmSpec | None:
    """What stands there under this name; None where it is no cluster."""
    spec = hosts.get(name) if name is not None else None
    return spec.slurm if spec is not None and spec.scheduler else None


def _plain(key: str) -> str:
    """As launcher.hosts.planning calls the host."""
    return key.lower().replace("_", "-")


def _address_of(hosts: Mapping[str, HostSpec], name: str | None) -> str | None:
    """As the ledger has it."""
    spec = hosts.get(name or "")
    return str(Address(spec.host, spec.port, spec.user)) if spec else None
