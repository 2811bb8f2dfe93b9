"""RunPod's REST API v2 on loopback, as its OpenAPI file describes it, with pods that are real sshd hosts.

    double = RunpodDouble(folder)
    double.url                                     # for RUNPOD_REST_URL; double.key for RUNPOD_API_KEY
    double.next = Plan(ports_missing_polls=5)      # how the next pod behaves
    double.account_keys                            # what PUT /account/ssh-keys has left there
    double.alive, double.meter                     # what bills, and what it has cost

Faults, limits and time are tests.doubles.cloud's. A pod moves on with each look at it
(PROVISIONING, STARTING, RUNNING, a mapped port), so no test waits.
"""

from __future__ import annotations

import argparse
import re
import signal
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from launcher.clock import Clock, SystemClock
from tests.doubles import runpod_clusters as clusters
from tests.doubles.cloud import Asked, Cloud, Reply
from tests.doubles.cloud_time import STEP_SECONDS
from tests.doubles.machines import Machine

KEY = "rpa_DOUBLE0KEY"
READ_ONLY_KEY = "rpa_DOUBLE0READONLY"
NO_ACCOUNT_KEY = "rpa_DOUBLE0PODSONLY"
POD_KEY = "rpa_DOUBLE0OF"
"""And the pod's id: may look at this pod and delete it."""
BASE = "/v2"
DISK_USD_PER_GB_HOUR = 0.10 / 730
PROBLEM = {"Content-Type": "application/problem+json"}
QUOTA = {"RateLimit-Policy": '"minute";q=60;w=60'}
PROXY = {"host": "ssh.runpod.io", "port": 22, "username": "pod-64411eb2", "command": "ssh pod-64411eb2@ssh.runpod.io"}


@dataclass(frozen=True)
class GpuType:
    """One row of the catalog. `stock`: data center → level, on the secure cloud."""

    id: str
    name: str
    memory: int
    secure: float
    community: float
    most: int = 8
    stock: Mapping[str, str] = field(default_factory=lambda: {"US-KS-2": "HIGH"})
    community_stock: str = "NONE"
    cuda: Mapping[str, bool] = field(default_factory=lambda: {"12.8": True, "13.0": True})
    manufacturer: str = "NVIDIA"


CATALOG = (
    GpuType("NVIDIA H100 80GB HBM3", "H100 SXM", 80, 2.69, 2.39, stock={"US-KS-2": "LOW", "EU-RO-1": "HIGH"}),
    GpuType("NVIDIA A100-SXM4-80GB", "A100 SXM", 80, 1.49, 1.39, community_stock="LOW", cuda={"12.4": True}),
    GpuType("NVIDIA GeForce RTX 4090", "RTX 4090", 24, 0.44, 0.34, community_stock="HIGH"),
    GpuType("NVIDIA L40S", "L40S", 48, 0.86, 0.79, stock={"US-TX-3": "NONE"}),
    GpuType("AMD Instinct MI300X OAM", "MI300X", 192, 2.29, 1.99, manufacturer="AMD", cuda={}),
)


@dataclass(frozen=True)
class Plan:
    """How one pod behaves."""

    provisioning_polls: int = 1
    starting_polls: int = 1
    ports_missing_polls: int = 1
    ends_as: str = "RUNNING"
    """Where it gets to: ERROR and EXITED are pulls that failed; any other word is RunPod's future."""
    lingers_polls: int = 0
    """Looks for which it is still there after it was deleted."""
    costs: float | None = None
    """US dollars an hour; None: as in the catalog."""
    gpus: int | None = None
    knows_only_account_keys: bool = False
    """An image that goes by the account's keys, whatever the request says."""


@dataclass
class Pod:
    """What somebody asked for, and what has become of it."""

    body: dict[str, Any]
    plan: Plan
    cost: float
    center: str
    polls: int = 0
    machine: Machine | None = None
    deleted_polls: int | None = None
    stopped_as: str = ""
    cluster_id: str = ""
    rank: int = 0
    inside: str = ""
    """With its network's size: `10.65.0.2/16`."""


