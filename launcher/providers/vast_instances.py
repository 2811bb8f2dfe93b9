"""Vast's rows about instances, as Instances: status, addresses, prices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from launcher.errors import GptopsError
from launcher.providers.answer import one_line
from launcher.providers.base import Instance, Status
from launcher.providers.fields import Fields
from launcher.remote.host import Address

LOGIN_USER = "root"
NEVER_STARTS = "OCI runtime create failed"
"""In `status_msg`: the host's container runtime refused, and will go on refusing."""

_STATUSES = {
    "": Status.STARTING,  # null, until the host has heard of it
    "created": Status.STARTING,
    "loading": Status.STARTING,
    "rebooting": Status.STARTING,
    "scheduling": Status.STARTING,
    "running": Status.RUNNING,
    "stopped": Status.STOPPED,
    "frozen": Status.STOPPED,
    "exited": Status.FAILED,  # never becomes running again: "your script will loop forever", says the vendor
    "offline": Status.SILENT,
    "unknown": Status.SILENT,
}


def status_of(row: Fields) -> Status:
    """For every row there is an answer: a word that is not known yet counts as a machine lost from sight, which
    callers wait for within a deadline, and then end."""
    states = [row.text(name, "") for name in ("cur_state", "intended_status", "next_state")]
    if states == ["stopped"] * 3:
        return Status.PREEMPTED  # we stop nothing, so somebody bid more, or the credit ran out
    status = _STATUSES.get(row.text("actual_status", "").lower(), Status.SILENT)
    if status is Status.STARTING and NEVER_STARTS.lower() in row.text("status_msg", "").lower():
        return Status.FAILED
    return status


def instance_of(value: Any) -> Instance:
    """One row of the list, or what `show` has under `instances`. Raises ProviderError where it has no id: a machine
    that bills is never passed over in silence."""
    row = Fields.of(value, "an instance of `vast`")
    return Instance(
        instance_id=str(row.whole("id")),
        label=row.text("label", ""),
        status=status_of(row),
        addresses=tuple(_addresses(row)),
        price_per_hour=row.number("dph_total", 0.0),
        detail=_detail(row),
        spot=row.flag("is_bid"),
        machine_id=row.text("machine_id", ""),
        gpus=None if row.optional_number("num_gpus") is None else row.whole("num_gpus"),
        disk_per_hour=_disk_per_hour(row),
    )


def _disk_per_hour(row: Fields) -> float:
    """Told, or what is left of the price without its GPUs."""
    told, base = row.optional_number("storage_total_cost"), row.optional_number("dph_base")
    if told is not None:
        return told
    return 0.0 if base is None else max(0.0, row.number("dph_total", 0.0) - base)


def _detail(row: Fields) -> str:
    words = (row.text("actual_status", ""), one_line(row.text("status_msg", "")))
    return ": ".join(word for word in words if word)


def _addresses(row: Fields) -> Iterator[Address]:
    """Direct, then through Vast's proxy. A host goes with its own port and no other."""
    yield from _direct(row)
    proxy_port = row.optional_number("ssh_port")
    if proxy_port is not None:
        # With jupyter the proxy's port for SSH is the next one, as the official client reckons it.
        yield from _address(row.text("ssh_host", ""), int(proxy_port) + ("jupyter" in row.text("image_runtype", "")))


def _direct(row: Fields) -> Iterator[Address]:
    """The first mapping of port 22; null or absent until the machine runs, and once documented as an array."""
    ports = row.row.get("ports")
    mappings = ports.get("22/tcp") if isinstance(ports, dict) else None
    for mapping in mappings if isinstance(mappings, list) else ():
        port = str(mapping.get("HostPort", "")).strip() if isinstance(mapping, dict) else ""
        found = list(_address(row.text("public_ipaddr", ""), int(port))) if port.isascii() and port.isdigit() else []
        if found:
            yield found[0]
            return


def _address(host: str, port: int) -> Iterator[Address]:
    try:
        yield Address(host, port, LOGIN_USER)
    except GptopsError:
        return  # an empty host, or port 0: not known yet
