"""A pod, read as an instance: what RunPod's REST API v2 says of it, in our words. Pure."""

from __future__ import annotations

from typing import Any

from launcher.providers.base import Instance, Status
from launcher.providers.fields import Fields
from launcher.providers.networks import machine_label
from launcher.providers.runpod_catalog import disk_per_hour
from launcher.remote.host import Address

_STATUS = {
    "PROVISIONING": Status.STARTING,
    "STARTING": Status.STARTING,
    "RUNNING": Status.RUNNING,
    "EXITED": Status.STOPPED,
    "ERROR": Status.FAILED,
}
GONE = "TERMINATED"
NETWORK = "GPTOPS_NETWORK"
"""In the environment of a cluster's pods: the label of their network. RunPod names them, and lists what it was told."""
_UNPLACED = "unplaced"
"""In the place of a rank that is not assigned yet."""


def label_of(pod: Any) -> str:
    """Its name; in a cluster of ours, the network's label and its rank."""
    fields = Fields.of(pod, "runpod's pod")
    if not fields.row.get("cluster"):
        return fields.text("name", "")
    network = Fields.of(fields.row.get("env") or {}, "runpod's env").text(NETWORK, "")
    rank = Fields.of(fields.row["cluster"], "runpod's cluster").row.get("rank")
    if not network:
        return fields.text("name", "")
    return machine_label(network, rank) if isinstance(rank, int) else f"{network}-{_UNPLACED}"


def instance_of(pod: Any) -> Instance | None:
    """The pod as an instance; None for one that has been deleted and is only remembered."""
    fields = Fields.of(pod, "runpod's pod")
    status, cost = fields.text("status"), fields.number("cost", 0.0)
    if status == GONE:
        return None
    disk = disk_per_hour(fields.number("disk", 0.0)) if cost else 0.0  # a stopped pod's container disk is free
    gpu = Fields.of(fields.row.get("gpu") or {}, "runpod's GPU")
    addresses = _addresses(fields)
    cluster = Fields.of(fields.row.get("cluster") or {}, "runpod's cluster")
    within = f"{cluster.text('id')}/" if cluster.row else ""  # it is deleted with that alone
    return Instance(
        instance_id=within + fields.text("id"),
        label=label_of(pod),
        status=status_of(status),
        addresses=addresses,
        price_per_hour=cost + disk,
        detail=_detail(status, bool(addresses)),
        gpus=gpu.whole("count", 0) or None,
        disk_per_hour=disk,
        inside=cluster.text("ip", ""),
    )


def status_of(word: str) -> Status:
    """Total: a word that RunPod invents tomorrow means that nobody knows what the pod does."""
    return _STATUS.get(word, Status.SILENT)


def _addresses(pod: Fields) -> tuple[Address, ...]:
    """The direct one alone. The proxy is a shell without files: no rsync, no scp, no port."""
    direct = Fields.of(pod.row.get("ssh") or {}, "runpod's ssh").row.get("direct")
    if direct is None:
        return ()
    fields = Fields.of(direct, "runpod's direct SSH")
    return (Address(fields.text("host"), fields.whole("port"), fields.text("username", "root")),)


def _detail(status: str, has_address: bool) -> str:
    if status == "RUNNING" and not has_address:
        return f"{status}, no direct SSH yet: its proxy cannot carry rsync"
    return status