class RunpodDouble(Cloud):
    """One account. `with_hosts`: pods that run can be logged in to."""

    def __init__(
        self,
        folder: Path,
        *,
        clock: Clock | None = None,
        step: float = STEP_SECONDS,
        port: int = 0,
        with_hosts: bool = False,
    ) -> None:
        super().__init__(folder, clock=clock, step=step, port=port, key=KEY)
        self.with_hosts = with_hosts
        self.catalog: Sequence[GpuType] = CATALOG
        self.account_keys: list[str] = []
        self.next = Plan()
        self.pods: dict[str, Pod] = {}
        self.clusters: dict[str, dict[str, Any]] = {}
        """Their create requests."""
        self.clusters_made = 0

    @property
    def url(self) -> str:
        return super().url + BASE

    @property
    def alive(self) -> list[str]:
        """Pods that are not deleted."""
        return [pod_id for pod_id, pod in self.pods.items() if pod.deleted_polls is None]

    def dollars(self) -> float:
        """What the account was charged up to now."""
        return self.meter.read(self.time.now())

    def keep_pace(self) -> None:
        """Answer 429 to whoever asks for more than 60 things of a kind a minute."""
        reply = problem(429, "Too Many Requests", "rate limit exceeded for the minute window", {"Retry-After": "12"})
        self.limit("read", "GET", "", seconds=1.0, replies=[reply])
        self.limit("write", "POST", "", seconds=1.0, replies=[reply])

    def machine(self, pod_id: str) -> Machine:
        """The host behind a pod."""
        found = self.pods[pod_id].machine
        assert found is not None
        return found

    def stop(self, pod_id: str, status: str = "EXITED") -> None:
        """What RunPod does when the balance is gone: processes are killed, the GPU bills no more."""
        pod = self.pods[pod_id]
        pod.stopped_as = status
        self.meter.stop(pod_id, self.time.now())
        if pod.machine is not None:
            pod.machine.cut()

    # The API

    def answer(self, asked: Asked) -> Reply:
        path = asked.path.removeprefix(BASE)
        refusal = _unauthorized(asked, path)
        if refusal is not None:
            return refusal
        pod = re.fullmatch(r"/pods/([^/]+)", path)
        if pod and asked.method in ("GET", "DELETE"):
            return self._show(pod[1]) if asked.method == "GET" else self._delete(pod[1])
        if path.startswith("/clusters"):
            return clusters.answer(self, asked, path.removeprefix("/clusters"))
        handlers = {
            "GET /pods": self._list,
            "POST /pods": self._create,
            "GET /catalog/gpus": self._gpus,
            "GET /account/ssh-keys": lambda asked: Reply(200, {"keys": self.account_keys}),
            "PUT /account/ssh-keys": self._replace_keys,
        }
        handler = handlers.get(f"{asked.method} {path}")
        return handler(asked) if handler else problem(404, "Not Found", "no such path")

    def _gpus(self, asked: Asked) -> Reply:
        query = asked.query
        if ("include" in query) != ("product" in query):
            return problem(400, "Bad Request", "include=AVAILABILITY requires product")
        count, cloud = int(query.get("count", "1")), query.get("cloud", "SECURE")
        return Reply(200, {"gpus": [_gpu_json(gpu, count, cloud) for gpu in self.catalog]}, QUOTA)

    def _list(self, asked: Asked) -> Reply:
        wanted = asked.query.get("includeClusterPods") == "true"
        there = [each for each, pod in self.pods.items() if (wanted or not pod.cluster_id) and self._is_listed(each)]
        for pod in (self.pods[each] for each in there):
            pod.polls += bool(pod.cluster_id)
        shown = [self._json(pod_id) for pod_id in there]
        return Reply(200, {"pods": shown}, QUOTA)

    def _show(self, pod_id: str) -> Reply:
        pod = self.pods.get(pod_id)
        if pod is None or not self._is_listed(pod_id):
            return problem(404, "Not Found", "pod not found")
        pod.polls += 1
        return Reply(200, self._json(pod_id), QUOTA)

    def _is_listed(self, pod_id: str) -> bool:
        pod = self.pods[pod_id]
        if pod.deleted_polls is None:
            return True
        pod.deleted_polls -= 1
        return pod.deleted_polls >= 0

    def _delete(self, pod_id: str) -> Reply:
        pod = self.pods.get(pod_id)
        if pod is None or pod.deleted_polls is not None:
            return problem(404, "Not Found", "pod not found")
        if pod.cluster_id:
            return problem(409, "Conflict", "Pod belongs to a cluster and cannot be terminated via the pod endpoints.")
        return self.end_pod(pod_id, pod)

    def end_pod(self, pod_id: str, pod: Pod) -> Reply:
        pod.deleted_polls = pod.plan.lingers_polls
        self.meter.stop(pod_id, self.time.now())
        if pod.machine is not None:
            pod.machine.end()
        return Reply(204)

    def _replace_keys(self, asked: Asked) -> Reply:
        keys = asked.body.get("keys")
        if not all(re.fullmatch(r"(ssh|ecdsa|sk)-[^\s]+ [^\s]+([ \t][^\n\r]*)?", key) for key in keys):
            return problem(422, "Unprocessable Entity", "Request validation failed.")
        self.account_keys = list(keys)
        return Reply(200, {"keys": self.account_keys}, QUOTA)

    def _create(self, asked: Asked) -> Reply:
        body = asked.body
        wrong = _violations(body)
        if wrong:
            refusal = problem(422, "Unprocessable Entity", "Request validation failed.")
            return replace(refusal, body={**refusal.body, "errors": wrong})
        gpu = next((each for each in self.catalog if each.id == body["gpu"]["id"]), None)
        center = self.place(gpu, body) if gpu else None
        if gpu is None or center is None:
            return problem(400, "Bad Request", "There are no instances currently available")
        rate = gpu.secure if body.get("cloud", "SECURE") == "SECURE" else gpu.community
        pod_id = self.add_pod(body, rate * body["gpu"].get("count", 1), center)
        self.next = Plan()
        return Reply(201, self._json(pod_id), QUOTA)

    def add_pod(self, body: dict[str, Any], rate: float, center: str, **in_cluster: Any) -> str:
        """One more pod, which bills from now on; its id. It behaves as `next` says."""
        pod_id = f"pod{len(self.pods) + 1:07d}"
        cost = rate if self.next.costs is None else self.next.costs
        self.pods[pod_id] = Pod(body, self.next, cost, center, **in_cluster)
        disk = body.get("disk", 50) * DISK_USD_PER_GB_HOUR
        self.meter.set(pod_id, self.time.now(), gpu_per_hour=cost, disk_per_hour=disk)
        return pod_id

    def place(self, gpu: GpuType, body: Mapping[str, Any]) -> str | None:
        """A data center with stock and a new enough driver."""
        floor = body.get("gpu", {}).get("minCudaVersion")
        if floor and not any(free and _version(cuda) >= _version(floor) for cuda, free in gpu.cuda.items()):
            return None
        if body.get("cloud") == "COMMUNITY":
            return "" if gpu.community_stock != "NONE" else None
        wanted = body.get("dataCenterIds") or list(gpu.stock)
        return next((each for each in wanted if gpu.stock.get(each, "NONE") != "NONE"), None)

    # A pod

    def status(self, pod: Pod) -> str:
        plan = pod.plan
        if pod.stopped_as:
            return pod.stopped_as
        if pod.polls < plan.provisioning_polls:
            return "PROVISIONING"
        return "STARTING" if pod.polls < plan.provisioning_polls + plan.starting_polls else plan.ends_as

    def _json(self, pod_id: str) -> dict[str, Any]:
        pod, body = self.pods[pod_id], self.pods[pod_id].body
        status = self.status(pod)
        direct = self._direct(pod_id, pod) if status == "RUNNING" else None
        return {
            "id": pod_id,
            "name": body["name"],
            "status": status,
            "actions": ["stop", "terminate"],
            "image": body["image"],
            "args": body.get("args", ""),
            "disk": body.get("disk", 50),
            "mounts": {},
            "ports": body.get("ports", []),
            "env": body.get("env", {}),
            "registry": None,
            "gpu": {"id": body["gpu"]["id"], "count": pod.plan.gpus or body["gpu"].get("count", 1)},
            "cloud": body.get("cloud", "SECURE"),
            "dataCenterId": pod.center or None,
            "cudaVersion": "13.0",
            "ssh": {"proxy": PROXY, "direct": direct},
            "template": None,
            "cost": 0.0 if status in ("EXITED", "TERMINATED") else pod.cost,
            "locked": False,
            "runtime": None,
            "createdAt": "2026-11-20T12:00:00Z",
            "startedAt": None,
            "globalNetworking": {"enabled": False},
            **clusters.membership(self, pod),
        }

    def _direct(self, pod_id: str, pod: Pod) -> dict[str, Any] | None:
        """The mapped port, once there is one; the pod's host boots with it."""
        plan, body = pod.plan, pod.body
        ready_at = plan.provisioning_polls + plan.starting_polls + plan.ports_missing_polls
        if "22/tcp" not in body.get("ports", []) or pod.polls < ready_at:
            return None
        host, port = "203.0.113.7", 34446
        if self.with_hosts and _starts_sshd(body):
            if pod.machine is None:
                pod.machine = self._boot(pod_id, pod)
            host, port = pod.machine.address.host, pod.machine.address.port
        return {"host": host, "port": port, "username": "root", "command": f"ssh root@{host} -p {port}"}

    def _boot(self, pod_id: str, pod: Pod) -> Machine:
        own = pod.body.get("env", {}).get("PUBLIC_KEY")
        account = self.account_keys if pod.body.get("startSsh") else []
        keys = account if pod.plan.knows_only_account_keys or own is None else [own]
        environment = {"RUNPOD_POD_ID": pod_id, "RUNPOD_API_KEY": POD_KEY + pod_id, "RUNPOD_REST_URL": self.url}
        count = pod.plan.gpus or pod.body["gpu"].get("count", 1)
        machine = self.machines.start(keys, gpus=[pod.body["gpu"]["id"]] * count, environment=environment)
        if pod.inside:
            machine.join(pod.inside)
        return machine


