"""Vast's API, translated: what is asked, what each answer means, and what is never sent."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from launcher.errors import (
    GptopsError,
    KeyRefused,
    MayHaveCreated,
    OfferGone,
    ProviderDown,
    ProviderError,
    RateLimited,
    UsageError,
)
from launcher.providers.base import OffSwitch, Status, Wanted
from launcher.providers.vast import INSTANCES_PAGE, open_vast
from tests.conftest import FakeClock, NetworkBlocked
from tests.doubles.cloud import DROPPED, Reply
from tests.doubles.vast_api import CREATE, ONE, refusal
from tests.launcher.vast_desk import KEY_LINE, LABEL, Desk, desk, provider_of

__all__ = ["desk"]


def refused(call: Callable[[], object]) -> GptopsError:
    with pytest.raises(GptopsError) as raised:
        call()
    return raised.value


# Offers


def test_an_offer_has_everything_that_the_row_tells(desk: Desk) -> None:
    row = desk.vast.sell("H100 SXM", gpus=4, gpu_per_hour=8.0, inet_down_cost=0.003, inet_up_cost=0.005,
                         reliability2=0.99, geolocation=", DE", machine_id=4711)  # fmt: skip
    [offer] = desk.provider.offers(Wanted(gpus=4, disk_gib=146))
    disk = 0.15 * 146 / 730
    assert (offer.provider, offer.offer_id, offer.machine_id) == ("vast", str(row["id"]), "4711")
    assert (offer.description, offer.location) == ("4x H100 SXM, DE", "DE")
    assert (offer.gpus, offer.gpu_name) == (4, "H100 SXM")
    assert offer.price_per_hour == pytest.approx(8.0 + disk)
    assert offer.disk_per_hour == pytest.approx(disk)
    assert (offer.upload_usd_per_gb, offer.download_usd_per_gb) == (0.003, 0.005)
    assert (offer.upload_mbps, offer.download_mbps) == (2000.0, 4000.0)
    assert (offer.reliability, offer.cuda, offer.disk_gib) == (0.99, 13.0, 2048.5)
    assert offer.gpu_ram_gib == pytest.approx(79.65, abs=0.01)
    assert (offer.spot, offer.min_bid) == (False, None)


def test_the_search_is_broad_so_that_the_choice_can_say_why_not(desk: Desk) -> None:
    offers = desk.provider.offers(Wanted(gpus=1, gpu_names=("H100",), disk_gib=500, min_reliability=0.99, min_cuda=13))
    names = {offer.gpu_name for offer in offers}
    assert {"RTX 3090", "RTX 4090", "H100 SXM"} <= names
    assert any(offer.cuda == 12.4 for offer in offers)
    assert all(offer.gpus == 1 for offer in offers)
    assert desk.vast.requests[-1].body["allocated_storage"] == 500.0


def test_what_could_never_be_used_is_not_offered(desk: Desk) -> None:
    desk.vast.market.clear()
    fit = desk.vast.sell("RTX 4090")
    for changes in (
        {"verification": "unverified"},
        {"direct_port_count": 0},
        {"rentable": False},
        {"rented": True},
        {"gpu_arch": "amd"},
        {"cpu_arch": "arm64"},
    ):
        desk.vast.sell("RTX 4090", **changes)
    assert [offer.offer_id for offer in desk.provider.offers(Wanted(gpus=1))] == [str(fit["id"])]


def test_a_spot_offer_is_priced_at_its_bid_with_its_disk(desk: Desk) -> None:
    desk.vast.market.clear()
    desk.vast.sell("H100 SXM", gpu_per_hour=2.0, min_bid=1.0)
    disk = 0.15 * 73 / 730
    [usual] = desk.provider.offers(Wanted(gpus=1, spot=True, disk_gib=73))
    assert (usual.spot, usual.min_bid) == (True, 1.0)
    assert usual.price_per_hour == pytest.approx(1.1 + disk)
    assert desk.vast.requests[-1].body["type"] == "bid"
    [named] = desk.provider.offers(Wanted(gpus=1, spot=True, bid=1.3, disk_gib=73))
    assert named.price_per_hour == pytest.approx(1.3 + disk)


def test_one_odd_row_of_the_market_is_left_out_and_a_market_of_them_is_an_error(desk: Desk) -> None:
    desk.vast.market[:] = desk.vast.market[:2]
    desk.vast.market[0]["num_gpus"] = 1
    good = {"id": 7, "num_gpus": 1, "dph_total": 1.0}
    odd: list[Any] = [None, 3, [], {}, {**good, "dph_total": "free"}, {**good, "id": 1.5}, {**good, "inet_up": []}]
    desk.vast.fail("POST", "/bundles/", Reply(200, {"offers": [*odd, good]}))
    assert [offer.offer_id for offer in desk.provider.offers(Wanted())] == ["7"]
    desk.vast.fail("POST", "/bundles/", Reply(200, {"offers": odd}))
    assert "an offer of `vast` is not readable" in refused(lambda: desk.provider.offers(Wanted())).what


@pytest.mark.parametrize("body", [{}, {"offers": None}, {"offers": {}}, [], "null", {"success": False, "msg": "no"}])
def test_a_search_that_answers_nonsense_is_an_error(desk: Desk, body: Any) -> None:
    desk.vast.fail("POST", "/bundles/", Reply(200, body))
    assert isinstance(refused(lambda: desk.provider.offers(Wanted())), ProviderError)


# Create


def test_what_is_sent_to_open_a_machine(desk: Desk) -> None:
    offer = desk.offer()
    instance = desk.create(offer)
    asked = desk.vast.requests[-1]
    assert (asked.method, asked.path) == ("PUT", f"/api/v0/asks/{offer.offer_id}/")
    assert asked.body["label"] == LABEL
    assert asked.body["cancel_unavail"] is True
    assert asked.body["disk"] == 20
    assert asked.body["runtype"] == "ssh_direc ssh_proxy"
    assert asked.body["env"] == {}
    assert "price" not in asked.body
    assert desk.vast.key not in json.dumps(asked.body)
    assert (instance.label, instance.status, instance.spot) == (LABEL, Status.STARTING, False)
    assert instance.machine_id == offer.machine_id
    assert desk.vast.alive() == [instance.instance_id]


def test_the_smallest_disk_is_eight_gib(desk: Desk) -> None:
    desk.provider.offers(Wanted(disk_gib=1))
    assert desk.vast.requests[-1].body["allocated_storage"] == 8.0


def test_a_spot_machine_is_asked_for_with_its_bid_and_is_one(desk: Desk) -> None:
    offer = desk.offer(spot=True)
    assert offer.min_bid is not None
    instance = desk.create(offer, bid=offer.min_bid)
    assert desk.vast.requests[-1].body["price"] == offer.min_bid
    assert instance.spot
    assert instance.price_per_hour == pytest.approx(offer.min_bid + offer.disk_per_hour)
    assert desk.get(instance).spot


@pytest.mark.parametrize(
    ("spot", "bid", "says"),
    [(True, None, "needs a bid"), (False, 0.5, "goes with a spot"), (True, 0.0, "no bid"), (True, 1000.0, "no bid")],
)
def test_a_bid_in_the_wrong_place_is_refused_before_anything_is_asked(
    desk: Desk, spot: bool, bid: float | None, says: str
) -> None:
    offer = desk.offer(spot=spot)
    asked = len(desk.vast.requests)
    error = refused(lambda: desk.create(offer, bid=bid))
    assert isinstance(error, UsageError)
    assert says in error.what
    assert len(desk.vast.requests) == asked


def test_a_bid_below_the_lowest_is_not_even_sent(desk: Desk) -> None:
    offer = desk.offer(spot=True)
    assert offer.min_bid is not None
    error = refused(lambda: desk.create(offer, bid=offer.min_bid / 2 if offer.min_bid else 0))
    assert isinstance(error, OfferGone)
    assert desk.vast.count("PUT", "/asks/") == 0


def test_a_bid_that_the_market_has_left_behind_is_named_by_its_machine(desk: Desk) -> None:
    offer = desk.offer(spot=True)
    assert offer.min_bid is not None
    for row in desk.vast.market:
        row["min_bid"] *= 2
    error = refused(lambda: desk.create(offer, bid=offer.min_bid))
    assert isinstance(error, MayHaveCreated)
    assert desk.vast.alive() == [error.instance_id]


@pytest.mark.parametrize(
    ("label", "image", "says"), [("gptops:p:" + "x" * 300, "i", "label is too long"), (LABEL, "i" * 1025, "image")]
)
def test_what_is_too_long_is_said_before_anything_is_asked(desk: Desk, label: str, image: str, says: str) -> None:
    offer = desk.offer()
    assert says in refused(lambda: desk.create(offer, label=label, image=image)).what
    assert desk.vast.count("PUT", "/asks/") == 0


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (
            refusal(404, "invalid_args", "error 404/3603: no_such_ask Instance type by id 1 is not available."),
            OfferGone,
        ),
        (refusal(410, "no_such_ask", "error 410/3907: no_such_ask ... no longer available."), OfferGone),
        (refusal(400, "no_such_ask", "no_such_ask"), OfferGone),
        (refusal(200, "invalid_args", "no_such_ask"), OfferGone),
        (refusal(400, "invalid_price", "the bid is too low"), OfferGone),
        (refusal(400, "missing_billing", "add a card"), ProviderError),
        (refusal(400, "spend_rate_limit", "new account"), ProviderError),
        (refusal(400, "label_too_long", "label"), ProviderError),
        (refusal(400, "no_ssh_key_for_vm", "key"), ProviderError),
        (refusal(401, "auth_error", "Invalid user key"), KeyRefused),
        (refusal(403, "not_authorized", "scope"), KeyRefused),
        (refusal(429, "rate_limit_exceeded", "slow"), RateLimited),
        (refusal(400, "invalid_price", "low bid", new_contract=77), MayHaveCreated),
        (refusal(429, "rate_limit_exceeded", "slow", new_contract=77), MayHaveCreated),
        (refusal(403, "x", "y", new_contract="77"), MayHaveCreated),
        (Reply(200, {"success": False, "new_contract": 77}), MayHaveCreated),
        (Reply(200, {"new_contract": 77}), MayHaveCreated),
        (Reply(200, {"success": True}), MayHaveCreated),
        (Reply(200, {"success": True, "new_contract": "soon"}), MayHaveCreated),
        (Reply(200, []), MayHaveCreated),
        (Reply(200, '{"success": true, "new_contr'), MayHaveCreated),
        (Reply(200, "<html>"), MayHaveCreated),
        (Reply(404, "<html>"), MayHaveCreated),
        (Reply(500, {"msg": "oops"}), MayHaveCreated),
        (Reply(502, "<html>"), MayHaveCreated),
        (DROPPED, MayHaveCreated),
        (Reply(302, "", {"Location": "/x/"}), ProviderError),
    ],
)
def test_each_bad_answer_to_a_create_has_its_meaning(desk: Desk, reply: Reply, kind: type[GptopsError]) -> None:
    offer = desk.offer()
    desk.vast.fail("PUT", CREATE, reply)
    error = refused(lambda: desk.create(offer))
    assert type(error) is kind, error
    if isinstance(error, MayHaveCreated):
        named = isinstance(reply.body, dict) and reply.body.get("new_contract") in (77, "77")
        assert error.instance_id == ("77" if named else None)
    if isinstance(error, RateLimited):
        assert error.retry_after_seconds == 12.0
    assert desk.vast.count("PUT", "/asks/") == 1


def test_an_empty_account_is_told_where_to_pay(desk: Desk) -> None:
    desk.vast.credit = 0.0
    offer = desk.offer()
    error = refused(lambda: desk.create(offer))
    assert "may not spend more" in error.what
    assert "https://cloud.vast.ai/billing/" in error.hint


# Keys


def test_a_wrong_key_is_a_wrong_key_wherever_it_is_noticed(desk: Desk, fake_clock: FakeClock) -> None:
    provider = provider_of(desk.vast, fake_clock, key="wrong")
    offer = desk.offer()
    stranger = Desk(desk.vast, provider, fake_clock)
    for call in (
        lambda: provider.offers(Wanted()),  # 404, of all things
        lambda: stranger.create(offer),
        lambda: provider.get("12345001"),
        lambda: provider.labelled(""),
        lambda: provider.destroy("12345001"),
        lambda: provider.authorize("12345001", KEY_LINE),
    ):
        assert isinstance(refused(call), KeyRefused)
    assert desk.vast.alive() == []


def test_a_key_without_the_right_is_told_apart_from_a_wrong_one(desk: Desk) -> None:
    desk.vast.fail("DELETE", ONE, refusal(403, "not_authorized", "instance_write missing"))
    error = refused(lambda: desk.provider.destroy("12345001"))
    assert "does not let this API key do that" in error.what
    assert "instance_write missing" in error.why


def test_the_key_of_this_machine_is_attached_and_may_be_again(desk: Desk) -> None:
    instance = desk.create()
    for _ in range(2):
        desk.provider.authorize(instance.instance_id, KEY_LINE)
    assert desk.vast.box(instance.instance_id).keys == [KEY_LINE]
    desk.vast.fail("POST", "/ssh/", Reply(200, {"success": False, "msg": "key store is down"}))
    assert "key store is down" in refused(lambda: desk.provider.authorize(instance.instance_id, "ssh-rsa B")).why


# Get, list, destroy


def test_only_the_apis_own_word_is_absence(desk: Desk) -> None:
    assert desk.provider.get("99999999") is None
    desk.vast.fail("GET", ONE, refusal(404, "no_such_instance", "gone"))
    assert desk.provider.get("99999999") is None
    for reply in (
        Reply(404, "<html>"),
        Reply(404, "not found"),
        Reply(200, {}),
        Reply(200, {"instances": []}),
        Reply(200, {"instances": {"label": "no id"}}),
        Reply(200, {"success": False, "msg": "x"}),
        Reply(502, ""),
    ):
        desk.vast.fail("GET", ONE, reply)
        assert isinstance(refused(lambda: desk.provider.get("99999999")), ProviderError), reply


@pytest.mark.parametrize("has_v1", [True, False])
def test_all_pages_are_read_and_where_there_are_none_the_old_list(desk: Desk, has_v1: bool) -> None:
    desk.vast.has_v1 = has_v1
    desk.vast.script("strangers", count=60)
    instance = desk.create(desk.provider.offers(Wanted(gpus=8))[0])
    assert [each.instance_id for each in desk.provider.labelled("gptops:")] == [instance.instance_id]
    assert len(desk.provider.labelled("")) == 61
    assert len(desk.provider.labelled("somebody")) == 60
    assert desk.vast.count("GET", "^/api/v1/instances/") == (9 if has_v1 else 3)


@pytest.mark.parametrize(
    "body",
    [
        {"success": True, "instances": None},
        {"success": True},
        {"success": False, "msg": "x"},
        {"instances": [{"label": "gptops:tests:x"}]},
        {"instances": [], "next_token": 5},
        [],
    ],
)
def test_a_list_that_cannot_be_trusted_never_passes_for_an_empty_one(desk: Desk, body: Any) -> None:
    desk.vast.fail("GET", "/api/v1/instances/", Reply(200, body))
    assert isinstance(refused(lambda: desk.provider.labelled("gptops:")), ProviderError)


def test_a_strangers_odd_row_hides_nothing_of_ours(desk: Desk) -> None:
    rows = [{"label": "theirs", "dph_total": "dear"}, {"id": 5, "label": LABEL}]
    desk.vast.fail("GET", "/api/v1/instances/", Reply(200, {"instances": rows}), times=2)
    assert [each.instance_id for each in desk.provider.labelled("gptops:")] == ["5"]
    assert isinstance(refused(lambda: desk.provider.labelled("")), ProviderError)


def test_a_list_that_goes_round_in_circles_ends(desk: Desk) -> None:
    desk.vast.fail("GET", "/api/v1/instances/", Reply(200, {"instances": [], "next_token": "again"}), times=99)
    assert "without an end" in refused(lambda: desk.provider.labelled("gptops:")).what
    assert desk.vast.count("GET", "/api/v1/instances/") == 2


def test_a_destroy_that_did_not_happen_is_an_error(desk: Desk) -> None:
    instance = desk.create()
    for reply, kind in (
        (Reply(200, {"success": False, "msg": "try later"}), ProviderError),
        (Reply(404, "<html>"), ProviderDown),
        (Reply(500, "x"), ProviderDown),
        (DROPPED, ProviderDown),
        (Reply(400, {"success": False, "error": "invalid_args", "msg": "x"}), ProviderError),
    ):
        desk.vast.fail("DELETE", ONE, reply)
        assert isinstance(refused(lambda: desk.provider.destroy(instance.instance_id)), kind)
    assert desk.vast.alive() == [instance.instance_id]
    desk.provider.destroy(instance.instance_id)
    assert desk.vast.alive() == []


def test_what_is_gone_already_is_destroyed(desk: Desk) -> None:
    desk.provider.destroy("99999999")
    desk.vast.fail("DELETE", ONE, refusal(200, "no_such_instance", "gone"))
    desk.provider.destroy("99999999")


def test_an_id_can_only_be_a_number(desk: Desk) -> None:
    asked = len(desk.vast.requests)
    for instance_id in ("", "7/../8", "7?x=1", "-1", "٣", "gptops.a.b", "7\n"):
        for call in (desk.provider.get, desk.provider.destroy):
            assert "no id of `vast`" in refused(lambda call=call, wrong=instance_id: call(wrong)).what  # type: ignore[misc]
    assert len(desk.vast.requests) == asked


def test_it_tells_where_a_person_can_end_it_and_how_the_machine_can(desk: Desk) -> None:
    assert desk.provider.console_url("7") == INSTANCES_PAGE
    assert desk.provider.off_switch is OffSwitch.VAST
    assert desk.vast.requests == []


def test_at_the_vendors_pace_nobody_is_refused(desk: Desk, fake_clock: FakeClock) -> None:
    desk.vast.limits()
    desk.vast.time.follow(fake_clock)
    provider = provider_of(desk.vast, fake_clock, paced=True)
    paced = Desk(desk.vast, provider, fake_clock)
    for number in range(3):
        instance = paced.create(label=f"gptops:tests:{number}")
        provider.authorize(instance.instance_id, KEY_LINE)
        for _ in range(3):
            provider.get(instance.instance_id)
            provider.labelled("gptops:")
        provider.destroy(instance.instance_id)
    assert [asked.path for asked in desk.vast.requests if asked.status == 429] == []
    assert sum(fake_clock.slept) > 10
    hasty = provider_of(desk.vast, fake_clock)
    fake_clock.advance(10)
    hasty.labelled("")
    assert isinstance(refused(lambda: hasty.labelled("")), RateLimited)


def test_the_vendor_itself_is_asked_at_its_own_pace(fake_clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VAST_URL")
    monkeypatch.setenv("VAST_API_KEY", "a-key-of-nobody")
    provider = open_vast(fake_clock)
    for _ in range(3):
        with pytest.raises(NetworkBlocked, match=r"console\.vast\.ai"):
            provider.labelled("")
    assert fake_clock.slept == [1.0, 1.0]
