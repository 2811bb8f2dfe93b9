"""Machines for a run on several: offers of one physical cluster that are alike, ranked by what the job costs on all.

Alike before any money is spent: the same GPUs, the same number of them, the same driver, and no machine twice. What
several of them are together is an Offer again (`whole`), so everything that ranks, budgets and shows offers takes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from launcher.errors import NoOffer
from launcher.hosts.planning import HostPlan, described, plan_for
from launcher.providers.base import Offer, Provider, Wanted
from launcher.providers.networks import machine_label
from launcher.renting.choice import Choice, no_offer
from launcher.renting.market import RentRequest, sorted_out
from launcher.renting.ranking import Order
from launcher.spec.together import INSTEAD


@dataclass(frozen=True)
class Cluster:
    """Machines that would be opened together, the best of their cluster first."""

    offers: tuple[Offer, ...]

    @property
    def whole(self) -> Offer:
        """All of them as one: sums of what is paid, the worst of what the slowest decides."""
        first = self.offers[0]
        return replace(
            first,
            offer_id="+".join(offer.offer_id for offer in self.offers),
            description=f"{len(self.offers)} machines of cluster {first.cluster_id}, each {first.description}",
            gpus=sum(offer.gpus for offer in self.offers),
            price_per_hour=sum(offer.price_per_hour for offer in self.offers),
            disk_per_hour=sum(offer.disk_per_hour for offer in self.offers),
            upload_usd_per_gb=sum(offer.upload_usd_per_gb for offer in self.offers),
            download_usd_per_gb=max(offer.download_usd_per_gb for offer in self.offers),
            min_bid=None if first.min_bid is None else sum(offer.min_bid or 0.0 for offer in self.offers),
            machine_id="",
            reliability=_least(offer.reliability for offer in self.offers),
            download_mbps=_least(offer.download_mbps for offer in self.offers),
            upload_mbps=_least(offer.upload_mbps for offer in self.offers),
            cuda=_least(offer.cuda for offer in self.offers),
            disk_gib=_least(offer.disk_gib for offer in self.offers),
            gpu_ram_gib=_least(offer.gpu_ram_gib for offer in self.offers),
        )


def clusters(choice: Choice, nodes: int, order: Order) -> tuple[Cluster, ...]:
    """Every kind of machine of every cluster that has enough of it, the best whole first."""
    kinds: dict[tuple[str, str, int, str], list[Offer]] = {}
    for ranked in choice.fitting:
        offer = ranked.offer
        if offer.cluster_id:
            _add(offer, kinds.setdefault((offer.cluster_id, offer.gpu_name, offer.gpus, offer.driver), []))
    found = [Cluster(tuple(offers[:nodes])) for offers in kinds.values() if len(offers) >= nodes]
    by_id = {cluster.whole.offer_id: cluster for cluster in found}
    return tuple(by_id[ranked.offer.offer_id] for ranked in order.ranked(cluster.whole for cluster in found))


def of_clusters(choice: Choice, request: RentRequest, provider: str) -> Choice:
    """The same with several machines of one cluster in the place of each. Raises NoOffer where there are none."""
    found = clusters(choice, request.nodes, request.order)
    if not found:
        raise no_cluster(choice, request.wanted, request.nodes, provider)
    return Choice(request.order.ranked(cluster.whole for cluster in found), choice.left_out)


def best_cluster(
    provider: Provider, request: RentRequest, bad: Mapping[str, str], *, besides: frozenset[str] = frozenset()
) -> tuple[HostPlan, ...]:
    """The best machines of one cluster, taken in thought: one plan a machine. Raises NoOffer."""
    choice = sorted_out(provider, request, bad, besides=besides)
    found = clusters(choice, request.nodes, request.order)
    if not found:
        raise no_cluster(choice, request.wanted, request.nodes, provider.name)
    return _plans(found[0], request)


def no_cluster(choice: Choice, wanted: Wanted, nodes: int, provider: str) -> NoOffer:
    """Nothing fits: what there is instead, and what to type."""
    if not choice.fitting:
        return no_offer(choice, wanted, provider)
    in_clusters = [ranked.offer for ranked in choice.fitting if ranked.offer.cluster_id]
    alone = len(choice.fitting) - len(in_clusters)
    why = f"{len(choice.fitting)} machines fit, {alone} of them in no cluster: no private network between the boxes"
    if in_clusters:
        why += f"; no cluster has {nodes} that are alike: {_counted(in_clusters)}"
    if choice.left_out:
        why += f"; left out: {choice.words}"
    return NoOffer(
        f"`{provider}` has no {nodes} machines with {described(wanted)} in one cluster",
        why=why,
        hint=f"one larger machine (gptops offers --gpus {nodes * wanted.gpus}), or {INSTEAD}",
    )


def whole_plan(plans: tuple[HostPlan, ...]) -> HostPlan:
    """All plans as one, under the group's name: for asking, budgets and words. Nothing is opened by it."""
    first = plans[0]
    return replace(first, name=first.group_name, offer=Cluster(tuple(plan.offer for plan in plans)).whole)


def _add(offer: Offer, offers: list[Offer]) -> None:
    """A machine that is offered in several ways is one node."""
    if not offer.machine_id or all(offer.machine_id != other.machine_id for other in offers):
        offers.append(offer)


def _plans(cluster: Cluster, request: RentRequest) -> tuple[HostPlan, ...]:
    first = plan_for(cluster.offers[0], request.wanted, project=request.project, image=request.image, name=request.name)
    group = first.name
    plans = []
    for number, offer in enumerate(cluster.offers):
        plan = plan_for(offer, request.wanted, project=request.project, image=request.image, name=f"{group}-{number}")
        label = machine_label(first.label, number)
        plans.append(replace(plan, label=label, group_name=group, network_label=first.label))
    return tuple(plans)


def _counted(offers: Iterable[Offer]) -> str:
    counts: dict[str, int] = {}
    for offer in offers:
        driver = f", driver {offer.driver}" if offer.driver else ""
        kind = f"cluster {offer.cluster_id}: {offer.gpus}x {offer.gpu_name}{driver}"
        counts[kind] = counts.get(kind, 0) + 1
    return "; ".join(f"{kind} ({count})" for kind, count in sorted(counts.items(), key=lambda item: -item[1])[:3])


def _least(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return min(known, default=None)
