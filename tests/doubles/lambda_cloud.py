"""Lambda's Cloud API on loopback, as its OpenAPI file (1.10) describes it.

    double = LambdaDouble(folder)
    double.url                            # for LAMBDA_API_URL; double.key for LAMBDA_API_KEY
    double.next = Plan(booting_polls=5)   # how the next machine behaves
    double.ssh_keys                       # what is registered
    double.alive, double.meter            # what bills, and what it has cost

Faults, limits and time are tests.doubles.cloud's. A machine moves on with each look at
it, so no test waits. Lambda tells an address and means port 22 and the user `ubuntu`;
`machine(id)` is the real host behind it, for a test to go to instead.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.clock import Clock
from tests.doubles.cloud import Asked, Cloud, Reply
from tests.doubles.cloud_time import STEP_SECONDS
from tests.doubles.machines import Machine

KEY = "secret_gptops_0123456789.abcdef"
INACTIVE_KEY = "secret_gptops_inactive.abcdef"
BASE = "/api/v1"


@dataclass(frozen=True)
class Kind:
    """One instance type."""

    name: str
    gpu: str
    gpus: int
    cents: int
    regions: tuple[str, ...]
    storage_gib: int = 5990


KINDS = (
    Kind("gpu_8x_h100_sxm5", "H100 (80 GB SXM5)", 8, 2392, ("us-west-3", "us-east-1")),
    Kind("gpu_1x_h100_pcie", "H100 (80 GB PCIe)", 1, 249, ("us-west-3",), 1024),
    Kind("gpu_1x_a10", "A10 (24 GB PCIe)", 1, 75, ("us-east-1",), 1400),
    Kind("gpu_1x_a100", "A100 (40 GB PCIe)", 1, 129, (), 512),
)
REGIONS = {"us-west-3": "Utah, USA", "us-east-1": "Virginia, USA"}


@dataclass(frozen=True)
class Plan:
    """How one machine behaves."""

    booting_polls: int = 1
    ends_as: str = "active"
    terminating_polls: int = 0
    remembered_polls: int = 1
    """Looks for which it is shown as `terminated`."""
    cents: int | None = None
    forgets_tags: bool = False
    """An API that does not know tags yet."""


@dataclass
class _Instance:
    body: dict[str, Any]
    plan: Plan
    kind: Kind
    polls: int = 0
    ended_polls: int | None = None
    machine: Machine | None = None


class LambdaDouble(Cloud):
    """One account. `with_hosts`: machines that are active can be logged in to."""

    def __init__(
        self, folder: Path, *, clock: Clock | None = None, step: float = STEP_SECONDS, with_hosts: bool = False
    ) -> None:
        super().__init__(folder, clock=clock, step=step, key=KEY)
        self.with_hosts = with_hosts
        self.kinds: Sequence[Kind] = KINDS
        self.ssh_keys: list[dict[str, str]] = []
        self.most_instances = 10
        self.next = Plan()
        self.instances: dict[str, _Instance] = {}

    @property
    def url(self) -> str:
        return super().url + BASE

    @property
    def alive(self) -> list[str]:
        """Machines that were not terminated."""
        return [each for each, instance in self.instances.items() if instance.ended_polls is None]

    def dollars(self) -> float:
        """What the account was charged up to now."""
        return self.meter.read(self.time.now())

    def keep_pace(self) -> None:
        """Answer 429 to whoever launches more than five machines a minute, or asks more than once a second."""
        reply = refusal(429, "global/too-many-requests", "You have sent too many requests.")
        self.limit("launch", "POST", "/launch", seconds=12.0, replies=[reply])
        self.limit("types", "GET", "/instance-types", seconds=1.0, replies=[reply])
        self.limit("instances", "GET", "/instances", seconds=1.0, replies=[reply])

    def machine(self, instance_id: str) -> Machine:
        """The host behind an instance."""
        found = self.instances[instance_id].machine
        assert found is not None
        return found

    # The API

    def answer(self, asked: Asked) -> Reply:
        path = asked.path.removeprefix(BASE)
        key = asked.headers.get("authorization", "").removeprefix("Bearer ")
        if key not in (KEY, INACTIVE_KEY):
            return refusal(401, "global/invalid-api-key", "API key was invalid, expired, or deleted.")
        if key == INACTIVE_KEY and asked.method != "GET":
            return refusal(403, "global/account-inactive", "Your account is inactive.")
        one = re.fullmatch(r"/instances/([^/]+)", path)
        if one and asked.method == "GET":
            return self._show(one[1])
        handlers = {
            "GET /instance-types": self._types,
            "GET /instances": self._list,
            "POST /instance-operations/launch": self._launch,
            "POST /instance-operations/terminate": self._terminate,
            "GET /ssh-keys": lambda asked: Reply(200, {"data": self.ssh_keys}),
            "POST /ssh-keys": self._add_key,
        }
        handler = handlers.get(f"{asked.method} {path}")
        return handler(asked) if handler else refusal(404, "global/not-found", "The requested resource was not found.")

    def _types(self, asked: Asked) -> Reply:
        rows = {
            kind.name: {
                "instance_type": _type_json(kind, kind.cents),
                "regions_with_capacity_available": [_region_json(region) for region in kind.regions],
            }
            for kind in self.kinds
        }
        return Reply(200, {"data": rows})

    def _list(self, asked: Asked) -> Reply:
        shown = [self._json(each) for each in self.instances if self._status(self.instances[each]) != "terminated"]
        return Reply(200, {"data": shown})

    def _show(self, instance_id: str) -> Reply:
        instance = self.instances.get(instance_id)
        if instance is None:
            return refusal(404, "global/object-does-not-exist", "Specified instance does not exist.")
        instance.polls += 1
        if instance.ended_polls is not None:
            instance.ended_polls += 1
            plan = instance.plan
            if instance.ended_polls > plan.terminating_polls + plan.remembered_polls:
                return refusal(404, "global/object-does-not-exist", "Specified instance does not exist.")
        return Reply(200, {"data": self._json(instance_id)})

    def _launch(self, asked: Asked) -> Reply:
        body = asked.body
        kind = next((each for each in self.kinds if each.name == body.get("instance_type_name")), None)
        known = {key["name"] for key in self.ssh_keys}
        if len(body.get("name", "")) > 64 or body.get("quantity", 1) != 1 or len(body.get("ssh_key_names", ())) != 1:
            return refusal(400, "global/invalid-parameters", "Invalid request data.")
        if kind is None or not set(body["ssh_key_names"]) <= known:
            return refusal(404, "global/object-does-not-exist", "ssh key or instance type")
        if len(self.alive) >= self.most_instances:
            return refusal(400, "global/quota-exceeded", "Quota exceeded.")
        if body["region_name"] not in kind.regions:
            code = "instance-operations/launch/insufficient-capacity"
            return refusal(400, code, "Not enough capacity to fulfill launch asked.")
        instance_id = f"{len(self.instances) + 1:032x}"
        self.instances[instance_id] = _Instance(body, self.next, kind)
        price = (kind.cents if self.next.cents is None else self.next.cents) / 100
        self.next = Plan()
        self.meter.set(instance_id, self.time.now(), gpu_per_hour=price, disk_per_hour=0.0)
        return Reply(200, {"data": {"instance_ids": [instance_id]}})

    def _terminate(self, asked: Asked) -> Reply:
        ids = asked.body["instance_ids"]
        if not all(each in self.instances for each in ids):
            return refusal(404, "global/object-does-not-exist", "Specified instance does not exist.")
        for each in ids:
            instance = self.instances[each]
            if instance.ended_polls is None:
                instance.ended_polls = 0
                self.meter.stop(each, self.time.now())
                if instance.machine is not None:
                    instance.machine.end()
        return Reply(200, {"data": {"terminated_instances": [self._json(each) for each in ids]}})

    def _add_key(self, asked: Asked) -> Reply:
        name, line = asked.body["name"], asked.body["public_key"]
        if any(key["name"] == name for key in self.ssh_keys):
            return refusal(400, "global/duplicate", f"An SSH key with the name {name} already exists.")
        self.ssh_keys.append({"id": f"{len(self.ssh_keys):032x}", "name": name, "public_key": line})
        return Reply(200, {"data": self.ssh_keys[-1]})

    # A machine

    def _status(self, instance: _Instance) -> str:
        plan = instance.plan
        if instance.ended_polls is not None:
            return "terminating" if instance.ended_polls <= plan.terminating_polls - 1 else "terminated"
        return "booting" if instance.polls <= plan.booting_polls else plan.ends_as

    def _json(self, instance_id: str) -> dict[str, Any]:
        instance = self.instances[instance_id]
        body, plan, status = instance.body, instance.plan, self._status(instance)
        if status == "active" and self.with_hosts and instance.machine is None:
            keys = [key["public_key"] for key in self.ssh_keys if key["name"] in body["ssh_key_names"]]
            model = f"NVIDIA {instance.kind.gpu.replace('(', '').replace(')', '')}"
            instance.machine = self.machines.start(keys, gpus=[model] * instance.kind.gpus)
        row: dict[str, Any] = {
            "id": instance_id,
            "status": status,
            "ssh_key_names": body["ssh_key_names"],
            "file_system_names": [],
            "region": _region_json(body["region_name"]),
            "instance_type": _type_json(instance.kind, instance.kind.cents if plan.cents is None else plan.cents),
            "actions": {
                name: {"available": True} for name in ("migrate", "rebuild", "restart", "cold_reboot", "terminate")
            },
        }
        if body.get("name"):
            row["name"] = body["name"]
        if body.get("tags") and not plan.forgets_tags:
            row["tags"] = body["tags"]
        if status != "booting":
            row |= {"ip": "198.51.100.2", "private_ip": "10.0.2.100", "hostname": "198-51-100-2"}
        return row


def refusal(status: int, code: str, message: str) -> Reply:
    """How Lambda says no."""
    return Reply(status, {"error": {"code": code, "message": message, "suggestion": "Try something else."}})


def _region_json(name: str) -> dict[str, str]:
    return {"name": name, "description": REGIONS.get(name, "")}


def _type_json(kind: Kind, cents: int) -> dict[str, Any]:
    return {
        "name": kind.name,
        "description": f"{kind.gpus}x {kind.gpu}",
        "gpu_description": kind.gpu,
        "price_cents_per_hour": cents,
        "specs": {"vcpus": 26, "memory_gib": 225, "storage_gib": kind.storage_gib, "gpus": kind.gpus},
    }
