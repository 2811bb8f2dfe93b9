"""Which machines of a market train together: one cluster's, alike, the cheapest for the job on all of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from launcher.errors import NoOffer
from launcher.providers.base import Offer, Wanted
from launcher.renting.choice import choose
from launcher.renting.clusters import Cluster, clusters, no_cluster
from launcher.renting.ranking import Order, Workload, forecast

WANTED = Wanted(gpus=8)


def offer(offer_id: str, cluster: str = "77", *, price: float = 16.0, machine: str = "", **changes: object) -> Offer:
    made = Offer("vast", offer_id, f"8x H100 SXM, {offer_id}", 8, "H100 SXM", price, cluster_id=cluster,
                 machine_id=machine or offer_id, driver="580.65.06")  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


def found(offers: list[Offer], nodes: int, order: Order | None = None) -> list[str]:
    order = order or Order()
    return [each.whole.offer_id for each in clusters(choose(offers, WANTED, order=order), nodes, order)]


def test_machines_of_one_cluster_are_taken_together_and_those_of_none_not_at_all() -> None:
    market = [offer("1"), offer("2", "78"), offer("3"), offer("4", "", price=1.0), offer("5", "", price=1.0)]
    assert found(market, 2) == ["1+3"]
    assert found(market, 3) == []


@pytest.mark.parametrize("odd", [{"driver": "550.54"}, {"gpu_name": "H200"}, {"gpus": 16}], ids=str)
def test_machines_that_are_not_alike_are_no_group_before_any_money_is_spent(odd: dict[str, object]) -> None:
    assert found([offer("1"), offer("2", **odd)], 2) == []  # type: ignore[arg-type]


def test_a_machine_that_is_offered_twice_is_one_node() -> None:
    assert found([offer("1", machine="m"), offer("2", machine="m"), offer("3", machine="n")], 2) == ["1+3"]


def test_clusters_are_ranked_by_what_all_their_machines_cost_and_not_by_the_cheapest_of_them() -> None:
    market = [offer("1", "77", price=10.0), offer("2", "77", price=30.0), offer("3", "78"), offer("4", "78")]
    assert found(market, 2) == ["3+4", "1+2"]


def test_a_job_costs_the_same_gpu_hours_on_two_machines_and_brings_one_set_of_checkpoints_home() -> None:
    work = Workload(flops=1e21, gpus=16, home_bytes=10**11)
    priced = [offer(str(number), download_usd_per_gb=0.01 * number) for number in (1, 2)]
    together = forecast(Cluster(tuple(priced)).whole, work)
    alone = forecast(priced[1], replace(work, gpus=8))
    assert together is not None
    assert alone is not None
    assert together.hours == pytest.approx(alone.hours / 2)
    assert together.gpu_usd == pytest.approx(alone.gpu_usd)
    assert together.bandwidth_usd == pytest.approx(2.0), "the dearer of the two ways home, once"


def test_where_no_cluster_has_enough_the_reason_and_the_ways_out_are_told() -> None:
    market = [offer("1"), offer("2", "78"), offer("3", ""), offer("4", price=99.0)]
    choice = choose(market, replace(WANTED, max_price_per_hour=20.0))
    error = no_cluster(choice, WANTED, 2, "vast")
    assert isinstance(error, NoOffer)
    assert error.what == "`vast` has no 2 machines with 8 GPUs in one cluster"
    assert error.why == (
        "3 machines fit, 1 of them in no cluster: no private network between the boxes; no cluster has 2 that are "
        "alike: cluster 77: 8x H100 SXM, driver 580.65.06 (1); cluster 78: 8x H100 SXM, driver 580.65.06 (1); "
        "left out: 1 by price"
    )
    assert error.hint.startswith("one larger machine (gptops offers --gpus 16), or a group of machines of yours")


def test_where_not_even_one_machine_fits_the_flag_that_would_let_one_in_is_told() -> None:
    choice = choose([offer("4", price=99.0)], replace(WANTED, max_price_per_hour=20.0))
    assert "--max-price 99.00" in no_cluster(choice, WANTED, 2, "vast").hint
