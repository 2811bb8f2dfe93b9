"""`lambda_cloud` against a double of Lambda's API: what it asks for, what it makes of the answers, what it costs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from launcher.errors import KeyRefused, MayHaveCreated, NoOffer, OfferGone, ProviderDown, ProviderError, RateLimited
from launcher.providers.api_keys import ApiKey
from launcher.providers.base import CreateRequest, Instance, OffSwitch, Status, Wanted
from launcher.providers.http import Api
from launcher.providers.lambda_cloud import PAUSES, LambdaCloudProvider, open_lambda_cloud, status_of
from launcher.providers.lambda_cloud_keys import key_name
from launcher.providers.lambda_cloud_names import short_name
from launcher.providers.retrying import Retrying
from launcher.remote.host import Address
from launcher.renting.asking import rent_request
from launcher.renting.choice import choose
from launcher.spec.host_request import HostRequest
from tests.conftest import FakeClock
from tests.doubles.cloud import DROPPED, Asked, Reply
from tests.doubles.lambda_cloud import INACTIVE_KEY, KEY, LambdaDouble, Plan, refusal

LINE = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILXGDN/SclOozk1xsDztpmhGiKkkrfQB9SKoO8dSIQQZ gptops"
LABEL = "gptops:mvp:6f1c00000000"
LONG = f"gptops:{'p' * 70}:6f1c00000000"
LAUNCH = "/instance-operations/launch"
HTML = Reply(200, "<!doctype html><title>Please log in</title>")
EIGHT = Wanted(gpus=8, gpu_names=("h100",))


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LambdaDouble]:
    with LambdaDouble(tmp_path / "cloud") as double:
        monkeypatch.setenv("LAMBDA_API_URL", double.url)
        monkeypatch.setenv("LAMBDA_API_KEY", double.key)
        yield double


@pytest.fixture
def lambda_cloud(cloud: LambdaDouble, fake_clock: FakeClock) -> LambdaCloudProvider:
    return open_lambda_cloud(fake_clock)


def request_for(label: str = LABEL, key: str = LINE) -> CreateRequest:
    return CreateRequest(label, "an image that plays no part", 100, key)


def opened(provider: LambdaCloudProvider, label: str = LABEL, key: str = LINE) -> Instance:
    return provider.create(provider.offers(EIGHT)[0], request_for(label, key))


def seen(provider: LambdaCloudProvider, instance: Instance, looks: int) -> Instance | None:
    """The instance after so many looks at it."""
    for _ in range(looks - 1):
        provider.get(instance.instance_id)
    return provider.get(instance.instance_id)


# What is on offer


def test_each_region_with_capacity_is_an_offer_at_the_price_of_the_whole_machine(
    lambda_cloud: LambdaCloudProvider,
) -> None:
    offers = lambda_cloud.offers(EIGHT)
    assert [(offer.offer_id, offer.location, offer.price_per_hour, offer.disk_per_hour) for offer in offers] == [
        ("gpu_8x_h100_sxm5:us-east-1", "Virginia, USA, us-east-1", 23.92, 0.0),
        ("gpu_8x_h100_sxm5:us-west-3", "Utah, USA, us-west-3", 23.92, 0.0),
    ]
    assert (offers[0].gpus, offers[0].gpu_name, offers[0].disk_gib) == (8, "H100 (80 GB SXM5)", 5990.0)


def test_only_the_right_number_of_gpus_and_only_what_has_capacity_is_offered(lambda_cloud: LambdaCloudProvider) -> None:
    kinds = {offer.offer_id.split(":")[0] for offer in lambda_cloud.offers(Wanted(gpus=1))}
    assert kinds == {"gpu_1x_h100_pcie", "gpu_1x_a10"}
    assert lambda_cloud.offers(Wanted(gpus=3)) == []


@pytest.mark.parametrize(
    ("name", "found"), [("a10", ["A10 (24 GB PCIe)"]), ("A1", []), ("H100 80GB", ["H100 (80 GB PCIe)"])]
)
def test_a_short_name_finds_the_model_and_part_of_a_word_does_not(
    lambda_cloud: LambdaCloudProvider, name: str, found: list[str]
) -> None:
    wanted = Wanted(gpus=1, gpu_names=(name,))
    assert [each.offer.gpu_name for each in choose(lambda_cloud.offers(wanted), wanted).fitting] == found


def test_an_empty_list_of_types_offers_nothing(lambda_cloud: LambdaCloudProvider, cloud: LambdaDouble) -> None:
    cloud.kinds = ()
    assert lambda_cloud.offers(Wanted(gpus=1)) == []


@pytest.mark.parametrize("wanted", [Wanted(gpus=1, spot=True), Wanted(gpus=1, bid=0.2)])
def test_spot_is_refused_with_the_reason_before_anybody_is_asked(
    lambda_cloud: LambdaCloudProvider, cloud: LambdaDouble, wanted: Wanted
) -> None:
    with pytest.raises(NoOffer, match="no spot") as raised:
        lambda_cloud.offers(wanted)
    assert "on-demand machines alone" in raised.value.why
    [offer, *_] = lambda_cloud.offers(EIGHT)
    for wrong, request in ((replace(offer, spot=True), request_for()), (offer, replace(request_for(), bid=0.2))):
        with pytest.raises(NoOffer):
            lambda_cloud.create(wrong, request)
    assert cloud.count("POST", "") == 0


@pytest.mark.parametrize(("provider", "needed"), [("lambda_cloud", None), ("runpod", 13.0), ("vast", 13.0)])
def test_the_image_says_nothing_about_the_driver_where_it_plays_no_part(provider: str, needed: float | None) -> None:
    asked = HostRequest(provider, Wanted(gpus=1), "pytorch/pytorch:2.13.0-cuda13.0-cudnn9-runtime")
    assert rent_request(asked, "p").wanted.min_cuda == needed


# What is asked for


def test_a_launch_names_its_key_its_place_and_its_label_and_nothing_else(
    lambda_cloud: LambdaCloudProvider, cloud: LambdaDouble
) -> None:
    opened(lambda_cloud)
    [asked] = [asked for asked in cloud.requests if asked.path.endswith(LAUNCH)]
    assert asked.body == {
        "region_name": "us-east-1",
        "instance_type_name": "gpu_8x_h100_sxm5",
        "ssh_key_names": [key_name(LINE)],
        "file_system_names": [],
        "quantity": 1,
        "name": LABEL,
    }
    assert all(cloud.key not in f"{asked.path}{asked.query}{asked.body}" for asked in cloud.requests)


def test_a_label_of_the_longest_project_fits_the_name_as_it_is() -> None:
    longest = f"gptops:{'p' * 40}:{'0' * 12}"
    assert short_name(longest) == longest


def test_a_label_too_long_for_a_name_comes_back_whole(lambda_cloud: LambdaCloudProvider) -> None:
    instance = opened(lambda_cloud, LONG)
    opened(lambda_cloud, LONG.replace("6f1c", "7a2b"))
    for prefix in (LONG, LONG[:70]):
        assert instance.instance_id in [found.instance_id for found in lambda_cloud.labelled(prefix)]
    assert [found.label for found in lambda_cloud.labelled(LONG)] == [LONG]
    assert len(lambda_cloud.labelled("gptops:")) == 2


def test_a_label_too_long_for_a_name_is_found_even_where_no_tags_come_back(
    lambda_cloud: LambdaCloudProvider, cloud: LambdaDouble
) -> None:
    cloud.next = Plan(forgets_tags=True)
    instance = opened(lambda_cloud, LONG)
    cloud.next = Plan(forgets_tags=True)
    opened(lambda_cloud, LONG.replace("6f1c", "7a2b"))
    assert [(found.instance_id, found.label) for found in lambda_cloud.labelled(LONG)] == [(instance.instance_id, LONG)]
    assert len(lambda_cloud.labelled("gptops:")) == 2


def test_a_label_too_long_for_everything_is_refused_before_anything_is_rented(
    lambda_cloud: LambdaCloudProvider, cloud: LambdaDouble
) -> None:
    with pytest.raises(ProviderError, match="too long"):
        opened(lambda_cloud, f"gptops:{'p' * 130}:6f1c")
    assert cloud.count("POST", "") == 0


# The SSH key


def test_our_key_is_registered_once_under_a_name_made_of_it(
    lambda_cloud: LambdaCloudProvider, cloud: LambdaDouble
) -> None:
    opened(lambda_cloud, "gptops:p:1")
    opened(lambda_cloud, "gptops:p:2")
    assert cloud.ssh_keys == [{"id": "0" * 32, "name": key_name(LINE), "public_key": LINE}]


def test_a_key_that_a_person_registered_under_another_name_is_used(
    lambda_cloud: LambdaCloudProvider, cloud: LambdaDouble
) -> None:
    cloud.ssh_keys = [{"id": "1", "name": "my laptop", "public_key": LINE.replace("gptops", "ann@desk")}]
    opened(lambda_cloud)
    assert len(cloud.ssh_keys) == 1
    assert cloud.instances[cloud.alive[0]].body["ssh_key_names"] == ["my laptop"]


def test_two_keys_have_two_names(lambda_cloud: LambdaCloudProvider, cloud: LambdaDouble) -> None:
    opened(lambda_cloud, "gptops:p:1")
    opened(lambda_cloud, "gptops:p:2", LINE.replace("ILXG", "JLXG"))
    assert len({key["name"] for key in cloud.ssh_keys}) == 2


class OvertakenDouble(LambdaDouble):
    """Another gptops registers the same key between our look and our own try."""

    def answer(self, asked: Asked) -> Reply:
        if asked.method == "POST" and asked.path.endswith("/ssh-keys"):
            super().answer(asked)
        return super().answer(asked)


def test_whoever_is_overtaken_while_registering_uses_the_others_entry(
    tmp_path: Path, fake_clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with OvertakenDouble(tmp_path / "cloud") as cloud:
        monkeypatch.setenv("LAMBDA_API_URL", cloud.url)
        monkeypatch.setenv("LAMBDA_API_KEY", cloud.key)
        opened(open_lambda_cloud(fake_clock))
        assert len(cloud.alive) == len(cloud.ssh_keys) == 1


def test_a_key_that_cannot_be_registered_rents_nothing(lambda_cloud: LambdaCloudProvider, cloud: LambdaDouble) -> None:
    cloud.fail("POST", "/ssh-keys", refusal(400, "global/invalid-parameters", "Invalid request data."))
    with pytest.raises(ProviderError, match="does not register") as raised:
        opened(lambda_cloud)
    assert not isinstance(raised.value, MayHaveCreated)
    assert cloud.instances == {}


# What becomes of it


def test_a_machine_is_ubuntus_at_its_address_when_it_is_active(lambda_cloud: LambdaCloudProvider) -> None:
    instance = opened(lambda_cloud)
    assert (instance.status, instance.addresses, instance.price_per_hour) == (Status.STARTING, (), 23.92)
    booting = seen(lambda_cloud, instance, 1)
    assert booting is not None
    assert (booting.status, booting.addresses, booting.label) == (Status.STARTING, (), LABEL)
    active = seen(lambda_cloud, instance, 1)
    assert active is not None
    assert (active.status, active.addresses) == (Status.RUNNING, (Address("198.51.100.2", 22, "ubuntu"),))
    assert (active.gpus, active.detail) == (8, "active")


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("booting", Status.STARTING),
        ("active", Status.RUNNING),
        ("unhealthy", Status.SILENT),
        ("terminating", Status.STOPPED),
        ("preempted", Status.PREEMPTED),
        ("hibernating", Status.SILENT),
        ("", Status.SILENT),
    ],
)
def test_every_status_means_something_and_so_does_one_that_is_not_invented_yet(word: str, status: Status) -> None:
    assert status_of(word) is status


def test_a_terminating_machine_is_there_and_a_terminated_one_is_gone_though_it_is_remembered(
    lambda_cloud: LambdaCloudProvider, cloud: LambdaDouble
) -> None:
    cloud.next = Plan(terminating_polls=2, remembered_polls=1)
    instance = opened(lambda_cloud)
    lambda_cloud.destroy(instance.instance_id)
    found = [lambda_cloud.get(instance.instance_id) for _ in range(4)]
    assert [None if each is None else each.detail for each in found] == ["terminating", None, None, None]
    assert lambda_cloud.labelled("gptops:") == []


def test_another_price_than_the_quoted_one_is_seen_at_the_first_look(
    lambda_cloud: LambdaCloudProvider, cloud: LambdaDouble
) -> None:
    cloud.next = Plan(cents=9900)
    found = seen(lambda_cloud, opened(lambda_cloud), 1)
    assert found is not None
    assert found.price_per_hour == 99.0


def test_an_hour_is_billed_as_quoted_and_nothing_after_the_end(
    lambda_cloud: LambdaCloudProvider, cloud: LambdaDouble
) -> None:
    instance = opened(lambda_cloud)
    began = cloud.time.now()
    cloud.time.advance(3600)
    lambda_cloud.destroy(instance.instance_id)
    quoted = 23.92 * (cloud.time.now() - began) / 3600
    assert cloud.dollars() == pytest.approx(quoted, rel=1e-3)
    cloud.time.advance(36_000)
    assert cloud.dollars() == pytest.approx(quoted, rel=1e-3)
    assert (cloud.alive, cloud.meter.per_hour) == ([], 0.0)


# Answers that are none


@pytest.mark.parametrize(
    "reply",
    [
        DROPPED,
        refusal(500, "global/internal-error", "An internal server error occurred."),
        Reply(504, "<html>"),
        HTML,
        Reply(200, '{"data": {"instance_'),
        Reply(200, {"data": {"instance_ids": []}}),
        Reply(200, {"data": None}),
        Reply(200, []),
    ],
)
def test_a_launch_whose_answer_is_lost_may_have_made_a_machine_and_the_label_finds_it(
    lambda_cloud: LambdaCloudProvider, cloud: LambdaDouble, reply: Reply
) -> None:
    cloud.fail("POST", LAUNCH, reply, when="after")
    with pytest.raises(MayHaveCreated):
        opened(lambda_cloud)
    assert [found.instance_id for found in lambda_cloud.labelled(LABEL)] == cloud.alive


@pytest.mark.parametrize(
    ("reply", "error", "words"),
    [
        (refusal(400, f"{LAUNCH[1:]}/insufficient-capacity", "Not enough capacity"), OfferGone, "Not enough"),
        (refusal(400, "global/quota-exceeded", "Quota exceeded."), ProviderError, "Quota exceeded"),
        (refusal(400, "global/invalid-parameters", "Invalid request data."), ProviderError, "Invalid request"),
        (refusal(403, "global/account-inactive", "Your account is inactive."), KeyRefused, "inactive"),
        (refusal(404, "global/object-does-not-exist", "instance type"), OfferGone, "instance type"),
        (refusal(429, "global/too-many-requests", "Slow down"), RateLimited, "Slow down"),
        (Reply(302, "", {"Location": "https://login.example/?token=abc"}), ProviderError, "login.example/"),
    ],
)
def test_a_launch_that_is_refused_made_nothing(
    lambda_cloud: LambdaCloudProvider, cloud: LambdaDouble, reply: Reply, error: type[ProviderError], words: str
) -> None:
    cloud.fail("POST", LAUNCH, reply)
    with pytest.raises(error) as raised:
        opened(lambda_cloud)
    assert not isinstance(raised.value, MayHaveCreated)
    assert words in raised.value.why
    assert cloud.alive == []


def test_a_region_that_ran_out_since_the_offer_was_made_is_an_offer_gone(
    lambda_cloud: LambdaCloudProvider, cloud: LambdaDouble
) -> None:
    [offer, *_] = lambda_cloud.offers(EIGHT)
    cloud.kinds = tuple(replace(kind, regions=()) for kind in cloud.kinds)
    with pytest.raises(OfferGone):
        lambda_cloud.create(offer, request_for())


def test_a_reached_quota_says_what_to_do(lambda_cloud: LambdaCloudProvider, cloud: LambdaDouble) -> None:
    cloud.most_instances = 0
    with pytest.raises(ProviderError, match="quota") as raised:
        opened(lambda_cloud)
    assert "support" in raised.value.hint


@pytest.mark.parametrize("reply", [HTML, Reply(200, '{"data": [{"id": "0'), Reply(502, "<html>"), DROPPED])
def test_a_list_that_did_not_arrive_is_never_taken_for_an_empty_one(
    lambda_cloud: LambdaCloudProvider, cloud: LambdaDouble, reply: Reply
) -> None:
    opened(lambda_cloud)
    cloud.fail("GET", "/instances", reply)
    with pytest.raises(ProviderDown):
        lambda_cloud.labelled("gptops:")


@pytest.mark.parametrize("answer", [{}, [], {"data": None}, {"data": {}}, {"data": [None]}, {"instances": []}])
def test_a_list_of_another_shape_is_never_taken_for_an_empty_one(
    lambda_cloud: LambdaCloudProvider, cloud: LambdaDouble, answer: object
) -> None:
    cloud.fail("GET", "/instances", Reply(200, answer))
    with pytest.raises(ProviderError):
        lambda_cloud.labelled("gptops:")


def test_a_termination_that_is_refused_names_the_page_where_a_person_can_do_it(
    lambda_cloud: LambdaCloudProvider, cloud: LambdaDouble
) -> None:
    instance = opened(lambda_cloud)
    cloud.fail("POST", "/terminate", refusal(409, "global/conflict", "The request conflicts"))
    with pytest.raises(ProviderError, match=instance.instance_id) as raised:
        lambda_cloud.destroy(instance.instance_id)
    assert "cloud.lambda.ai" in raised.value.hint
    assert cloud.alive == [instance.instance_id]


def test_what_may_be_asked_again_is_until_it_works(cloud: LambdaDouble, fake_clock: FakeClock) -> None:
    provider = Retrying(open_lambda_cloud(fake_clock), fake_clock)
    instance = provider.create(provider.offers(EIGHT)[0], request_for())
    cloud.fail("POST", "/terminate", refusal(429, "global/too-many-requests", "Slow down"), times=2)
    cloud.fail("POST", "/terminate", DROPPED, when="after")
    cloud.fail("GET", "/instances", Reply(503, "<html>"))
    provider.destroy(instance.instance_id)
    assert provider.get(instance.instance_id) is None
    assert cloud.count("POST", "/terminate") == 4


# API keys


def test_a_wrong_key_says_where_to_get_another(
    cloud: LambdaDouble, fake_clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAMBDA_API_KEY", "wrong")
    with pytest.raises(KeyRefused, match="does not take the API key") as raised:
        open_lambda_cloud(fake_clock).labelled("gptops:")
    assert "cloud.lambda.ai/api-keys" in raised.value.hint


def test_an_inactive_account_rents_nothing(
    cloud: LambdaDouble, fake_clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAMBDA_API_KEY", INACTIVE_KEY)
    with pytest.raises(KeyRefused) as raised:
        opened(open_lambda_cloud(fake_clock))
    assert "inactive" in raised.value.why


def test_without_a_key_nobody_is_asked(
    cloud: LambdaDouble, fake_clock: FakeClock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("LAMBDA_API_KEY")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(KeyRefused, match="no API key for `lambda_cloud`") as raised:
        open_lambda_cloud(fake_clock).offers(Wanted())
    assert "--provider local needs none" in raised.value.hint
    assert cloud.requests == []


def test_it_launches_no_faster_than_lambda_allows(tmp_path: Path, fake_clock: FakeClock) -> None:
    with LambdaDouble(tmp_path / "cloud", clock=fake_clock) as cloud:
        cloud.keep_pace()
        key = ApiKey("lambda_cloud", KEY, "$LAMBDA_API_KEY")
        api = Api(cloud.url, lambda: key, provider="lambda_cloud", clock=fake_clock, pauses=PAUSES)
        provider = LambdaCloudProvider(api)
        for number in range(3):
            provider.get(opened(provider, f"gptops:p:{number}").instance_id)
        assert [asked.status for asked in cloud.requests if asked.status == 429] == []
        assert fake_clock.now() - 1_700_000_000 >= 24


def test_it_says_that_a_machine_cannot_end_itself_and_where_a_person_can(lambda_cloud: LambdaCloudProvider) -> None:
    assert lambda_cloud.off_switch is OffSwitch.NONE
    assert lambda_cloud.console_url("x").startswith("https://cloud.lambda.ai")
