"""What is asked again, how often and after which pause; and that a create never is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from launcher.errors import KeyRefused, MayHaveCreated, ProviderDown, ProviderError, RateLimited
from launcher.providers.base import CreateRequest, Instance, Offer, OffSwitch, Provider, Status, Wanted
from launcher.providers.retrying import TRIES, Retrying
from tests.conftest import FakeClock

OFFER = Offer("cloud", "1", "one", 1, "H100", 2.0)
REQUEST = CreateRequest("gptops:p:1", "image", 20, "ssh-ed25519 AAAA")
INSTANCE = Instance("1", "gptops:p:1", Status.RUNNING, (), 2.0)
REPEATED: dict[str, Callable[[Provider], object]] = {
    "offers": lambda provider: provider.offers(Wanted()),
    "get": lambda provider: provider.get("1"),
    "labelled": lambda provider: provider.labelled("gptops:"),
    "destroy": lambda provider: provider.destroy("1"),
    "authorize": lambda provider: provider.authorize("1", "ssh-ed25519 AAAA"),
}


@dataclass
class Cloud:
    """A provider that fails as often as it was told, then answers."""

    failures: list[Exception] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    name: str = "cloud"
    off_switch: OffSwitch = OffSwitch.NONE

    def _answer(self, what: str) -> None:
        self.asked.append(what)
        if self.failures:
            raise self.failures.pop(0)

    def console_url(self, instance_id: str) -> str:
        return f"https://cloud.example/{instance_id}"

    def offers(self, wanted: Wanted) -> list[Offer]:
        self._answer("offers")
        return [OFFER]

    def create(self, offer: Offer, request: CreateRequest) -> Instance:
        self._answer("create")
        return INSTANCE

    def authorize(self, instance_id: str, public_key: str) -> None:
        self._answer("authorize")

    def get(self, instance_id: str) -> Instance | None:
        self._answer("get")
        return INSTANCE

    def labelled(self, prefix: str) -> list[Instance]:
        self._answer("labelled")
        return [INSTANCE]

    def destroy(self, instance_id: str) -> None:
        self._answer("destroy")


@pytest.mark.parametrize("what", REPEATED)
def test_what_only_reads_or_ends_is_asked_again_until_it_answers(what: str, fake_clock: FakeClock) -> None:
    cloud = Cloud([ProviderDown("down"), RateLimited("often"), ProviderDown("down")])
    REPEATED[what](Retrying(cloud, fake_clock))
    assert cloud.asked == [what] * 4
    assert fake_clock.slept == [1.0, 2.0, 4.0]


@pytest.mark.parametrize("what", REPEATED)
def test_after_some_tries_the_last_error_is_the_answer(what: str, fake_clock: FakeClock) -> None:
    cloud = Cloud([ProviderDown(f"down {number}") for number in range(99)])
    with pytest.raises(ProviderDown, match=f"down {TRIES - 1}"):
        REPEATED[what](Retrying(cloud, fake_clock))
    assert len(cloud.asked) == TRIES
    assert sum(fake_clock.slept) < 20


@pytest.mark.parametrize("error", [ProviderDown("x"), RateLimited("x"), MayHaveCreated("x"), ProviderError("x")])
def test_a_create_is_asked_once_whatever_comes(error: Exception, fake_clock: FakeClock) -> None:
    cloud = Cloud([error])
    with pytest.raises(type(error)):
        Retrying(cloud, fake_clock).create(OFFER, REQUEST)
    assert cloud.asked == ["create"]
    assert fake_clock.slept == []
    assert Retrying(cloud, fake_clock).create(OFFER, REQUEST) == INSTANCE


@pytest.mark.parametrize("error", [KeyRefused("x"), ProviderError("x"), MayHaveCreated("x")])
def test_what_will_not_change_is_not_asked_again(error: Exception, fake_clock: FakeClock) -> None:
    cloud = Cloud([error])
    with pytest.raises(type(error)):
        Retrying(cloud, fake_clock).get("1")
    assert cloud.asked == ["get"]


def test_it_waits_as_long_as_the_vendor_says_up_to_a_minute(fake_clock: FakeClock) -> None:
    cloud = Cloud([RateLimited("often", retry_after_seconds=60.0)])
    Retrying(cloud, fake_clock).get("1")
    assert fake_clock.slept == [60.0]


@pytest.mark.parametrize("wait", [61.0, math.inf])
def test_a_longer_wait_is_reported_instead(wait: float, fake_clock: FakeClock) -> None:
    cloud = Cloud([RateLimited("often", retry_after_seconds=wait)])
    with pytest.raises(RateLimited):
        Retrying(cloud, fake_clock).offers(Wanted())
    assert fake_clock.slept == []


def test_it_is_the_provider_that_it_wraps(fake_clock: FakeClock) -> None:
    retrying = Retrying(Cloud(), fake_clock)
    assert (retrying.name, retrying.off_switch) == ("cloud", OffSwitch.NONE)
    assert retrying.console_url("7") == "https://cloud.example/7"
