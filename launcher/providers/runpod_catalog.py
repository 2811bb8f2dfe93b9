"""What RunPod sells, as offers: one for each GPU type, cloud and data center that has stock.

Pure: runpod.py asks the catalog. Prices in it are for one GPU, without the disk.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

from launcher.providers.base import Offer, Wanted
from launcher.providers.fields import Fields

Cloud = Literal["SECURE", "COMMUNITY"]
CLOUDS: tuple[Cloud, ...] = ("SECURE", "COMMUNITY")

CLUSTER_CLOUDS: tuple[Cloud, ...] = ("SECURE",)
"""A request for a cluster names no cloud: clusters are of data centers."""
CLUSTER_SHARE = 1.2
"""What a GPU in a cluster costs beside one in a pod. The API tells no price of clusters, and bills their network as a
part of its own: somebody was charged $1.908 an hour for an A100 that the catalog had at $1.59. Once it is there, the
pod's own `cost` counts."""

DISK_USD_PER_GB_HOUR = 0.10 / 730
"""Container disk of a running pod (docs.runpod.io/pods/pricing: $0.10 a GB and month); a month has 730 hours."""
LEAST_DISK_GIB = 20
"""The image's own layers do not count, but what setup installs does."""
_ANYWHERE = "anywhere"
READY_SECONDS = 1200.0
"""dstack gives RunPod this long to pull an image before it takes another machine."""


def offers_of(catalog: Any, cloud: Cloud, wanted: Wanted) -> Iterator[Offer]:
    """The offers of one answer of `GET /catalog/gpus` that was asked for `cloud`."""
    for row in Fields.of(catalog, "runpod's catalog").row.get("gpus") or []:
        gpu = Fields.of(row, "runpod's GPU type")
        if _could_be_created(gpu, cloud, wanted):
            for center in _data_centers(gpu):
                yield _offer(gpu, cloud, center, wanted)


def in_cluster(offer: Offer, nodes: int) -> list[Offer]:
    """The offer as so many nodes of one cluster in its data center: one each."""
    price = CLUSTER_SHARE * (offer.price_per_hour - offer.disk_per_hour) + offer.disk_per_hour
    center = data_center_of(offer) or _ANYWHERE
    rest = offer.offer_id.partition(":")[2]
    return [
        replace(offer, offer_id=f"cluster{node}of{nodes}:{rest}", price_per_hour=price, cluster_id=center)
        for node in range(nodes)
    ]


def count_of(wanted: Wanted) -> int:
    """GPUs a pod gets. The catalog has no pods without any."""
    return max(1, wanted.gpus)


def disk_gb(disk_gib: float) -> int:
    """RunPod counts in GB."""
    return math.ceil(max(disk_gib, LEAST_DISK_GIB) * 2**30 / 1e9)


def disk_per_hour(gigabytes: float) -> float:
    """US dollars."""
    return gigabytes * DISK_USD_PER_GB_HOUR


def cloud_of(offer: Offer) -> str:
    """SECURE or COMMUNITY."""
    return offer.offer_id.split(":")[0].upper()


def data_center_of(offer: Offer) -> str | None:
    """`US-KS-2`; None where RunPod decides the place."""
    center = offer.offer_id.split(":")[1]
    return None if center == _ANYWHERE else center


def cuda_floor(offer: Offer) -> str | None:
    """The CUDA version that the machine must reach: `12.8`."""
    return offer.offer_id.partition(":cuda")[2] or None


def _could_be_created(gpu: Fields, cloud: Cloud, wanted: Wanted) -> bool:
    """AMD's GPUs run none of our wheels; a type without stock or on too small machines cannot be had."""
    word = cloud.lower()
    most = Fields.of(gpu.row.get("maxCount") or {}, "runpod's maxCount").whole(word, 0)
    sold = gpu.flag(word) and most >= count_of(wanted) and gpu.text("availability", "NONE") != "NONE"
    nvidia = gpu.text("manufacturer", "NVIDIA").upper() == "NVIDIA"
    return sold and nvidia


def _data_centers(gpu: Fields) -> list[str]:
    """Those with stock. None are named where RunPod alone decides the place: one offer without a place."""
    centers = [Fields.of(each, "runpod's data center") for each in gpu.row.get("dataCenters") or []]
    named = [center.text("id") for center in centers if center.text("availability", "NONE") != "NONE"]
    return named if centers else [""]


def _offer(gpu: Fields, cloud: Cloud, center: str, wanted: Wanted) -> Offer:
    count, name = count_of(wanted), gpu.text("id")
    disk = disk_per_hour(disk_gb(wanted.disk_gib))
    one_gpu = Fields.of(gpu.row.get("price"), f"runpod's price of {name}").number(cloud.lower())
    place = ", ".join(filter(None, (center, f"{cloud.lower()} cloud")))
    return Offer(
        provider="runpod",
        offer_id=_offer_id(cloud, center, count, name, wanted),
        description=f"{count}x {name}, {place}",
        gpus=count,
        gpu_name=name,  # the id, `NVIDIA H100 80GB HBM3`: the one of its two names that nvidia-smi says too
        price_per_hour=count * one_gpu + disk,
        disk_per_hour=disk,
        location=place,  # so that `--region secure` leaves machines of private people out
        cuda=_newest_cuda(gpu),
        gpu_ram_gib=gpu.optional_number("memory"),
        ready_within_seconds=READY_SECONDS,
    )


def _offer_id(cloud: Cloud, center: str, count: int, name: str, wanted: Wanted) -> str:
    """Without blanks, to be pasted behind --offer. Its first and last part say what else `create` must ask for."""
    floor = f":cuda{wanted.min_cuda:.1f}" if wanted.min_cuda is not None else ""
    return f"{cloud.lower()}:{center or _ANYWHERE}:{count}x{name.replace(' ', '-')}{floor}"


def _newest_cuda(gpu: Fields) -> float | None:
    """The newest version that a machine with free GPUs has now."""
    rows = [Fields.of(each, "runpod's CUDA version") for each in gpu.row.get("cudaVersions") or []]
    free = [row.number("version") for row in rows if row.flag("available")]
    return max(free, default=None)
