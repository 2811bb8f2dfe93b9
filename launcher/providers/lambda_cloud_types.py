"""Lambda's instance types, as offers: one for each type and region that has capacity now. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from launcher.providers.base import Offer, Wanted
from launcher.providers.fields import Fields

READY_SECONDS = 1800.0
"""dstack gives Lambda this long; a machine of eight GPUs often takes ten to fifteen minutes."""


def offers_of(types: Any, wanted: Wanted) -> Iterator[Offer]:
    """The offers of one answer of `GET /instance-types`."""
    for row in Fields.of(types, "lambda's list of instance types").row.values():
        item = Fields.of(row, "lambda's instance type")
        kind = Fields.of(item.row.get("instance_type"), "lambda's instance type")
        specs = Fields.of(kind.row.get("specs"), "lambda's specs")
        gpus, model = specs.whole("gpus", 0), _model(kind)
        right_count = gpus == wanted.gpus if wanted.gpus else gpus > 0
        if right_count:
            for region in item.row.get("regions_with_capacity_available") or []:
                yield _offer(kind, specs, model, Fields.of(region, "lambda's region"))


def type_and_region(offer: Offer) -> tuple[str, str]:
    """What a launch is told."""
    kind, _, region = offer.offer_id.partition(":")
    return kind, region


def price_per_hour(kind: Fields) -> float:
    """US dollars for the whole machine, its disk included."""
    return kind.number("price_cents_per_hour") / 100


def _model(kind: Fields) -> str:
    """`H100 (80 GB SXM5)`; of `8x H100 (80 GB SXM5)` where the answer has no field for the GPU alone."""
    return kind.text("gpu_description", "") or kind.text("description", "").partition("x ")[2] or kind.text("name")


def _offer(kind: Fields, specs: Fields, model: str, region: Fields) -> Offer:
    gpus, place = specs.whole("gpus"), region.text("name")
    where = ", ".join(filter(None, (region.text("description", ""), place)))
    return Offer(
        provider="lambda_cloud",
        offer_id=f"{kind.text('name')}:{place}",
        description=f"{gpus}x {model}, {where}",
        gpus=gpus,
        gpu_name=model,
        price_per_hour=price_per_hour(kind),
        location=where,
        disk_gib=specs.optional_number("storage_gib"),
        ready_within_seconds=READY_SECONDS,
    )
