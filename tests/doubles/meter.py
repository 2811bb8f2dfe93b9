"""A billing meter: what a cloud's double would have charged, in dollars; GPU, disk and bandwidth apart.

meter.set(instance_id, at, gpu_per_hour=2.0, disk_per_hour=0.04)   # from that moment on; earlier time is charged
meter.stop(instance_id, at)                                        # nothing from that moment on
meter.read(at)                                                     # charge everybody up to that moment
meter.of(instance_id).gpu, .disk, .bandwidth, .total; meter.total, meter.per_hour
"""

from __future__ import annotations

from dataclasses import dataclass, field

SECONDS_AN_HOUR = 3600.0


@dataclass
class Bill:
    """One instance's account."""

    gpu: float = 0.0
    disk: float = 0.0
    bandwidth: float = 0.0
    gpu_per_hour: float = 0.0
    disk_per_hour: float = 0.0
    charged_until: float = 0.0

    @property
    def total(self) -> float:
        return self.gpu + self.disk + self.bandwidth

    @property
    def per_hour(self) -> float:
        """What it charges now."""
        return self.gpu_per_hour + self.disk_per_hour

    def charge(self, until: float) -> None:
        """Time never runs backwards on a bill."""
        hours = max(0.0, until - self.charged_until) / SECONDS_AN_HOUR
        self.gpu += hours * self.gpu_per_hour
        self.disk += hours * self.disk_per_hour
        self.charged_until = max(self.charged_until, until)


@dataclass
class Meter:
    """The accounts of all instances, the ended ones included."""

    bills: dict[str, Bill] = field(default_factory=dict)

    def set(self, instance_id: str, at: float, *, gpu_per_hour: float, disk_per_hour: float) -> None:
        """New prices from `at` on."""
        bill = self.bills.setdefault(instance_id, Bill(charged_until=at))
        bill.charge(at)
        bill.gpu_per_hour, bill.disk_per_hour = gpu_per_hour, disk_per_hour

    def stop(self, instance_id: str, at: float) -> None:
        """Nothing more from `at` on."""
        self.set(instance_id, at, gpu_per_hour=0.0, disk_per_hour=0.0)

    def transfer(self, instance_id: str, usd: float) -> None:
        """Bandwidth, which is billed by the byte."""
        self.bills.setdefault(instance_id, Bill()).bandwidth += usd

    def read(self, at: float) -> float:
        """Charge every account up to `at`; the total."""
        for bill in self.bills.values():
            bill.charge(at)
        return self.total

    def of(self, instance_id: str) -> Bill:
        """One account; an empty one for an instance that never billed."""
        return self.bills.get(instance_id, Bill())

    @property
    def total(self) -> float:
        """Dollars, as far as they were charged."""
        return sum(bill.total for bill in self.bills.values())

    @property
    def per_hour(self) -> float:
        """What all instances together charge an hour now: 0 when nothing bills."""
        return sum(bill.per_hour for bill in self.bills.values())
