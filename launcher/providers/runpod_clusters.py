"""RunPod's Instant Clusters: pods of one data center with a fast network, made and deleted as a whole.

Written from the vendor's OpenAPI file; nothing here was run against the live service, and docs/runpod.md says what that
leaves open. A cluster is found by its name; its pods carry its label in their environment and their rank beside it.
"""

from __future__ import annotations

from typing import Any

from launcher.clock import Clock
from launcher.errors import ProviderError
from launcher.providers.answer import Refused
from launcher.providers.fields import Fields
from launcher.providers.http import Api
from launcher.providers.networks import Machines, Network
from launcher.providers.runpod import create_refused, delete, runpod_api
from launcher.providers.runpod_catalog import data_center_of
from launcher.providers.runpod_container import container
from launcher.providers.runpod_keys import try_register
from launcher.providers.runpod_pods import NETWORK


def open_clusters(clock: Clock) -> RunpodClusters:
    """At RunPod, or at what $RUNPOD_REST_URL names. Reads the key at the first question."""
    return RunpodClusters(runpod_api(clock))


class RunpodClusters:
    """One account; keeps nothing. A cluster's id is its network's."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def create(self, cluster_id: str, name: str, machines: Machines = ()) -> None:
        """Ask for all pods at once. RunPod answers before they run; whatever it answers, the lists tell."""
        offer, request = machines[0]
        try_register(self._api, request.public_key)
        body = _body(name, machines)
        try:
            self._api.call("POST", "/clusters", endpoint="write", body=body, may_bill=True)
        except Refused as error:
            raise create_refused(offer, error) from error

    def named(self, prefix: str) -> list[Network]:
        """All clusters of the account whose name starts with `prefix`. No subnet: each pod tells its own address, and a
        node has up to eight interfaces, of which that is the first one's."""
        answer = Fields.of(self._api.call("GET", "/clusters", endpoint="read"), "runpod's list of clusters")
        rows = answer.row.get("clusters")
        if not isinstance(rows, list):
            # An empty list instead would mean that nothing bills.
            raise ProviderError("runpod's list of clusters is not readable", why="it has no `clusters`")
        found = [Fields.of(row, "runpod's cluster") for row in rows]
        ours = [row for row in found if row.text("name", "").startswith(prefix)]
        return [Network(row.text("id"), row.text("name"), row.text("dataCenterId", "")) for row in ours]

    def delete(self, network_id: str) -> None:
        """Its pods end with it."""
        delete(self._api, "clusters", network_id)


def _body(name: str, machines: Machines) -> dict[str, Any]:
    """All are alike, so the first one speaks for them. No `cloud` and no CUDA version: a cluster takes neither."""
    offer, request = machines[0]
    shape = {"gpuTypeId": offer.gpu_name, "gpuCountPerPod": offer.gpus, "podCount": len(machines)}
    body = {"name": name, "type": "TRAINING", "compute": shape, **container(request)}
    body["env"] = {**body["env"], NETWORK: request.label.rpartition("-")[0]}
    center = data_center_of(offer)
    if center is not None:
        body["dataCenterIds"] = [center]
    return body
