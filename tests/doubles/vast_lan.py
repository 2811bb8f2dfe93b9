"""The physical clusters and overlay networks of the double of Vast, as the vendor's own library speaks of them.

An instance joins by `"-n NAME"` in the `env` of its create call, or later by PUT. Deleting an overlay ends the
instances in it: the vendor's help says that it "removes" them, so the double takes it at its worst.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.doubles.cloud import Asked, Reply
from tests.doubles.vast_market import Row

if TYPE_CHECKING:
    from tests.doubles.vast_box import Box
    from tests.doubles.vast_cloud import VastCloud

OVERLAY = r"^/api/v0/overlay/$"
NAME = re.compile(r"[a-z0-9-]{1,64}")
"""What the official client lets through in `-n NAME`."""


@dataclass(frozen=True)
class Overlay:
    """One network on one cluster."""

    overlay_id: int
    name: str
    cluster_id: int
    tells_subnet: bool = True
    """False: `internal_subnet` is null, which the official client shows as N/A."""

    @property
    def subnet(self) -> str:
        return f"10.{self.overlay_id % 250}.0.0/24"

    def address(self, seat: int) -> str:
        return f"10.{self.overlay_id % 250}.0.{seat}/24"


def refusal(status: int, error: str, msg: str, **more: Any) -> Reply:
    return Reply(status, {"success": False, "error": error, "msg": msg, **more})


def wanted_network(request: Mapping[str, Any]) -> str:
    """The name in `-n NAME`; "" where none is asked for."""
    env = request.get("env") or {}
    return next((key.removeprefix("-n ") for key in env if key.startswith("-n ")), "")


def network_refusal(vast: VastCloud, request: Mapping[str, Any], row: Row) -> str:
    """Why an instance on that machine cannot be in the network it asks for; "" where it can."""
    name = wanted_network(request)
    if not name:
        return ""
    overlay = _named(vast, name)
    if overlay is None:
        return f"there is no overlay {name}"
    return "" if row["cluster_id"] == overlay.cluster_id else f"the machine is not in cluster {overlay.cluster_id}"


def seat_of(vast: VastCloud, request: Mapping[str, Any]) -> str:
    """The address of the next instance in the network it asks for; "" outside of any."""
    overlay = _named(vast, wanted_network(request))
    if overlay is None:
        return ""
    return overlay.address(1 + sum(wanted_network(box.request) == overlay.name for box in vast.boxes.values()))


def _named(vast: VastCloud, name: str) -> Overlay | None:
    return next((overlay for overlay in vast.overlays.values() if overlay.name == name), None)


def _inside(vast: VastCloud, overlay: Overlay) -> list[Box]:
    return [box for box in vast.boxes.values() if not box.destroyed and wanted_network(box.request) == overlay.name]


def _clusters(vast: VastCloud, asked: Asked) -> Reply:
    found: dict[str, dict[str, Any]] = {}
    for row in vast.market:
        if row["cluster_id"] is not None:
            cluster = found.setdefault(str(row["cluster_id"]), {"subnet": "192.168.7.0/24", "nodes": []})
            nodes = cluster["nodes"]
            local_ip = f"192.168.7.{len(nodes) + 1}"
            nodes.append({"machine_id": row["machine_id"], "is_cluster_manager": not nodes, "local_ip": local_ip})
    return Reply(200, {"clusters": found})


def _overlays(vast: VastCloud, asked: Asked) -> Reply:
    rows = [
        {
            "overlay_id": overlay.overlay_id,
            "name": overlay.name,
            "internal_subnet": overlay.subnet if overlay.tells_subnet else None,
            "cluster_id": overlay.cluster_id,
            "instances": [box.instance_id for box in _inside(vast, overlay)],
        }
        for overlay in vast.overlays.values()
    ]
    return Reply(200, rows)


def _create(vast: VastCloud, asked: Asked) -> Reply:
    cluster_id, name = asked.body.get("cluster_id"), asked.body.get("name")
    if not isinstance(cluster_id, int) or cluster_id not in {row["cluster_id"] for row in vast.market}:
        return refusal(400, "invalid_args", f"no cluster {cluster_id}")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        return refusal(400, "invalid_args", "an overlay's name is made of a-z, 0-9 and -")
    if _named(vast, name):
        return refusal(400, "invalid_args", f"an overlay named {name} exists")
    number = max(vast.overlays, default=0) + 1
    vast.overlays[number] = Overlay(number, name, cluster_id, vast.tells_subnets)
    return Reply(200, {"success": True, "msg": f"overlay {name} created"})


def _delete(vast: VastCloud, asked: Asked) -> Reply:
    by_id = vast.overlays.get(asked.body.get("overlay_id") or 0)
    overlay = by_id or _named(vast, str(asked.body.get("overlay_name") or ""))
    if overlay is None:
        return refusal(404, "not_found", "no such overlay")
    for box in _inside(vast, overlay):
        box.destroy(vast.time.now(), vast.meter)
    del vast.overlays[overlay.overlay_id]
    return Reply(200, {"success": True, "msg": f"overlay {overlay.name} deleted"})


def _join(vast: VastCloud, asked: Asked) -> Reply:
    overlay, box = _named(vast, asked.body.get("name") or ""), vast.boxes.get(int(asked.body.get("instance_id") or 0))
    if overlay is None or box is None or box.destroyed:
        return refusal(404, "not_found", "no such overlay or instance")
    if box.ask["cluster_id"] != overlay.cluster_id:
        return refusal(400, "invalid_args", f"the machine is not in cluster {overlay.cluster_id}")
    request = {**box.request, "env": {**(box.request.get("env") or {}), f"-n {overlay.name}": "1"}}
    box.inside, box.request = seat_of(vast, request), request
    return Reply(200, {"success": True, "msg": f"instance {box.name} joined {overlay.name}"})


ROUTES: tuple[tuple[str, str, Callable[..., Reply]], ...] = (
    ("GET", r"/api/v0/clusters/", _clusters),
    ("GET", r"/api/v0/overlay/", _overlays),
    ("POST", r"/api/v0/overlay/", _create),
    ("DELETE", r"/api/v0/overlay/", _delete),
    ("PUT", r"/api/v0/overlay/", _join),
)
