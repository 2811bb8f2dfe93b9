"""`gptops up` of several machines: a group of one's own, or machines of one cluster, rented."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher import console
from launcher.cli.consent import agree, show_plan
from launcher.cli.host_views import host_json
from launcher.cli.offer_views import plan_json

if TYPE_CHECKING:
    from launcher.books.ledger import InstanceRow, Ledger
    from launcher.clock import Clock
    from launcher.hosts.opening import Guard
    from launcher.hosts.planning import HostPlan
    from launcher.nodes.market import ClusterRequest
    from launcher.nodes.request import GroupRequest
    from launcher.paths import StatePaths
    from launcher.renting.market import RentRequest


def up_group(group: GroupRequest, state: StatePaths, clock: Clock, *, dry_run: bool, as_json: bool) -> None:
    """Open what is not open yet of a group of jobs.yaml. Nobody bills it, so nobody is asked."""
    from launcher.books.ledger import Ledger
    from launcher.hosts.closing import finish_leftovers
    from launcher.nodes.opening import GroupOpener

    for plan in group.plans:
        console.say(f"`{plan.name}` of the group `{group.name}`: {plan.cost}")
    if dry_run:
        return console.emit_json([plan.name for plan in group.plans]) if as_json else None
    with Ledger(state.ledger, clock) as ledger:
        finish_leftovers(ledger, state, clock, console.say)
    rows = GroupOpener(state, clock, console.say).open(group)
    return _told_group(rows, clock, as_json=as_json)


def up_cluster(
    wanted: ClusterRequest, state: StatePaths, clock: Clock, *, yes: bool, dry_run: bool, as_json: bool
) -> None:
    """Rent a group: like one machine, with all of them counted."""
    from launcher.books.ledger import Ledger
    from launcher.hosts.closing import finish_leftovers
    from launcher.hosts.deadman import Armer
    from launcher.nodes.cluster_renting import ClusterRenter
    from launcher.providers.by_name import open_networks, open_provider
    from launcher.renting.clusters import best_cluster, whole_plan
    from launcher.renting.guarding import guard_for
    from launcher.renting.markets import bad_machines

    asked, request = wanted.asked, wanted.request
    provider, networks = open_provider(asked.provider, state, clock=clock), open_networks(asked.provider, clock)
    if dry_run:
        plans = best_cluster(provider, request, bad_machines(state, clock, provider.name))
        return _show_cluster(plans, request, as_json=as_json)
    with Ledger(state.ledger, clock) as ledger:
        finish_leftovers(ledger, state, clock, console.say)

        def guard(own: Ledger) -> Guard:
            return guard_for(asked, request, provider, Armer(own, state, clock, console.say))

        renter = ClusterRenter(provider, networks, ledger, state, clock, console.say, guard)
        plans = renter.plans(request)
        _show_cluster(plans, request)
        agree(whole_plan(plans), renter.renter, request, yes=yes)
        rows = renter.rent(request, wanted.setup, first=plans)
    return _told_group(rows, clock, as_json=as_json)


def _show_cluster(plans: tuple[HostPlan, ...], request: RentRequest, *, as_json: bool = False) -> None:
    from launcher.renting.clusters import whole_plan
    from launcher.renting.ranking import forecast

    whole, work = whole_plan(plans), request.order.work
    show_plan(whole, request)
    for plan in plans:
        console.say(f"  `{plan.name}`: offer {plan.offer.offer_id}, {plan.cost}")
    if as_json:
        told = plan_json(whole, forecast(whole.offer, work) if work else None)
        console.emit_json({**told, "nodes": [plan_json(plan) for plan in plans]})


def _told_group(rows: list[InstanceRow], clock: Clock, *, as_json: bool) -> None:
    console.say(f"{len(rows)} nodes are ready; `gptops down {rows[0].group_name}` ends them")
    if as_json:
        console.emit_json([host_json(row, [], clock.now()) for row in rows])
    else:
        for row in rows:
            console.emit(row.name)
