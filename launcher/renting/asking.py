"""From what a person asked for to what a market is asked: the job's length, its image's CUDA, its budget."""

from __future__ import annotations

from dataclasses import replace

from launcher.books.budget import Limits
from launcher.renting.cuda import needed_cuda
from launcher.renting.market import DEADLINE_SECONDS, TRIES, RentRequest
from launcher.renting.ranking import Order, SortBy, workload
from launcher.running.render import constraints
from launcher.spec.host_request import OWN, HostRequest

OWN_TORCH = (*OWN, "lambda_cloud")
"""Whose machines take no image: what their torch needs, setup.sh sees there, beside the driver."""


def rent_request(
    asked: HostRequest,
    project: str,
    *,
    name: str | None = None,
    sort: SortBy = SortBy.COST,
    deadline_seconds: float = DEADLINE_SECONDS,
    tries: int = TRIES,
    nodes: int = 1,
) -> RentRequest:
    """The request of `gptops up` and `gptops offers`; the job's work is spread over `nodes` machines."""
    wanted = replace(asked.wanted, nodes=nodes)
    if asked.provider not in OWN_TORCH and wanted.gpus:
        wanted = replace(wanted, min_cuda=needed_cuda(asked.image, constraints()))
    work = workload(asked.train, nodes * wanted.gpus) if asked.train is not None else None
    budget = asked.job.budget if asked.job is not None else None
    return RentRequest(
        wanted,
        project,
        image=asked.image,
        name=name,
        offer_id=asked.offer_id,
        order=Order(sort, work),
        limits=Limits(budget.max_usd, budget.max_hours, budget.max_usd_per_hour) if budget is not None else Limits(),
        deadline_seconds=deadline_seconds,
        tries=tries,
        nodes=nodes,
    )
