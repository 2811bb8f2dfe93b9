"""`runpod` against a double that speaks REST API v2: what it asks for, what it makes of the answers, what it costs."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from launcher.errors import KeyRefused, MayHaveCreated, NoOffer, OfferGone, ProviderDown, ProviderError, RateLimited
from launcher.providers.api_keys import ApiKey
from launcher.providers.base import CreateRequest, Instance, Offer, OffSwitch, Status, Wanted
from launcher.providers.http import Api
from launcher.providers.retrying import Retrying
from launcher.providers.runpod import PAUSES, RunpodProvider, open_runpod
from launcher.providers.runpod_container import SSHD, VENDOR_IMAGE
from launcher.providers.runpod_pods import status_of
from launcher.remote.host import Address
from launcher.renting.choice import choose
from tests.conftest import FakeClock
from tests.doubles.cloud import DROPPED, Reply
from tests.doubles.runpod import KEY, NO_ACCOUNT_KEY, READ_ONLY_KEY, Plan, RunpodDouble, problem

LINE = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILXGDN/SclOozk1xsDztpmhGiKkkrfQB9SKoO8dSIQQZ gptops"
OTHERS = ["ssh-rsa AAAAB3NzaC1yc2E= ann@desk", "ecdsa-sha2-nistp256 AAAAE2VjZHNh"]
LABEL = "gptops:mvp:6f1c00000000"
HTML = Reply(200, "<!doctype html><title>Please log in</title>")
EIGHT = Wanted(gpus=8, gpu_names=("H100",), disk_gib=100, min_cuda=12.8)


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunpodDouble]:
    with RunpodDouble(tmp_path / "cloud") as double:
        monkeypatch.setenv("RUNPOD_REST_URL", double.url)
        monkeypatch.setenv("RUNPOD_API_KEY", double.key)
        yield double


@pytest.fixture
def runpod(cloud: RunpodDouble, fake_clock: FakeClock) -> RunpodProvider:
    return open_runpod(fake_clock)


def request_for(label: str = LABEL, image: str = "pytorch/pytorch:2.13.0-cuda13.0-cudnn9-runtime") -> CreateRequest:
    return CreateRequest(label, image, 100, LINE)


def opened(runpod: RunpodProvider, label: str = LABEL) -> Instance:
    return runpod.create(choose(runpod.offers(EIGHT), EIGHT).fitting[0].offer, request_for(label))


def any_offer(runpod: RunpodProvider) -> Offer:
    return runpod.offers(Wanted(gpus=1))[0]


def offered(runpod: RunpodProvider, name: str) -> list[Offer]:
    """What is left of the offers when somebody wants such a GPU."""
    wanted = Wanted(gpus=1, gpu_names=(name,))
    return [each.offer for each in choose(runpod.offers(wanted), wanted).fitting]


def seen(runpod: RunpodProvider, instance: Instance, looks: int) -> Instance | None:
    """The instance after so many looks at it."""
    for _ in range(looks - 1):
        runpod.get(instance.instance_id)
    return runpod.get(instance.instance_id)


# What is on offer


def test_each_data_center_with_stock_is_an_offer_and_the_price_is_for_all_gpus_and_the_disk(
    runpod: RunpodProvider,
) -> None:
    offers = [offer for offer in runpod.offers(EIGHT) if "H100" in offer.gpu_name]
    assert [(offer.location, offer.gpus, offer.gpu_name) for offer in offers] == [
        ("EU-RO-1, secure cloud", 8, "NVIDIA H100 80GB HBM3"),
        ("US-KS-2, secure cloud", 8, "NVIDIA H100 80GB HBM3"),
    ]
    disk = 108 * 0.10 / 730  # 100 GiB are 108 GB
    assert offers[0].price_per_hour == pytest.approx(8 * 2.69 + disk)
    assert offers[0].disk_per_hour == pytest.approx(disk)
    assert offers[0].cuda == 13.0
    assert " " not in offers[0].offer_id


@pytest.mark.parametrize("name", ["h100", "H100 80GB", "A100", "rtx 4090", "RTX_4090"])
def test_a_short_name_finds_the_marketing_name_in_any_case(runpod: RunpodProvider, name: str) -> None:
    assert len({offer.gpu_name for offer in offered(runpod, name)}) == 1


@pytest.mark.parametrize("name", ["A10", "H10", "RTX 40"])
def test_part_of_a_word_is_no_name(runpod: RunpodProvider, name: str) -> None:
    assert offered(runpod, name) == []


def test_the_community_cloud_has_prices_and_places_of_its_own(runpod: RunpodProvider) -> None:
    offers = {offer.offer_id: offer for offer in offered(runpod, "4090")}
    disk = 22 * 0.10 / 730
    assert {key: pytest.approx(value) for key, value in {
        "community:anywhere:1xNVIDIA-GeForce-RTX-4090": 0.34 + disk,
        "secure:US-KS-2:1xNVIDIA-GeForce-RTX-4090": 0.44 + disk,
    }.items()} == {key: offer.price_per_hour for key, offer in offers.items()}  # fmt: skip


def test_whoever_wants_no_machine_of_private_people_says_so_by_the_region(runpod: RunpodProvider) -> None:
    wanted = Wanted(gpus=1, gpu_names=("4090",), regions=("secure",))
    [found] = choose(runpod.offers(wanted), wanted).fitting
    assert found.offer.location == "US-KS-2, secure cloud"


def test_what_cannot_be_had_or_runs_no_cuda_is_not_offered(runpod: RunpodProvider) -> None:
    models = {offer.gpu_name for offer in runpod.offers(Wanted(gpus=1))}
    assert "NVIDIA L40S" not in models, "it has no stock"
    assert not any("AMD" in model for model in models)
    assert runpod.offers(Wanted(gpus=9)) == [], "no machine of theirs has nine"


def test_an_empty_catalog_offers_nothing(runpod: RunpodProvider, cloud: RunpodDouble) -> None:
    cloud.catalog = ()
    assert runpod.offers(Wanted(gpus=1)) == []


@pytest.mark.parametrize("wanted", [Wanted(gpus=1, spot=True), Wanted(gpus=1, bid=0.2)])
def test_spot_is_refused_with_the_reason_before_anybody_is_asked(
    runpod: RunpodProvider, cloud: RunpodDouble, wanted: Wanted
) -> None:
    with pytest.raises(NoOffer, match="no spot") as raised:
        runpod.offers(wanted)
    assert "v2 takes no bids" in raised.value.why
    with pytest.raises(NoOffer):
        runpod.create(replace(any_offer(runpod), spot=True), request_for())
    with pytest.raises(NoOffer):
        runpod.create(any_offer(runpod), replace(request_for(), bid=0.2))
    assert cloud.alive == []
    assert cloud.count("POST", "/pods") == 0


# What is asked for


def test_a_pod_is_asked_for_with_everything_that_lets_us_in_and_no_secret(
    runpod: RunpodProvider, cloud: RunpodDouble
) -> None:
    opened(runpod)
    [asked] = [asked for asked in cloud.requests if asked.method == "POST"]
    assert asked.body == {
        "name": LABEL,
        "image": "pytorch/pytorch:2.13.0-cuda13.0-cudnn9-runtime",
        "gpu": {"id": "NVIDIA H100 80GB HBM3", "count": 8, "minCudaVersion": "12.8"},
        "cloud": "SECURE",
        "dataCenterIds": ["EU-RO-1"],
        "disk": 108,
        "ports": ["22/tcp"],
        "env": {"PUBLIC_KEY": LINE},
        "startSsh": True,
        "args": SSHD,
    }
    assert all(cloud.key not in f"{asked.path}{asked.query}{asked.body}" for asked in cloud.requests)


def test_the_vendors_own_images_start_sshd_by_themselves(runpod: RunpodProvider, cloud: RunpodDouble) -> None:
    runpod.create(any_offer(runpod), request_for(image=""))
    [asked] = [asked for asked in cloud.requests if asked.method == "POST"]
    assert asked.body["image"] == VENDOR_IMAGE
    assert "args" not in asked.body
    assert "minCudaVersion" not in asked.body["gpu"], "nobody wanted one"


def test_the_line_that_starts_sshd_elsewhere_is_one_that_bash_can_read() -> None:
    words = subprocess.run(["bash", "-c", f"printf '%s\\0' {SSHD}"], capture_output=True, check=True).stdout
    program, option, script, _ = words.decode().split("\0")
    assert (program, option) == ("bash", "-c")
    checked = subprocess.run(["bash", "-n", "-c", script], capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert script.endswith("exec /usr/sbin/sshd -D -e")


def test_a_key_without_a_version_floor_takes_any_driver_and_one_with_it_is_placed_on_that_or_nothing(
    runpod: RunpodProvider, cloud: RunpodDouble
) -> None:
    [offer, *_] = [each for each in runpod.offers(Wanted(gpus=1, min_cuda=12.8)) if "A100" in each.gpu_name]
    assert offer.cuda == 12.4
    with pytest.raises(OfferGone):
        runpod.create(offer, request_for())
    assert cloud.alive == []


# Keys of the account


def test_registering_our_key_leaves_every_other_one_as_it_was_written(
    runpod: RunpodProvider, cloud: RunpodDouble
) -> None:
    cloud.account_keys = list(OTHERS)
    opened(runpod)
    assert cloud.account_keys == [*OTHERS, LINE]


def test_a_key_that_is_registered_already_is_not_written_again(runpod: RunpodProvider, cloud: RunpodDouble) -> None:
    cloud.account_keys = [*OTHERS, f"{LINE} with another comment"]
    opened(runpod)
    assert cloud.count("PUT", "/account/ssh-keys") == 0


def test_a_list_of_keys_that_cannot_be_read_is_never_written_back(runpod: RunpodProvider, cloud: RunpodDouble) -> None:
    cloud.account_keys = list(OTHERS)
    for nonsense in ({"keys": None}, {"keys": [{"key": "ssh-rsa AAAA"}]}, {}, []):
        cloud.fail("GET", "/account/ssh-keys", Reply(200, nonsense))
        with pytest.raises(ProviderError):
            opened(runpod)
    assert cloud.account_keys == OTHERS
    assert cloud.count("PUT", "/account/ssh-keys") == 0
    assert cloud.alive == []


def test_a_vendor_that_loses_a_key_on_the_way_is_found_out_before_anything_is_rented(
    runpod: RunpodProvider, cloud: RunpodDouble
) -> None:
    cloud.account_keys = list(OTHERS)
    cloud.fail("PUT", "/account/ssh-keys", Reply(200, {"keys": [LINE]}))
    with pytest.raises(ProviderError, match="only some"):
        opened(runpod)
    assert cloud.alive == []


def test_an_api_key_that_may_not_see_the_account_still_opens_pods_with_our_key_in_them(
    cloud: RunpodDouble, fake_clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNPOD_API_KEY", NO_ACCOUNT_KEY)
    assert opened(open_runpod(fake_clock)).label == LABEL
    assert cloud.account_keys == []


# What becomes of it


def test_a_pod_is_running_only_with_its_direct_address_and_never_with_the_proxys(runpod: RunpodProvider) -> None:
    instance = opened(runpod)
    assert (instance.status, instance.addresses) == (Status.STARTING, ())
    half = seen(runpod, instance, 2)
    assert half is not None
    assert (half.status, half.addresses) == (Status.RUNNING, ())
    assert "proxy cannot carry rsync" in half.detail
    whole = seen(runpod, instance, 1)
    assert whole is not None
    assert (whole.addresses, whole.gpus) == ((Address("203.0.113.7", 34446, "root"),), 8)


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("PROVISIONING", Status.STARTING),
        ("STARTING", Status.STARTING),
        ("RUNNING", Status.RUNNING),
        ("EXITED", Status.STOPPED),
        ("ERROR", Status.FAILED),
        ("HIBERNATING", Status.SILENT),
        ("", Status.SILENT),
    ],
)
def test_every_status_means_something_and_so_does_one_that_is_not_invented_yet(word: str, status: Status) -> None:
    assert status_of(word) is status


def test_a_pod_that_fails_says_so_in_the_vendors_word(runpod: RunpodProvider, cloud: RunpodDouble) -> None:
    cloud.next = Plan(ends_as="ERROR")
    failed = seen(runpod, opened(runpod), 3)
    assert failed is not None
    assert (failed.status, failed.detail) == (Status.FAILED, "ERROR")


def test_a_deleted_pod_that_is_still_remembered_is_gone(runpod: RunpodProvider, cloud: RunpodDouble) -> None:
    instance = opened(runpod)
    cloud.stop(instance.instance_id, "TERMINATED")
    assert runpod.get(instance.instance_id) is None
    assert runpod.labelled(LABEL) == []


def test_a_stopped_pod_costs_nothing_an_hour(runpod: RunpodProvider, cloud: RunpodDouble) -> None:
    instance = opened(runpod)
    cloud.stop(instance.instance_id)
    stopped = runpod.get(instance.instance_id)
    assert stopped is not None
    assert (stopped.status, stopped.price_per_hour) == (Status.STOPPED, 0.0)


def test_another_price_than_the_quoted_one_is_seen_at_create(runpod: RunpodProvider, cloud: RunpodDouble) -> None:
    cloud.next = Plan(costs=99.0)
    assert opened(runpod).price_per_hour > 99.0


def test_an_hour_is_billed_as_quoted_and_nothing_after_the_end(runpod: RunpodProvider, cloud: RunpodDouble) -> None:
    instance = opened(runpod)
    began = cloud.time.now()
    cloud.time.advance(3600)
    runpod.destroy(instance.instance_id)
    quoted = instance.price_per_hour * (cloud.time.now() - began) / 3600
    assert cloud.dollars() == pytest.approx(quoted, rel=1e-3)
    cloud.time.advance(36_000)
    assert cloud.dollars() == pytest.approx(quoted, rel=1e-3)
    assert (cloud.alive, cloud.meter.per_hour) == ([], 0.0)


def test_a_pod_that_lingers_after_its_end_is_there_until_it_is_not(runpod: RunpodProvider, cloud: RunpodDouble) -> None:
    cloud.next = Plan(lingers_polls=2)
    instance = opened(runpod)
    runpod.destroy(instance.instance_id)
    assert [runpod.get(instance.instance_id) is None for _ in range(3)] == [False, False, True]


# Answers that are none


@pytest.mark.parametrize("reply", [DROPPED, Reply(500, "oops"), Reply(504, "<html>"), HTML, Reply(201, '{"id": "po')])
def test_a_create_whose_answer_is_lost_may_have_made_a_pod_and_the_label_finds_it(
    runpod: RunpodProvider, cloud: RunpodDouble, reply: Reply
) -> None:
    offer = any_offer(runpod)
    cloud.fail("POST", "/pods", reply, when="after")
    with pytest.raises(MayHaveCreated):
        runpod.create(offer, request_for())
    assert [found.instance_id for found in runpod.labelled(LABEL)] == cloud.alive


def test_a_pod_whose_description_cannot_be_read_is_still_named(runpod: RunpodProvider, cloud: RunpodDouble) -> None:
    offer = any_offer(runpod)
    cloud.fail("POST", "/pods", Reply(201, {"id": "pod0000001", "cost": "a lot"}), when="after")
    with pytest.raises(MayHaveCreated) as raised:
        runpod.create(offer, request_for())
    assert raised.value.instance_id == "pod0000001"


@pytest.mark.parametrize(
    ("reply", "error", "words"),
    [
        (problem(400, "Bad Request", "There are no longer any instances available"), OfferGone, "no longer any"),
        (problem(402, "Payment Required", "insufficient balance"), ProviderError, "insufficient balance"),
        (problem(403, "Forbidden", "access denied"), KeyRefused, "access denied"),
        (problem(409, "Conflict", "in use"), ProviderError, "in use"),
        (problem(429, "Too Many Requests", "minute window", {"Retry-After": "12"}), RateLimited, "minute window"),
        (Reply(302, "", {"Location": "https://login.example/?token=abc"}), ProviderError, "login.example/"),
    ],
)
def test_a_create_that_is_refused_made_nothing(
    runpod: RunpodProvider, cloud: RunpodDouble, reply: Reply, error: type[ProviderError], words: str
) -> None:
    offer = any_offer(runpod)
    cloud.fail("POST", "/pods", reply)
    with pytest.raises(error) as raised:
        runpod.create(offer, request_for())
    assert not isinstance(raised.value, MayHaveCreated)
    assert words in raised.value.why
    assert cloud.alive == []


def test_a_request_that_breaks_the_contract_says_which_rule(runpod: RunpodProvider, cloud: RunpodDouble) -> None:
    offer = any_offer(runpod)
    refusal = problem(422, "Unprocessable Entity", "Request validation failed.")
    cloud.fail("POST", "/pods", replace(refusal, body={**refusal.body, "errors": ["$.image: no such tag"]}))
    with pytest.raises(ProviderError, match="refused to make") as raised:
        runpod.create(offer, request_for())
    assert "$.image: no such tag" in raised.value.why


def test_the_wait_that_runpod_asks_for_is_told(runpod: RunpodProvider, cloud: RunpodDouble) -> None:
    cloud.fail("GET", "/pods", problem(429, "Too Many Requests", "minute window", {"Retry-After": "12"}))
    with pytest.raises(RateLimited) as raised:
        runpod.labelled("gptops:")
    assert raised.value.retry_after_seconds == 12.0


@pytest.mark.parametrize("reply", [HTML, Reply(200, '{"pods": [{"id": "po'), Reply(502, "<html>"), DROPPED])
def test_a_list_that_did_not_arrive_is_never_taken_for_an_empty_one(
    runpod: RunpodProvider, cloud: RunpodDouble, reply: Reply
) -> None:
    opened(runpod)
    cloud.fail("GET", "/pods", reply)
    with pytest.raises(ProviderDown):
        runpod.labelled("gptops:")


@pytest.mark.parametrize("answer", [{}, [], {"pods": None}, {"pods": "none"}, {"pods": [None]}])
def test_a_list_of_another_shape_is_never_taken_for_an_empty_one(
    runpod: RunpodProvider, cloud: RunpodDouble, answer: object
) -> None:
    cloud.fail("GET", "/pods", Reply(200, answer))
    with pytest.raises(ProviderError, match="not readable"):
        runpod.labelled("gptops:")


def test_a_delete_that_is_refused_names_the_page_where_a_person_can_do_it(
    runpod: RunpodProvider, cloud: RunpodDouble
) -> None:
    instance = opened(runpod)
    cloud.fail("DELETE", "/pods", problem(409, "Conflict", "Pod belongs to a cluster"))
    with pytest.raises(ProviderError, match=instance.instance_id) as raised:
        runpod.destroy(instance.instance_id)
    assert "console.runpod.io" in raised.value.hint
    assert cloud.alive == [instance.instance_id]


def test_what_may_be_asked_again_is_until_it_works(cloud: RunpodDouble, fake_clock: FakeClock) -> None:
    provider = Retrying(open_runpod(fake_clock), fake_clock)
    instance = provider.create(provider.offers(EIGHT)[0], request_for())
    cloud.fail("DELETE", "/pods", problem(429, "Too Many Requests", "minute", {"Retry-After": "12"}), times=2)
    cloud.fail("DELETE", "/pods", DROPPED, when="after")
    cloud.fail("GET", "/pods", Reply(503, "<html>"))
    provider.destroy(instance.instance_id)
    assert provider.get(instance.instance_id) is None
    assert sum(fake_clock.slept) >= 24


# API keys


@pytest.mark.parametrize(("key", "words"), [("wrong", "does not take"), (READ_ONLY_KEY, "does not let this API key")])
def test_a_key_that_is_wrong_or_may_only_read_says_where_to_get_another(
    cloud: RunpodDouble, fake_clock: FakeClock, monkeypatch: pytest.MonkeyPatch, key: str, words: str
) -> None:
    offer = any_offer(open_runpod(fake_clock))
    monkeypatch.setenv("RUNPOD_API_KEY", key)
    with pytest.raises(KeyRefused, match=words) as raised:
        open_runpod(fake_clock).create(offer, request_for())
    assert "console.runpod.io" in raised.value.hint
    assert key not in str(vars(raised.value))
    assert cloud.alive == []


def test_without_a_key_nobody_is_asked(
    cloud: RunpodDouble, fake_clock: FakeClock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("RUNPOD_API_KEY")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(KeyRefused, match="no API key for `runpod`") as raised:
        open_runpod(fake_clock).offers(Wanted())
    assert "--provider local needs none" in raised.value.hint
    assert cloud.requests == []


def test_it_asks_no_faster_than_runpod_allows(tmp_path: Path, fake_clock: FakeClock) -> None:
    with RunpodDouble(tmp_path / "cloud", clock=fake_clock) as cloud:
        cloud.keep_pace()
        key = ApiKey("runpod", KEY, "$RUNPOD_API_KEY")
        runpod = RunpodProvider(Api(cloud.url, lambda: key, provider="runpod", clock=fake_clock, pauses=PAUSES))
        for number in range(3):
            runpod.destroy(opened(runpod, f"gptops:p:{number}").instance_id)
        assert [asked.status for asked in cloud.requests if asked.status == 429] == []


def test_it_says_how_a_pod_ends_itself_and_where_a_person_can_see_it(runpod: RunpodProvider) -> None:
    assert runpod.off_switch is OffSwitch.RUNPOD
    assert runpod.console_url("x").startswith("https://console.runpod.io")