def _unauthorized(asked: Asked, path: str) -> Reply | None:
    key = asked.headers.get("authorization", "").removeprefix("Bearer ")
    if key.startswith(POD_KEY):
        own = path == f"/pods/{key.removeprefix(POD_KEY)}"
        return None if own else problem(403, "Forbidden", "access denied")
    if key not in (KEY, READ_ONLY_KEY, NO_ACCOUNT_KEY):
        return problem(401, "Unauthorized", "invalid bearer token")
    if (key == READ_ONLY_KEY and asked.method != "GET") or (key == NO_ACCOUNT_KEY and path.startswith("/account/")):
        return problem(403, "Forbidden", "access denied")
    return None


def problem(status: int, title: str, detail: str, headers: Mapping[str, str] | None = None) -> Reply:
    """RFC 9457."""
    return Reply(status, {"title": title, "status": status, "detail": detail}, {**PROBLEM, **(headers or {})})


def _gpu_json(gpu: GpuType, count: int, cloud: str) -> dict[str, Any]:
    level = {"HIGH": 3, "MEDIUM": 2, "LOW": 1, "NONE": 0}
    stock = gpu.stock if cloud == "SECURE" else {}
    best = max(stock.values(), key=level.__getitem__, default="NONE") if cloud == "SECURE" else gpu.community_stock
    row: dict[str, Any] = {
        "id": gpu.id,
        "name": gpu.name,
        "pool": None,
        "manufacturer": gpu.manufacturer,
        "memory": gpu.memory,
        "secure": bool(gpu.stock),
        "community": gpu.community_stock != "NONE",
        "price": {"secure": gpu.secure, "community": gpu.community},
        "maxCount": {"secure": gpu.most, "community": gpu.most // 2},
        "availability": best if count <= gpu.most else "NONE",
    }
    if best != "NONE" and stock:
        row["dataCenters"] = [{"id": each, "name": each, "availability": is_} for each, is_ in stock.items()]
    if gpu.cuda:
        row["cudaVersions"] = [{"version": cuda, "available": free} for cuda, free in gpu.cuda.items()]
    return row


_FIELDS = {"name", "image", "gpu", "cloud", "disk", "ports", "env", "args", "dataCenterIds", "startSsh", "mounts"}
_GPU_FIELDS = {"id", "count", "minCudaVersion", "allowedCudaVersions"}


def _violations(body: Mapping[str, Any]) -> list[str]:
    """What the contract of CreatePodRequest does not allow."""
    wrong = [f"$: additional properties '{name}' not allowed" for name in sorted(set(body) - _FIELDS)]
    wrong += [f"$: missing property '{name}'" for name in ("name", "image", "gpu") if not body.get(name)]
    gpu = body.get("gpu") or {}
    wrong += [f"$.gpu: additional properties '{name}' not allowed" for name in sorted(set(gpu) - _GPU_FIELDS)]
    if not re.fullmatch(r"\d+\.\d+", gpu.get("minCudaVersion", "0.0")):
        wrong.append("$.gpu.minCudaVersion: does not match pattern")
    if not isinstance(body.get("disk", 1), int) or body.get("disk", 1) < 1:
        wrong.append("$.disk: expected an integer of at least 1")
    if not all(isinstance(value, str) for value in (body.get("env") or {}).values()):
        wrong.append("$.env: expected strings")
    return wrong


def _starts_sshd(body: Mapping[str, Any]) -> bool:
    """RunPod's own images do where there is a key; any other must be told to."""
    return str(body["image"]).startswith("runpod/") or "sshd" in str(body.get("args", ""))


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def main() -> None:
    """Serve until Ctrl-C or SIGTERM; then end every pod."""
    for number in (signal.SIGINT, signal.SIGTERM):  # in the background of a script, Ctrl-C would be ignored
        signal.signal(number, signal.default_int_handler)
    options = argparse.ArgumentParser(description="A double of RunPod on this machine.")
    options.add_argument("--port", type=int, default=8001)
    with (
        tempfile.TemporaryDirectory(prefix="runpod-double-") as folder,
        RunpodDouble(Path(folder), clock=SystemClock(), port=options.parse_args().port, with_hosts=True) as double,
    ):
        print(f"export RUNPOD_REST_URL={double.url} RUNPOD_API_KEY={double.key}", flush=True)
        try:
            double.wait()
        except KeyboardInterrupt:
            print(f"\nalive: {', '.join(double.alive) or 'none'}; charged ${double.dollars():.4f}")


if __name__ == "__main__":
    main()
