"""Which offers fit, why the others do not, and what to say when none does. All of it pure."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.mention import mentions
from launcher.providers.base import Offer, Wanted
from launcher.renting.choice import Choice, LeftOut, choose, no_offer
from launcher.renting.cuda import CUDA_OF_TORCH, needed_cuda
from launcher.renting.ranking import Order, SortBy, Workload
from launcher.running.render import constraints
from launcher.spec.defaults import DEFAULT_IMAGE

OFFER = Offer(
    provider="vast",
    offer_id="1",
    description="8x H100 SXM, Oregon, US",
    gpus=8,
    gpu_name="H100 SXM",
    price_per_hour=18.0,
    machine_id="m1",
    location="Oregon, US",
    reliability=0.99,
    cuda=13.0,
    disk_gib=500.0,
)
WANTED = Wanted(
    gpus=8,
    gpu_names=("H100",),
    disk_gib=200,
    max_price_per_hour=20.0,
    min_reliability=0.98,
    regions=("US",),
    min_cuda=13.0,
)
NO_FLAG = ""


def only_left_out(choice: Choice) -> LeftOut:
    assert choice.fitting == ()
    [left_out] = choice.left_out
    return left_out


def test_an_offer_that_has_everything_fits() -> None:
    choice = choose([OFFER], WANTED)
    assert [ranked.offer for ranked in choice.fitting] == [OFFER]
    assert choice.left_out == ()


@pytest.mark.parametrize(
    ("changes", "condition", "reason", "flag"),
    [
        ({"spot": True}, "kind", "spot, on demand was wanted", "--spot"),
        ({"gpus": 1}, "number of GPUs", "1 GPU, 8 were wanted", "--gpus 1"),
        ({"gpu_name": "A100 SXM4"}, "GPU model", "A100 SXM4, H100 was wanted", "--gpu 'A100 SXM4'"),
        ({"disk_gib": 100.4}, "disk", "100 GiB of disk, 200 GiB was wanted", "--disk 100"),
        ({"cuda": 12.8}, "CUDA", "its driver runs CUDA 12.8, the wheel needs 13", NO_FLAG),
        ({"machine_id": "bad"}, "earlier failure", "it failed before: no sshd", "--offer 1"),
        ({"location": "Canberra, Australia"}, "region", "in Canberra, Australia, US was wanted",
         "--region 'Canberra, Australia'"),
        ({"location": ""}, "region", "in a place it does not tell, US was wanted", NO_FLAG),
        ({"reliability": 0.9577}, "reliability", "reliability 0.958, at least 0.98 was wanted",
         "--min-reliability 0.957"),
        ({"price_per_hour": 20.001}, "price", "$20.00/h, at most $20.00/h was wanted", "--max-price 20.01"),
    ],
)  # fmt: skip
def test_what_does_not_fit_has_a_reason_with_the_value_seen_and_the_wish(
    changes: dict[str, object], condition: str, reason: str, flag: str
) -> None:
    offer = replace(OFFER, **changes)  # type: ignore[arg-type]
    left_out = only_left_out(choose([offer], WANTED, bad={"bad": "no sshd"}))
    assert (left_out.condition, left_out.reason, left_out.flag) == (condition, reason, flag)


def test_a_bid_below_the_lowest_does_not_fit_and_the_flag_is_not_below_it_either() -> None:
    wanted = replace(WANTED, spot=True, bid=9.0)
    left_out = only_left_out(choose([replace(OFFER, spot=True, min_bid=9.60004)], wanted))
    assert left_out.reason == "its lowest bid is $9.60/h, the bid was $9.00/h"
    assert float(left_out.flag.removeprefix("--bid ")) >= 9.60004


def test_on_demand_does_not_pass_for_spot() -> None:
    left_out = only_left_out(choose([OFFER], replace(WANTED, spot=True)))
    assert (left_out.reason, left_out.flag) == ("on demand, spot was wanted", "--on-demand")


def test_only_the_first_reason_is_told_and_no_flag_where_one_would_not_do() -> None:
    left_out = only_left_out(choose([replace(OFFER, gpus=4, price_per_hour=90.0)], WANTED))
    assert left_out.condition == "number of GPUs"
    assert left_out.flag == NO_FLAG


def test_what_a_provider_does_not_tell_is_not_held_against_it() -> None:
    silent = replace(OFFER, cuda=None, reliability=None, disk_gib=None, machine_id="", gpu_name="")
    assert choose([silent], WANTED, bad={"": "nonsense"}).fitting


@pytest.mark.parametrize(
    ("wished", "seen", "is_it"),
    [
        ("H100", "NVIDIA H100 80GB HBM3", True),
        ("h100 sxm", "H100 SXM", True),
        ("RTX_4090", "NVIDIA GeForce RTX 4090", True),
        ("RTX4090", "RTX 4090", True),
        ("A100", "NVIDIA A100-SXM4-80GB", True),
        ("A10", "NVIDIA A100-SXM4-80GB", False),
        ("L40", "NVIDIA L40S", False),
        ("H100", "GH100", False),
        ("US", "Oregon, US", True),
        ("US", "Canberra, Australia", False),
        ("us-east", "us-east-1", True),
        ("eu", "EU-RO-1", True),
        ("", "anything", False),
    ],
)
def test_a_name_is_met_by_whole_words_in_any_case(wished: str, seen: str, is_it: bool) -> None:
    assert mentions(seen, wished) is is_it


# Nothing fits


def test_where_nothing_fits_each_condition_says_how_many_it_left_out_and_one_flag_lets_the_most_in() -> None:
    dear = [replace(OFFER, offer_id=f"dear-{price}", price_per_hour=price) for price in (31.0, 25.5, 40.0)]
    old = [replace(OFFER, offer_id=f"old-{n}", cuda=12.4) for n in range(4)]
    far = replace(OFFER, offer_id="far", location="Germany, DE")
    error = no_offer(choose([*dear, *old, far], WANTED), WANTED, "vast")
    assert error.what == "`vast` has no machine with 8 GPUs (H100), 200 GiB of free disk for at most $20.00/h"
    assert error.why == "8 on offer; left out: 4 by CUDA, 3 by price, 1 by region"
    assert error.hint == (
        "--max-price 25.50 lets in 8x H100 SXM, Oregon, US at $25.50/h, the cheapest of 3 that only the price keeps out"
    )


def test_among_flags_that_let_in_as_many_the_one_that_leaves_the_machine_as_wished_is_told() -> None:
    other = replace(OFFER, offer_id="other", gpu_name="A100 SXM4", price_per_hour=9.0)
    dear = replace(OFFER, offer_id="dear", price_per_hour=31.0)
    assert no_offer(choose([other, dear], WANTED), WANTED, "vast").hint.startswith("--max-price 31.00 ")
    more = [other, replace(other, offer_id="another"), replace(other, offer_id="third", gpu_name="L40S"), dear]
    assert no_offer(choose(more, WANTED), WANTED, "vast").hint.startswith("--gpu 'A100 SXM4' ")


def test_where_no_single_flag_helps_the_hint_says_where_the_reasons_are() -> None:
    error = no_offer(choose([replace(OFFER, cuda=12.4)], WANTED), WANTED, "vast")
    assert "gptops offers --all" in error.hint


def test_an_empty_market_is_said() -> None:
    error = no_offer(choose([], WANTED), WANTED, "vast")
    assert error.why == "it offers nothing of that kind now"
    assert error.exit_code == 16


# Order


def test_without_a_job_the_cheapest_comes_first_and_equal_ones_stand_by_their_reliability() -> None:
    cheap = replace(OFFER, offer_id="cheap", price_per_hour=15.0)
    sure = replace(OFFER, offer_id="sure", reliability=0.999)
    order = [ranked.offer.offer_id for ranked in choose([OFFER, sure, cheap], WANTED).fitting]
    assert order == ["cheap", "sure", "1"]


@pytest.mark.parametrize(
    ("by", "first"), [(SortBy.PRICE, "cheap"), (SortBy.RELIABILITY, "sure"), (SortBy.BANDWIDTH, "fast")]
)
def test_the_order_can_be_chosen(by: SortBy, first: str) -> None:
    offers = [
        replace(OFFER, offer_id="cheap", price_per_hour=15.0),
        replace(OFFER, offer_id="sure", reliability=0.999),
        replace(OFFER, offer_id="fast", upload_mbps=900.0),
    ]
    assert choose(offers, WANTED, order=Order(by)).fitting[0].offer.offer_id == first


# CUDA


@pytest.mark.parametrize(
    ("image", "cuda"),
    [
        (DEFAULT_IMAGE, 13.0),
        ("pytorch/pytorch:2.7.1-cuda12.8-cudnn9-runtime", 12.8),
        ("ghcr.io/me/train:cu126", 12.6),
        ("nvidia/cuda:13.0.1-base", 13.0),
        ("ubuntu:24.04", CUDA_OF_TORCH["2.13"]),
    ],
)
def test_the_image_tells_the_cuda_of_its_torch_else_the_wheel_that_is_installed(image: str, cuda: float) -> None:
    assert needed_cuda(image, constraints()) == cuda


def test_the_torch_of_the_constraints_is_one_whose_cuda_is_known() -> None:
    assert needed_cuda("ubuntu", constraints()) is not None, "add the new torch to CUDA_OF_TORCH"
    assert needed_cuda("ubuntu", "torch==9.9.0\n") is None


# Whatever the market has


maybe = st.none() | st.floats(0, 1)
any_offer = st.builds(
    Offer,
    provider=st.just("vast"),
    offer_id=st.uuids().map(str),
    description=st.just("some"),
    gpus=st.integers(0, 8),
    gpu_name=st.sampled_from(["", "H100 SXM", "A100 SXM4", "Z9000"]),
    price_per_hour=st.floats(0, 40),
    spot=st.booleans(),
    min_bid=st.none() | st.floats(0, 40),
    machine_id=st.sampled_from(["", "good", "bad"]),
    location=st.sampled_from(["", "Oregon, US", "Germany, DE"]),
    reliability=maybe,
    cuda=st.none() | st.floats(11, 14),
    disk_gib=st.none() | st.floats(0, 1000),
    gpu_ram_gib=st.none() | st.floats(8, 200),
)
any_wish = st.builds(
    Wanted,
    gpus=st.integers(0, 8),
    gpu_names=st.sampled_from([(), ("H100",), ("H100", "A100")]),
    disk_gib=st.integers(0, 500),
    max_price_per_hour=st.none() | st.floats(0, 40),
    min_reliability=st.floats(0, 1),
    spot=st.booleans(),
    bid=st.none() | st.floats(0.001, 40),
    regions=st.sampled_from([(), ("US",)]),
    min_cuda=st.none() | st.just(13.0),
)


@settings(deadline=None)
@given(st.lists(any_offer, max_size=8), any_wish, st.sampled_from([None, Workload(1e20, 8, 10**9, 40.0)]))
def test_each_offer_fits_or_has_a_reason_and_the_order_is_one(
    offers: list[Offer], wanted: Wanted, work: Workload | None
) -> None:
    choice = choose(offers, wanted, bad={"bad": "no sshd"}, order=Order(work=work))
    sorted_out = [ranked.offer for ranked in choice.fitting] + [each.offer for each in choice.left_out]
    assert sorted(each.offer_id for each in sorted_out) == sorted(each.offer_id for each in offers)
    assert all(each.reason for each in choice.left_out)
    assert sum(choice.counted.values()) == len(choice.left_out)
    assert [choose([ranked.offer], wanted, bad={"bad": ""}).fitting != () for ranked in choice.fitting].count(
        False
    ) == 0
    costs = [ranked.forecast.total for ranked in choice.fitting if ranked.forecast and not ranked.forecast.is_tight]
    assert costs == sorted(costs)
    assert no_offer(choice, wanted, "vast").what
