"""Which of the user's hosts is a cluster's login node, and what its Slurm wants to be told. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from launcher.remote.host import Address
from launcher.spec.jobs import HostSpec
from launcher.spec.slurm import SlurmSpec


def slurm_at(hosts: Mapping[str, HostSpec], name: str, address: str | None) -> SlurmSpec | None:
    """What stands in jobs.yaml for the open host of this name and address; None where it is no cluster.

    The same login node may stand there several times, with a partition each: then the name decides.
    """
    there = {key: spec for key, spec in hosts.items() if spec.scheduler and str(_address(spec)) == address}
    named = [spec for key, spec in there.items() if key.lower().replace("_", "-") == name]
    chosen = named or list(there.values())
    return chosen[0].slurm if chosen else None


def slurm_named(hosts: Mapping[str, HostSpec], name: str | None) -> SlurmSpec | None:
    """What stands there under this name; None where it is no cluster."""
    spec = hosts.get(name) if name is not None else None
    return spec.slurm if spec is not None and spec.scheduler else None


def _address(spec: HostSpec) -> Address:
    return Address(spec.host, spec.port, spec.user)
