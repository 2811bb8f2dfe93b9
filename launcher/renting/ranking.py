"""What a job would cost on an offer, and which offer comes first.

    hours = FLOPs of the run ÷ (GPUs × peak × expected MFU)
    cost  = hours × price, and the checkpoints' way home by the byte

Pure arithmetic on trainer.sizing's numbers: an estimate for ranking, which leaves out the
set-up, the upload, and what a pre-emption repeats. A GPU with too little memory for the job
stands after those with enough, one whose peak nobody knows after all of them.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable
from dataclasses import dataclass

from launcher.providers.base import Offer
from trainer.config import RunConfig
from trainer.sizing import ASSUMED_MFU, peak_flops, training_plan

CONTEXT_GIB = 1.0
"""What CUDA itself takes of a GPU's memory, beside what trainer.sizing estimates."""


class SortBy(str, enum.Enum):
    """What comes first in the list."""

    COST = "cost"
    """The cheapest for the job; without a job, by the hour."""
    PRICE = "price"
    RELIABILITY = "reliability"
    BANDWIDTH = "bandwidth"
    """By the way home, from the machine to the internet."""


@dataclass(frozen=True)
class Workload:
    """What a job does, whatever machine it is on."""

    flops: float
    gpus: int
    home_bytes: int
    """All its checkpoints together."""
    gpu_gib: float = 0.0
    """Memory it is estimated to take on each GPU."""


@dataclass(frozen=True)
class Forecast:
    """One job on one offer. US dollars."""

    hours: float
    gpu_usd: float
    disk_usd: float
    bandwidth_usd: float
    is_tight: bool = False
    """The GPU has less memory than the job is estimated to take. An estimate: the offer is not left out for it."""

    @property
    def total(self) -> float:
        return self.gpu_usd + self.disk_usd + self.bandwidth_usd


@dataclass(frozen=True)
class Ranked:
    """An offer, and what the job would cost there; None where there is no job, or no known peak."""

    offer: Offer
    forecast: Forecast | None = None


@dataclass(frozen=True)
class Order:
    """How offers are ranked."""

    by: SortBy = SortBy.COST
    work: Workload | None = None

    def ranked(self, offers: Iterable[Offer]) -> tuple[Ranked, ...]:
        """The best first. Equal offers stand by their ids, so that two looks show the same."""
        found = [Ranked(offer, forecast(offer, self.work) if self.work else None) for offer in offers]
        return tuple(sorted(found, key=self._key))

    def _key(self, ranked: Ranked) -> tuple[float | str, ...]:
        offer = ranked.offer
        reliability = -(offer.reliability or 0.0)
        tie = (offer.price_per_hour, reliability, offer.offer_id)
        if self.by is SortBy.RELIABILITY:
            return (reliability, *tie)
        if self.by is SortBy.BANDWIDTH:
            return (-(offer.upload_mbps or 0.0), *tie)
        if self.by is SortBy.COST and self.work is not None:
            found = ranked.forecast
            return (math.inf, *tie) if found is None else (float(found.is_tight), found.total, *tie)
        return tie


def workload(config: RunConfig, gpus: int) -> Workload | None:
    """What training by `config` on `gpus` GPUs amounts to; None on a CPU, whose speed nobody lists."""
    if not gpus:
        return None
    plan = training_plan(config, gpus)
    # One every so many steps and one at the end come home.
    checkpoints = math.ceil(plan.steps / config.checkpoint.every_steps)
    return Workload(plan.flops, gpus, plan.checkpoint_bytes * checkpoints, plan.memory.total / 2**30 + CONTEXT_GIB)


def forecast(offer: Offer, work: Workload) -> Forecast | None:
    """The job on this offer; None where its GPU's peak is not known. Only as many GPUs as the job wants work."""
    peak = peak_flops(offer.gpu_name)
    gpus = min(work.gpus, offer.gpus)
    if peak is None or not gpus:
        return None
    hours = work.flops / (gpus * peak * ASSUMED_MFU) / 3600
    gpu_price = max(0.0, offer.price_per_hour - offer.disk_per_hour)
    return Forecast(
        hours,
        hours * gpu_price,
        hours * offer.disk_per_hour,
        work.home_bytes / 1e9 * offer.download_usd_per_gb,
        is_tight=offer.gpu_ram_gib is not None and offer.gpu_ram_gib < work.gpu_gib,
    )
