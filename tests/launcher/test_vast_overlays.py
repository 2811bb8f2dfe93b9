"""Vast's overlay networks: made once, found by their names, deleted for good; and instances inside them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from launcher.books.ledger import InstanceState, Ledger, NetworkRow
from launcher.errors import KeyRefused, ProviderDown, ProviderError, StillOpen
from launcher.hosts.networks import close_network, make_network
from launcher.paths import StatePaths
from launcher.providers.api_keys import ApiKey
from launcher.providers.base import CreateRequest, Wanted
from launcher.providers.http import Api
from launcher.providers.networks import Network, network_name
from launcher.providers.vast_overlays import VastOverlays
from tests.conftest import FakeClock
from tests.doubles.cloud import DROPPED, Reply
from tests.doubles.vast_api import too_frequent
from tests.doubles.vast_cloud import VastCloud
from tests.doubles.vast_lan import OVERLAY
from tests.launcher.vast_desk import KEY_LINE, provider_of

LABEL = "gptops:tests:0123456789ab"
NAME = "gptops-0123456789ab"


@dataclass
class Bench:
    """Somebody who makes networks, with a ledger."""

    vast: VastCloud
    overlays: VastOverlays
    ledger: Ledger
    state: StatePaths
    clock: FakeClock

    def intend(self) -> NetworkRow:
        return self.ledger.intend_network(
            label=LABEL, group_name="pair", provider="vast", project="tests", cluster_id="77"
        )

    def make(self) -> Network:
        return make_network(self.intend(), self.overlays, self.ledger, self.state, self.clock)

    def close(self) -> None:
        close_network(self.ledger.network(LABEL), self.overlays, self.ledger, self.state, self.clock)

    @property
    def names(self) -> list[str]:
        return [overlay.name for overlay in self.vast.overlays.values()]


@pytest.fixture
def bench(tmp_path: Path, fake_clock: FakeClock) -> Iterator[Bench]:
    state = StatePaths(tmp_path / "state")
    with VastCloud(tmp_path / "vast", sshd=False) as vast, Ledger(state.ledger, fake_clock) as ledger:
        vast.cluster(2, "H100 SXM", gpus=8, gpu_per_hour=16.0)
        key = ApiKey("vast", vast.key, "a test")
        api = Api(vast.url, lambda: key, provider="vast", clock=fake_clock, pauses={})
        yield Bench(vast, VastOverlays(api), ledger, state, fake_clock)


def test_a_network_is_named_after_its_label_in_letters_that_the_vendors_client_takes() -> None:
    assert network_name("gptops:My.Project_1:0123456789AB") == NAME


def test_a_network_is_made_found_in_the_list_and_deleted_for_good(bench: Bench) -> None:
    made = bench.make()
    assert (made.name, made.cluster_id, made.subnet) == (NAME, "77", "10.1.0.0/24")
    assert made.has("10.1.0.7")
    assert not made.has("172.17.0.2")
    assert bench.ledger.network(LABEL).network_id == made.network_id
    bench.close()
    assert bench.names == []
    assert bench.ledger.networks() == []
    bench.close()  # already gone is success


def test_a_subnet_that_is_not_told_is_no_error(bench: Bench) -> None:
    bench.vast.tells_subnets = False
    made = bench.make()
    assert made.subnet == ""
    assert not made.has("10.1.0.7")


@pytest.mark.parametrize("when", ["before", "after"])
def test_after_a_lost_answer_the_name_tells_what_came_of_it(bench: Bench, when: str) -> None:
    bench.vast.fail("POST", OVERLAY, DROPPED, when=when)  # type: ignore[arg-type]
    if when == "after":
        assert bench.make().name == NAME
    else:
        with pytest.raises(ProviderDown):
            bench.make()
    assert bench.vast.count("POST", OVERLAY) == 1, "asked once, whatever comes"


def test_asked_too_often_it_is_asked_again_for_nothing_was_done(bench: Bench) -> None:
    bench.vast.fail("POST", OVERLAY, too_frequent(4.5)[0], times=2)
    assert bench.make().name == NAME
    assert bench.vast.count("POST", OVERLAY) == 3


def test_networks_of_others_are_neither_listed_nor_touched(bench: Bench) -> None:
    bench.overlays.create("77", "somebody-elses")
    bench.overlays.create("77", "gptops-0123456789abc")
    bench.make()
    assert {network.name for network in bench.overlays.named("gptops-")} == {NAME, "gptops-0123456789abc"}
    bench.close()
    assert bench.names == ["somebody-elses", "gptops-0123456789abc"]


def test_a_delete_that_is_refused_for_a_while_is_asked_again_until_the_list_proves_it(bench: Bench) -> None:
    bench.make()
    bench.vast.fail("DELETE", OVERLAY, Reply(503, "<html>"), times=1)
    bench.vast.fail("GET", OVERLAY, too_frequent(2.0)[1], times=1)
    bench.close()
    assert bench.names == []


@pytest.mark.parametrize("nonsense", [None, {"overlays": []}, "[]x"])
def test_a_list_that_is_none_proves_nothing(bench: Bench, nonsense: object) -> None:
    bench.make()
    bench.vast.fail("GET", OVERLAY, Reply(200, nonsense), times=1000)
    with pytest.raises(StillOpen) as raised:
        bench.close()
    assert raised.value.what == f"the private network {NAME} of `pair` may still exist"
    assert "gptops gc" in raised.value.hint
    assert bench.ledger.network(LABEL).state is InstanceState.CLOSING


def test_a_key_that_may_not_is_told_as_such(bench: Bench) -> None:
    bench.vast.fail("POST", OVERLAY, Reply(403, {"success": False, "error": "not_authorized", "msg": "no user_write"}))
    with pytest.raises(KeyRefused):
        bench.make()


def test_a_cluster_that_is_no_number_is_refused_here(bench: Bench) -> None:
    with pytest.raises(ProviderError):
        bench.overlays.create("77/../8", NAME)
    assert bench.vast.requests == []


def test_an_instance_is_created_inside_the_network_and_only_on_machines_of_its_cluster(bench: Bench) -> None:
    bench.make()
    provider = provider_of(bench.vast, bench.clock)
    offers = provider.offers(Wanted(gpus=8, disk_gib=20))
    inside = [offer for offer in offers if offer.cluster_id == "77"]
    assert [offer.driver for offer in inside] == ["580.65.06"] * 2
    request = CreateRequest("gptops:tests:1", "an/image:1", 20, KEY_LINE, network=NAME)
    box = bench.vast.box(provider.create(inside[0], request).instance_id)
    assert box.request["env"] == {f"-n {NAME}": "1"}
    assert box.inside == "10.1.0.1/24"
    outside = next(offer for offer in offers if not offer.cluster_id)
    with pytest.raises(ProviderError):
        provider.create(outside, request)
