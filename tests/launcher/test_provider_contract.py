"""What every provider promises, asked of each of them. A new provider adds one line to PROVIDERS or CLOUDS."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from launcher.errors import GptopsError, NoOffer, UsageError
from launcher.paths import StatePaths
from launcher.providers.base import CreateRequest, Instance, Provider, Wanted
from launcher.providers.by_name import AVAILABLE, open_provider
from launcher.providers.local import LocalProvider
from launcher.providers.ssh import SshProvider
from launcher.providers.static_host import StaticHost
from launcher.remote.host import Address
from launcher.remote.keys import ensure_key, public_line
from tests.doubles.cloud import Cloud
from tests.doubles.lambda_cloud import LambdaDouble
from tests.doubles.runpod import RunpodDouble
from tests.doubles.vast_cloud import VastCloud
from tests.launcher.conftest import require_programs


def a_local_provider(state: StatePaths) -> Provider:
    require_programs()
    return LocalProvider(state.provider("local"))


def a_static_provider(state: StatePaths) -> Provider:
    hosts = {"gpubox": StaticHost(Address("gpubox.example", 2222, "trainer"), None, 2, "NVIDIA H100 80GB HBM3")}
    return SshProvider(state.provider("ssh"), hosts)


PROVIDERS: dict[str, Callable[[StatePaths], Provider]] = {"local": a_local_provider, "ssh": a_static_provider}


def a_vast_double(folder: Path) -> VastCloud:
    return VastCloud(folder, sshd=False)


CLOUDS: dict[str, tuple[Callable[[Path], Cloud], str, str, str]] = {
    "vast": (a_vast_double, "VAST_URL", "VAST_API_KEY", "99999999"),
    "runpod": (RunpodDouble, "RUNPOD_REST_URL", "RUNPOD_API_KEY", "podnothing"),
    "lambda_cloud": (LambdaDouble, "LAMBDA_API_URL", "LAMBDA_API_KEY", "0" * 31 + "f"),
}
"""Their double, the variables that lead to it, and an id that no machine has."""


@dataclass
class Market:
    """A provider, and everything a test has opened at it."""

    provider: Provider
    state: StatePaths
    make: Callable[[StatePaths], Provider]
    missing_id: str = "gptops.contract.never-was"
    opened: list[Instance] = field(default_factory=list)

    def create(self, label: str | None = None) -> Instance:
        ensure_key(self.state.private_key)
        label = label or f"gptops:contract:{uuid.uuid4().hex[:12]}"
        request = CreateRequest(label, "an-image", 0, public_line(self.state.private_key))
        self.opened.append(self.provider.create(self.provider.offers(Wanted())[0], request))
        return self.opened[-1]

    def again(self) -> Provider:
        """The provider as another process sees it."""
        return self.make(self.state)


@pytest.fixture(params=[*PROVIDERS, *CLOUDS])
def market(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Market]:
    state = StatePaths(tmp_path / "state")
    with contextlib.ExitStack() as stack:
        if request.param in PROVIDERS:
            make = PROVIDERS[request.param]
            market = Market(make(state), state, make)
        else:
            start, url_variable, key_variable, missing_id = CLOUDS[request.param]
            double = stack.enter_context(start(tmp_path / "double"))
            monkeypatch.setenv(url_variable, double.url)
            monkeypatch.setenv(key_variable, double.key)
            market = Market(_opened_by_name(request.param)(state), state, _opened_by_name(request.param), missing_id)
        yield market
        for instance in market.opened:
            market.provider.destroy(instance.instance_id)


def _opened_by_name(name: str) -> Callable[[StatePaths], Provider]:
    return lambda state: open_provider(name, state)


def test_every_available_provider_is_in_this_suite() -> None:
    assert {*PROVIDERS, *CLOUDS} == set(AVAILABLE)


def test_its_name_is_the_word_in_jobs_yaml(market: Market) -> None:
    assert open_provider(market.provider.name, market.state).name == market.provider.name


def test_an_offer_fits_what_was_wanted_and_says_what_it_costs(market: Market) -> None:
    for offer in market.provider.offers(Wanted()):
        assert offer.provider == market.provider.name
        assert offer.description
        assert offer.price_per_hour >= 0


def test_offers_come_cheapest_first(market: Market) -> None:
    prices = [offer.price_per_hour for offer in market.provider.offers(Wanted())]
    assert prices == sorted(prices)


def test_nothing_is_offered_where_nothing_fits(market: Market) -> None:
    assert market.provider.offers(Wanted(gpus=1_000)) == []
    if market.provider.name in PROVIDERS:  # a market is asked broadly: renting.choice leaves out, and says why
        assert market.provider.offers(Wanted(gpus=1, gpu_names=("no such model",))) == []


def test_offering_opens_nothing(market: Market) -> None:
    market.provider.offers(Wanted())
    assert market.provider.labelled("") == []


def test_a_spot_offer_without_a_bid_opens_nothing(market: Market) -> None:
    try:
        spot = [offer for offer in market.provider.offers(Wanted(spot=True)) if offer.spot]
    except NoOffer:
        spot = []  # it has none, and says so
    for offer in spot:
        with pytest.raises(GptopsError):
            market.provider.create(offer, CreateRequest("gptops:contract:spot", "an-image", 20, "ssh-ed25519 AAAA"))
    assert market.provider.labelled("gptops:contract:spot") == []


def test_what_was_created_bears_its_label_and_is_found_by_it(market: Market) -> None:
    instance = market.create("gptops:contract:aaaa")
    assert instance.label == "gptops:contract:aaaa"
    for prefix in ("gptops:contract:aaaa", "gptops:contract:", "gptops:"):
        assert [each.instance_id for each in market.provider.labelled(prefix)] == [instance.instance_id]
    assert market.provider.labelled("gptops:contract:b") == []
    assert market.provider.labelled("gptops:other") == []


def test_another_process_finds_it_by_id_and_by_label(market: Market) -> None:
    instance = market.create()
    other = market.again()
    found = other.get(instance.instance_id)
    assert found is not None
    assert (found.label, found.instance_id) == (instance.label, instance.instance_id)
    assert [each.instance_id for each in other.labelled(instance.label)] == [instance.instance_id]


def test_ids_are_unique(market: Market) -> None:
    assert market.create().instance_id != market.create().instance_id


def test_a_label_with_dots_and_dashes_comes_back_as_it_was(market: Market) -> None:
    label = "gptops:my-gpt.v2:0a1b-2c3d"
    market.create(label)
    assert [each.label for each in market.provider.labelled(label)] == [label]


def test_what_does_not_exist_is_none(market: Market) -> None:
    assert market.provider.get(market.missing_id) is None


def test_destroying_proves_itself_by_absence(market: Market) -> None:
    instance = market.create()
    market.provider.destroy(instance.instance_id)
    assert market.provider.get(instance.instance_id) is None
    assert market.provider.labelled(instance.label) == []


def test_destroying_a_missing_instance_succeeds(market: Market) -> None:
    instance = market.create()
    market.provider.destroy(instance.instance_id)
    market.provider.destroy(instance.instance_id)
    market.provider.destroy(market.missing_id)
    assert market.provider.get(instance.instance_id) is None


def test_destroying_one_leaves_the_others(market: Market) -> None:
    first, second = market.create(), market.create()
    market.provider.destroy(first.instance_id)
    assert market.provider.get(second.instance_id) is not None


def test_an_id_that_would_leave_its_folder_is_refused(market: Market) -> None:
    for instance_id in ("../../etc", "gptops./../x", "", "gptops.a\nb", "x; rm -rf ~"):
        with pytest.raises(GptopsError):
            market.provider.destroy(instance_id)


def test_a_provider_that_this_version_lacks_says_what_there_is(tmp_path: Path) -> None:
    for name in ("ec2", "vats"):
        with pytest.raises(UsageError, match=f"no provider `{name}`") as raised:
            open_provider(name, StatePaths(tmp_path))
        assert "local, ssh, vast" in raised.value.why
