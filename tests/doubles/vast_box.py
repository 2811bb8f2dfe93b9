"""One instance of the double of Vast: what its script lets happen to it, what it bills, and its row."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.doubles.machines import DRIVER, MODELS, Machine, Machines
from tests.doubles.meter import Meter
from tests.doubles.vast_market import HOURS_A_MONTH, Row


@dataclass(frozen=True)
class Script:
    """How an instance fares. Times are seconds of the double's clock; one question moves it by five."""

    created_after: float = 1.0
    """`null` before."""
    loading_after: float = 2.0
    running_after: float = 12.0
    stays: str = ""
    """This status for ever, from its turn on: `loading`."""
    oci_error: bool = False
    """Stays `created`, and says why."""
    ports_after: float = 0.0
    """After `running`: when the port map appears."""
    sshd_after: float = 0.0
    """After `running`: when sshd starts."""
    direct: bool = True
    """False: nobody gets through to the direct address."""
    proxy: bool = True
    gpus: Sequence[str] | str | None = None
    """What nvidia-smi shows; None: what was rented."""
    driver: str = DRIVER
    price_factor: float = 1.0
    """Of the quoted price: what it really costs."""
    on_demand_anyway: bool = False
    """A bid was sent, and it is billed on demand."""
    lingers: int = 0
    """Looks at which it is still there after a destroy that succeeded."""
    shows: tuple[Any, ...] = ()
    """What the first `show`s answer instead of the row: a Reply, or None for `instances: null`."""


