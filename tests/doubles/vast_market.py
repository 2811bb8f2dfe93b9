"""What the double of Vast sells: rows as the real search shows them, filtered as it filters them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tests.doubles.machines import MODELS

Row = dict[str, Any]

HOURS_A_MONTH = 730.0
NOT_FILTERS = {"type", "order", "limit", "allocated_storage", "disable_bundling"}
COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "neq": operator.ne,
    "gt": operator.gt,
    "lt": operator.lt,
    "gte": operator.ge,
    "lte": operator.le,
    "in": lambda value, among: value in among,
    "notin": lambda value, among: value not in among,
}


class BadQuery(Exception):
    """What the search answers 400 to."""


def offer_row(ask_id: int, gpu_name: str, gpus: int, gpu_per_hour: float, **changes: Any) -> Row:
    """One row; `gpu_per_hour` is the machine's, without disk."""
    memory = MODELS.get(gpu_name, (gpu_name, 24576))[1]
    row = {
        "id": ask_id,
        "ask_contract_id": ask_id,
        "machine_id": 80_000 + ask_id % 1000,
        "host_id": 500 + ask_id % 1000,
        "gpu_name": gpu_name,
        "num_gpus": gpus,
        "gpu_ram": memory,
        "gpu_total_ram": memory * gpus,
        "gpu_frac": 1.0,
        "gpu_arch": "nvidia",
        "compute_cap": 900 if gpu_name.startswith("H100") else 890,
        "cuda_max_good": 13.0,
        "driver_version": "580.65.06",
        "cpu_arch": "amd64",
        "cpu_cores": 128,
        "cpu_cores_effective": 16.0 * gpus,
        "cpu_ram": 1031000,
        "disk_space": 2048.5,
        "disk_bw": 1234.5,
        "inet_up": 2000.0,
        "inet_down": 4000.0,
        "inet_up_cost": 0.004,
        "inet_down_cost": 0.002,
        "direct_port_count": 42,
        "static_ip": True,
        "dph_base": gpu_per_hour,
        "min_bid": round(gpu_per_hour / 2, 4),
        "storage_cost": 0.15,
        "dlperf": 30.0 * gpus,
        "dlperf_per_dphtotal": round(30.0 * gpus / gpu_per_hour, 2),
        "score": round(1000.0 / gpu_per_hour, 2),
        "reliability": 0.995,
        "reliability2": 0.995,
        "verification": "verified",
        "rentable": True,
        "rented": False,
        "external": None,
        "geolocation": "Oregon, US",
        "public_ipaddr": "203.0.113.42",
        "hosting_type": 1,
        "start_date": 1.75e9,
        "end_date": 1.89e9,
        "duration": 1_234_567.8,
        "cluster_id": None,
        "bundle_id": 900_000 + ask_id,
        "cpu_name": "EPYC 9554",
        "gpu_mem_bw": 2039.0,
        "pcie_bw": 24.0,
        "flops_per_dphtotal": 30.0,
        "total_flops": 60.0 * gpus,
    }
    return row | changes


def usual_market() -> list[Row]:
    """A small market with each kind of trap in it."""
    return [
        offer_row(1001, "RTX 4090", 1, 0.40, geolocation="Sweden, SE"),
        offer_row(1002, "RTX 4090", 2, 0.78, geolocation="Texas, US"),
        offer_row(1003, "RTX 3090", 1, 0.20, reliability2=0.90, reliability=0.90),
        offer_row(1004, "H100 SXM", 1, 2.10),
        offer_row(1005, "H100 SXM", 1, 2.30, geolocation="Germany, DE"),
        offer_row(1006, "H100 SXM", 8, 17.60),
        offer_row(1007, "H100 SXM", 8, 18.40, geolocation="Germany, DE"),
        offer_row(1008, "A100 SXM4", 8, 9.60),
        offer_row(1009, "RTX 4090", 1, 0.30, cuda_max_good=12.4, driver_version="550.54.15"),
        offer_row(1010, "RTX 4090", 1, 0.25, verification="unverified"),
        offer_row(1011, "RTX 4090", 1, 0.28, direct_port_count=0),
        offer_row(1012, "RTX 4090", 1, 0.35, disk_space=30.0),
    ]


def priced(row: Row, *, storage_gib: float, bid: bool) -> Row:
    """The row with its prices for this much disk, as a search of that type shows it."""
    disk = row["storage_cost"] * storage_gib / HOURS_A_MONTH
    base = row["min_bid"] if bid else row["dph_base"]
    total = round(base + disk, 6)
    search = {
        "gpuCostPerHour": base,
        "diskHour": disk,
        "totalHour": total,
        "discountTotalHour": 0,
        "discountedTotalPerHour": total,
    }
    return row | {"dph_base": base, "dph_total": total, "storage_total_cost": disk, "is_bid": bid, "search": search}


def found(rows: Iterable[Row], query: Mapping[str, Any]) -> list[Row]:
    """The rows that the search shows for this body."""
    bid = query.get("type") in ("bid", "interruptible")
    storage = float(query.get("allocated_storage", 5.0))
    filters = {name: tests for name, tests in query.items() if name not in NOT_FILTERS}
    shown = [priced(row, storage_gib=storage, bid=bid) for row in rows]
    shown = [row for row in shown if all(_passes(row, name, tests) for name, tests in filters.items())]
    for column, direction in reversed(query.get("order") or []):
        shown.sort(key=lambda row: row.get(column) or 0, reverse=direction == "desc")
    return shown[: int(query.get("limit", 64))]


def _passes(row: Row, name: str, tests: Any) -> bool:
    if not isinstance(tests, Mapping):
        raise BadQuery(f"Error in query parameters: {name} needs an operator")
    value = _value(row, name)
    for word, other in tests.items():
        if word not in COMPARE:
            raise BadQuery(f"Error in query parameters: {word} is not an operator")
        if not COMPARE[word](value, _like(value, other)):
            return False
    return True


def _like(value: Any, other: Any) -> Any:
    """The official client sends numbers as text, and the real search takes them."""
    if isinstance(other, list):
        return [_like(value, each) for each in other]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not isinstance(other, str):
        return other
    try:
        return float(other)
    except ValueError:
        raise BadQuery(f"Error in query parameters: {other} is no number") from None


def _value(row: Row, name: str) -> Any:
    """`verified` is a filter and no column; null is false where a flag is asked for."""
    if name == "verified":
        return row["verification"] == "verified"
    if name not in row:
        raise BadQuery(f"Error in query parameters: {name} is not a valid search key")
    return False if row[name] is None else row[name]
