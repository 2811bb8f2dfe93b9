"""What Vast's market sells: the question, and each row of the answer as an Offer.

The question is broad: what is left out later is left out by renting.choice, which
says why. Only what could never be used is left out here.
"""

from __future__ import annotations

import logging
from typing import Any

from launcher.errors import ProviderError
from launcher.providers.base import Offer, Wanted
from launcher.providers.fields import Fields

LEAST_DISK_GIB = 8
"""Vast gives no smaller disk, and none can be resized later."""
MOST_ROWS = 2000
"""Rows come cheapest first; the API's own default of a few dozen would never reach an H100."""
BID_ABOVE_LOWEST = 1.1
"""Where nobody named a bid: the lowest one is the first to be outbid."""
HOURS_A_MONTH = 730.0
MIB_A_GIB = 1024.0
READY_SECONDS = 900.0
"""Normal are 1 to 5 minutes; ten were too few for images of many GB (dstack#2809), and a bad host takes for ever."""

log = logging.getLogger(__name__)


def search_body(wanted: Wanted) -> dict[str, Any]:
    """The filters of the official client, the number of GPUs, and a port for direct SSH: through Vast's proxy,
    a checkpoint would take hours."""
    body: dict[str, Any] = {
        "verified": {"eq": True},
        "external": {"eq": False},
        "rentable": {"eq": True},
        "rented": {"eq": False},
        "direct_port_count": {"gte": 1},
        "type": "bid" if wanted.spot else "on-demand",
        "order": [["dph_total", "asc"]],
        "limit": MOST_ROWS,
        "allocated_storage": float(disk_for(wanted.disk_gib)),
    }
    if wanted.gpus:
        body["num_gpus"] = {"eq": wanted.gpus}
    return body


def disk_for(wanted_gib: int) -> int:
    """The disk that is asked for."""
    return max(LEAST_DISK_GIB, wanted_gib)


def offers_of(rows: Any, wanted: Wanted) -> list[Offer]:
    """Every row that can be read, cheapest first. One odd row of a market is not worth an error; a list of nothing
    but odd rows is."""
    if not isinstance(rows, list):
        raise ProviderError("`vast` answered nonsense", why="`offers`: expected a list", hint="gptops offers, later")
    offers, unreadable = [], None
    for row in rows:
        try:
            fields = Fields.of(row, "an offer of `vast`")
            if _runs_our_wheels(fields):
                offers.append(_offer(fields, wanted))
        except ProviderError as error:
            log.warning("left out: %s: %s", error.what, error.why)
            unreadable = error
    if unreadable is not None and not offers:
        raise unreadable
    return sorted(offers, key=lambda offer: offer.price_per_hour)


def _runs_our_wheels(row: Fields) -> bool:
    """torch for CUDA on x86: nothing else is asked for by our images."""
    return row.text("gpu_arch", "nvidia") == "nvidia" and row.text("cpu_arch", "amd64") in ("amd64", "x86_64")


def _offer(row: Fields, wanted: Wanted) -> Offer:
    gpus, gpu_name = row.whole("num_gpus"), row.text("gpu_name", "")
    location = row.text("geolocation", "").strip(", ")
    disk_per_hour = _disk_per_hour(row, wanted)
    min_bid = row.number("min_bid") if wanted.spot else None
    gpu_ram = row.optional_number("gpu_ram")
    return Offer(
        provider="vast",
        offer_id=str(row.whole("id")),
        description=", ".join(part for part in (f"{gpus}x {gpu_name}".strip(), location) if part),
        gpus=gpus,
        gpu_name=gpu_name,
        price_per_hour=row.number("dph_total") if min_bid is None else _bid(wanted, min_bid) + disk_per_hour,
        disk_per_hour=disk_per_hour,
        # Vast's words are the machine's: what comes in is what we send up.
        upload_usd_per_gb=row.number("inet_down_cost", 0.0),
        download_usd_per_gb=row.number("inet_up_cost", 0.0),
        spot=wanted.spot,
        min_bid=min_bid,
        machine_id=row.text("machine_id", ""),
        location=location,
        reliability=_first(row, "reliability2", "reliability"),
        download_mbps=row.optional_number("inet_down"),
        upload_mbps=row.optional_number("inet_up"),
        cuda=row.optional_number("cuda_max_good"),
        disk_gib=row.optional_number("disk_space"),
        gpu_ram_gib=None if gpu_ram is None else gpu_ram / MIB_A_GIB,
        driver=row.text("driver_version", ""),
        cluster_id=row.text("cluster_id", ""),
        ready_within_seconds=READY_SECONDS,
    )


def _bid(wanted: Wanted, min_bid: float) -> float:
    """For the GPUs; the disk comes on top, for bids too."""
    return min_bid * BID_ABOVE_LOWEST if wanted.bid is None else wanted.bid


def _disk_per_hour(row: Fields, wanted: Wanted) -> float:
    total = row.optional_number("storage_total_cost")
    if total is not None:
        return total
    return row.number("storage_cost", 0.0) * disk_for(wanted.disk_gib) / HOURS_A_MONTH


def _first(row: Fields, *names: str) -> float | None:
    return next((found for name in names if (found := row.optional_number(name)) is not None), None)