@dataclass
class Box:
    """An instance. `settle` brings it up to a moment; everything else only reads or is an event."""

    instance_id: int
    ask: Row
    label: str
    created_at: float
    script: Script
    request: Mapping[str, Any]
    keys: list[str] = field(default_factory=list)
    inside: str = ""
    """Its address in the overlay it was created into: `10.1.0.2/24`."""
    machine: Machine | None = None
    key: str = field(default_factory=lambda: secrets.token_hex(16))
    stopped: bool = False
    offline: bool = False
    destroyed: bool = False
    lingering: int = 0
    shows: list[Any] = field(default_factory=list)
    runs_from: float = 0.0
    """The moment of `running`: after creation, and anew after each resume."""

    def __post_init__(self) -> None:
        self.shows = list(self.script.shows)
        self.runs_from = self.created_at + self.script.running_after

    @property
    def name(self) -> str:
        return str(self.instance_id)

    @property
    def bid(self) -> float | None:
        return None if self.script.on_demand_anyway else self.request.get("price")

    @property
    def gpu_per_hour(self) -> float:
        base = self.ask["dph_base"] if self.bid is None else self.bid
        return float(base) * self.script.price_factor

    @property
    def disk_per_hour(self) -> float:
        return float(self.ask["storage_cost"]) * float(self.request.get("disk") or 8) / HOURS_A_MONTH

    def status(self, now: float) -> str | None:
        """The vendor's word: null, created, loading, running, …"""
        if self.destroyed or self.stopped:
            return "exited"
        if self.offline:
            return "offline"
        age, script = now - self.created_at, self.script
        if age < script.created_after:
            return None
        if script.oci_error or age < script.loading_after:
            return "created"
        if script.stays or now < self.runs_from:
            return script.stays or "loading"
        return "running"

    def settle(self, now: float, meter: Meter, machines: Machines | None, environment: Mapping[str, str]) -> None:
        """Bill what is due, and let the machine start when its time has come."""
        if self.name not in meter.bills:
            meter.set(self.name, self.created_at, gpu_per_hour=0.0, disk_per_hour=self.disk_per_hour)
        if self.status(now) != "running":
            return
        if meter.of(self.name).gpu_per_hour == 0.0:
            since = max(self.runs_from, meter.of(self.name).charged_until)
            meter.set(self.name, since, gpu_per_hour=self.gpu_per_hour, disk_per_hour=self.disk_per_hour)
        if machines is not None and now >= self.runs_from + self.script.sshd_after:
            self._boot(machines, environment)

    def _boot(self, machines: Machines, environment: Mapping[str, str]) -> None:
        if self.machine is None:
            models = [MODELS.get(self.ask["gpu_name"], (self.ask["gpu_name"], 0))[0]] * self.ask["num_gpus"]
            shown = models if self.script.gpus is None else self.script.gpus
            self.machine = machines.start(
                self.keys, gpus=shown, driver=self.script.driver, environment=environment, booted=False
            )
        if not self.machine.is_up:
            self.machine.boot()
            if self.inside:
                self.machine.join(self.inside)

    def stop(self, now: float, meter: Meter) -> None:
        """Outbid, out of credit, or asked to: its processes die without notice, its disk stays and bills."""
        self.stopped = True
        meter.set(self.name, now, gpu_per_hour=0.0, disk_per_hour=self.disk_per_hour)
        self.cut()

    def lose(self, now: float, meter: Meter) -> None:
        """Offline: Vast cannot reach it, and does not charge."""
        self.offline = True
        meter.stop(self.name, now)
        self.cut()

    def resume(self, now: float, meter: Meter) -> None:
        """After a stop or a loss: running again at once, at another port."""
        self.stopped = self.offline = False
        self.runs_from = now
        meter.set(self.name, now, gpu_per_hour=0.0, disk_per_hour=self.disk_per_hour)

    def destroy(self, now: float, meter: Meter) -> None:
        self.destroyed = True
        self.lingering = self.script.lingers
        meter.stop(self.name, now)
        if self.machine is not None:
            self.machine.end()

    def cut(self) -> None:
        if self.machine is not None:
            self.machine.cut()

    def row(self, now: float, dead_port: int) -> Row:
        """What `show` and the list say, with the vendor's blanks and strings for numbers."""
        status = self.status(now)
        state = "stopped" if self.stopped else "running"
        direct, proxy = self._ports(dead_port)
        is_running = status == "running" and now >= self.runs_from + self.script.ports_after
        disk = float(self.request.get("disk") or 8)
        return {
            "id": self.instance_id,
            "machine_id": self.ask["machine_id"],
            "host_id": self.ask["host_id"],
            "label": self.label,
            "image_uuid": self.request.get("image"),
            "image_args": [],
            "image_runtype": self.request.get("runtype", "ssh_proxy"),
            "actual_status": status,
            "intended_status": state,
            "cur_state": state,
            "next_state": state,
            "status_msg": self._message(status),
            "ssh_host": "localhost",
            "ssh_port": proxy,
            "ssh_idx": "5",
            "public_ipaddr": f"{self.machine.address.host if self.machine else '127.0.0.1'} " if is_running else None,
            "local_ipaddrs": "10.0.0.5 172.17.0.2 \n",
            "ports": {"22/tcp": [{"HostIp": "0.0.0.0", "HostPort": str(direct)}]} if is_running else None,
            "direct_port_start": 40100,
            "direct_port_end": 40163,
            "direct_port_count": 64,
            "num_gpus": self.ask["num_gpus"],
            "gpu_name": self.ask["gpu_name"],
            "gpu_ram": self.ask["gpu_ram"],
            "gpu_util": 0.0,
            "gpu_arch": "nvidia",
            "cuda_max_good": str(self.ask["cuda_max_good"]),
            "driver_version": self.ask["driver_version"],
            "cpu_cores_effective": self.ask["cpu_cores_effective"],
            "cpu_ram": self.ask["cpu_ram"],
            "disk_space": disk,
            "disk_usage": -1,
            "dph_base": self.gpu_per_hour,
            "dph_total": round(self.gpu_per_hour + self.disk_per_hour, 6),
            "storage_cost": self.ask["storage_cost"],
            "storage_total_cost": self.disk_per_hour,
            "is_bid": self.bid is not None,
            "min_bid": self.ask["min_bid"],
            "start_date": self.created_at,
            "end_date": self.ask["end_date"],
            "duration": 86400.0,
            "uptime_mins": None,
            "extra_env": [[name, value] for name, value in (self.request.get("env") or {}).items()],
            "onstart": self.request.get("onstart"),
            "inet_up": self.ask["inet_up"],
            "inet_down": self.ask["inet_down"],
            "reliability2": self.ask["reliability2"],
            "verification": self.ask["verification"],
            "geolocation": self.ask["geolocation"],
            "static_ip": False,
            "template_id": None,
            "jupyter_token": None,
            "webpage": None,
        }

    def _ports(self, dead_port: int) -> tuple[int, int]:
        """Both ways lead to the one sshd, or to a port behind which nobody listens."""
        port = self.machine.address.port if self.machine is not None else dead_port
        return (port if self.script.direct else dead_port), (port if self.script.proxy else dead_port)

    def _message(self, status: str | None) -> str | None:
        if self.script.oci_error and status == "created":
            return "Error response from daemon: OCI runtime create failed: unable to start container process\n"
        return f"success, running {self.request.get('image')}\n" if status == "running" else None
