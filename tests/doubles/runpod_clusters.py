"""The clusters of the double of RunPod, as its OpenAPI file describes them: made and deleted as a whole.

Their pods are pods of the double. They move on with each list that includes them, and have neither rank nor address
before they are placed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tests.doubles.cloud import Asked, Reply

if TYPE_CHECKING:
    from tests.doubles.runpod import Pod, RunpodDouble

SHARE = 1.2
"""Beside the catalog's price, as somebody was charged: the API tells no price of clusters."""
_FIELDS = {
    *("name", "type", "compute", "image", "disk", "ports", "env", "args", "dataCenterIds", "mounts", "startJupyter"),
    "startSsh",
}


def answer(double: RunpodDouble, asked: Asked, path: str) -> Reply:
    """`path` is what stands behind `/clusters`."""
    if asked.method == "DELETE" and re.fullmatch(r"/[^/]+", path):
        return _delete(double, path[1:])
    if path == "" and asked.method == "POST":
        return _create(double, asked.body)
    if path == "" and asked.method == "GET":
        return Reply(200, {"clusters": [_json(double, each) for each in double.clusters]})
    return _problem(404, "Not Found", "no such path")


def membership(double: RunpodDouble, pod: Pod) -> dict[str, Any]:
    """What a pod tells of its cluster; nothing outside of one."""
    if not pod.cluster_id:
        return {}
    if double.status(pod) == "PROVISIONING":
        return {"cluster": {"id": pod.cluster_id, "rank": None}}
    return {"cluster": {"id": pod.cluster_id, "rank": pod.rank, "ip": pod.inside.partition("/")[0]}}


def violations(body: Mapping[str, Any]) -> list[str]:
    """What the contract of CreateClusterRequest does not allow."""
    wrong = [f"$: unevaluated property '{name}'" for name in sorted(set(body) - _FIELDS)]
    wrong += [f"$: missing property '{name}'" for name in ("name", "type", "compute") if not body.get(name)]
    shape = body.get("compute") or {}
    if set(shape) != {"gpuTypeId", "gpuCountPerPod", "podCount"}:
        return [*wrong, "$.compute: gpuTypeId, gpuCountPerPod and podCount are wanted, and nothing else"]
    if body.get("type") not in ("APPLICATION", "TRAINING", "SLURM", "RAY"):
        wrong.append("$.type: not one of the values")
    if not (shape["gpuCountPerPod"] >= 1 and 2 <= shape["podCount"] <= 250):
        wrong.append("$.compute: out of range")
    if not isinstance(body.get("disk", 1), int) or body.get("disk", 1) < 1:
        wrong.append("$.disk: expected an integer of at least 1")
    if not all(isinstance(value, str) for value in (body.get("env") or {}).values()):
        wrong.append("$.env: expected strings")
    return wrong


def _create(double: RunpodDouble, body: Mapping[str, Any]) -> Reply:
    wrong = violations(body)
    if wrong:
        return _problem(422, "Unprocessable Entity", "Request validation failed.", errors=wrong)
    shape = body["compute"]
    gpu = next((each for each in double.catalog if each.id == shape["gpuTypeId"]), None)
    center = double.place(gpu, body) if gpu else None
    if gpu is None or center is None or shape["gpuCountPerPod"] > gpu.most:
        return _problem(400, "Bad Request", "Insufficient resources")
    double.clusters_made += 1
    cluster_id = f"cluster{double.clusters_made:04d}"
    double.clusters[cluster_id] = dict(body)
    shared = {key: value for key, value in body.items() if key not in ("name", "type", "compute")}
    for rank in range(shape["podCount"]):
        name, count = f"{body['name']}-pod-{rank}", shape["gpuCountPerPod"]
        double.add_pod(
            {**shared, "name": name, "gpu": {"id": gpu.id, "count": count}},
            SHARE * gpu.secure * count,
            center,
            cluster_id=cluster_id,
            rank=rank,
            inside=f"10.{64 + double.clusters_made}.0.{rank + 2}/16",
        )
    double.next = type(double.next)()
    return Reply(201, _json(double, cluster_id))


def _delete(double: RunpodDouble, cluster_id: str) -> Reply:
    """In the vendor's words, it "terminates all of its member pods"."""
    if double.clusters.pop(cluster_id, None) is None:
        return _problem(404, "Not Found", "Cluster not found")
    for pod_id, pod in _members(double, cluster_id).items():
        double.end_pod(pod_id, pod)
    return Reply(204)


def _members(double: RunpodDouble, cluster_id: str) -> dict[str, Pod]:
    there = {pod_id: double.pods[pod_id] for pod_id in double.alive}
    return {pod_id: pod for pod_id, pod in there.items() if pod.cluster_id == cluster_id}


def _json(double: RunpodDouble, cluster_id: str) -> dict[str, Any]:
    body, members = double.clusters[cluster_id], list(_members(double, cluster_id).values())
    statuses = [double.status(pod) for pod in members]
    return {
        "id": cluster_id,
        "name": body["name"],
        "type": body["type"],
        "compute": body["compute"],
        "dataCenterId": members[0].center,
        "pods": {"total": len(members), "byStatus": {each: statuses.count(each) for each in statuses}},
        "network": {"cidr": members[0].inside},
        "createdAt": "2026-11-20T12:00:00Z",
    }


def _problem(status: int, title: str, detail: str, **more: Any) -> Reply:
    body = {"title": title, "status": status, "detail": detail, **more}
    return Reply(status, body, {"Content-Type": "application/problem+json"})
