"""All sixteen ways in which renting at Vast goes wrong, as the provider shows them; and what each costs by the meter.

Those about rows run without hosts. Those about SSH log in to real ones.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from launcher.errors import GptopsError, MayHaveCreated, OfferGone, RateLimited
from launcher.providers.base import Instance, Status
from launcher.providers.retrying import Retrying
from launcher.remote.host import Address
from launcher.remote.keys import ensure_key, public_line
from tests.conftest import FakeClock
from tests.doubles.machines import reason_to_skip
from tests.doubles.vast_cloud import VastCloud
from tests.doubles.vast_scenarios import SCENARIOS
from tests.launcher.vast_desk import KEY_LINE, LABEL, Desk, desk, provider_of
from tests.launcher.waiting import wait_until

__all__ = ["desk"]

HOUR = 3600.0


def refused(desk: Desk) -> GptopsError:
    with pytest.raises(GptopsError) as raised:
        desk.create()
    return raised.value


def test_1_an_offer_taken_meanwhile_is_gone_in_both_of_the_vendors_ways(desk: Desk) -> None:
    desk.vast.script("offer_taken", times=2)
    assert [type(refused(desk)) for _ in range(2)] == [OfferGone, OfferGone]
    desk.create()
    assert desk.vast.count("PUT", "/asks/") == 3
    assert len(desk.vast.alive()) == 1


def test_1_an_offer_that_somebody_has_rented_is_gone_and_comes_back(desk: Desk) -> None:
    offer = desk.offer()
    first = desk.create(offer)
    with pytest.raises(OfferGone):
        desk.create(offer)
    assert desk.offer() != offer
    desk.provider.destroy(first.instance_id)
    assert desk.offer() == offer


def test_2_a_new_instance_may_be_unseen_at_first(desk: Desk) -> None:
    desk.vast.script("show_blind", nulls=2)
    instance = desk.create()
    retrying = Retrying(desk.provider, desk.clock)
    assert retrying.get(instance.instance_id) is None  # after a 429 that was waited out
    assert [each.instance_id for each in retrying.labelled(LABEL)] == [instance.instance_id]
    assert retrying.get(instance.instance_id) is None
    assert desk.get(instance).label == LABEL
    assert desk.clock.slept == [2.0]


@pytest.mark.parametrize(("script", "alive"), [("create_reply_lost", 1), ("create_request_lost", 0)])
def test_3_after_a_lost_answer_only_the_label_tells(desk: Desk, script: str, alive: int) -> None:
    desk.vast.script(script)
    error = refused(desk)
    assert isinstance(error, MayHaveCreated)
    assert error.instance_id is None
    found = [each.instance_id for each in desk.provider.labelled(LABEL)]
    assert found == desk.vast.alive()
    assert len(found) == alive
    for instance_id in found:
        desk.provider.destroy(instance_id)
    assert desk.vast.meter.per_hour == 0


def test_4_an_error_that_names_an_instance_has_made_one(desk: Desk) -> None:
    desk.vast.script("error_with_contract")
    error = refused(desk)
    assert isinstance(error, MayHaveCreated)
    assert error.instance_id is not None
    assert desk.vast.alive() == [error.instance_id]
    desk.vast.time.advance(10 * HOUR)
    assert desk.vast.dollars() > 0  # its disk
    desk.provider.destroy(error.instance_id)
    assert (desk.vast.alive(), desk.vast.meter.per_hour) == ([], 0)


def test_5_what_loads_for_ever_never_runs_and_bills_its_disk_alone(desk: Desk) -> None:
    desk.vast.script("loading_forever")
    instance = desk.create()
    desk.vast.time.advance(5 * HOUR)
    assert desk.get(instance).status is Status.STARTING
    desk.vast.dollars()
    bill = desk.vast.meter.of(instance.instance_id)
    assert bill.gpu == 0
    assert bill.disk == pytest.approx(5 * 0.15 * 20 / 730, rel=0.01)


def test_6_a_container_that_cannot_be_made_has_failed(desk: Desk) -> None:
    desk.vast.script("oci_error")
    instance = desk.running()
    assert instance.status is Status.FAILED
    assert "OCI runtime create failed" in instance.detail


def test_7_the_ports_come_later_than_the_status(desk: Desk) -> None:
    desk.vast.script("ports_missing", seconds=300)
    instance = desk.running()
    assert instance.status is Status.RUNNING
    assert [address.host for address in instance.addresses] == ["localhost"]
    desk.vast.time.advance(300)
    assert [address.host for address in desk.get(instance).addresses] == ["127.0.0.1", "localhost"]


def test_12_an_outbid_machine_is_preempted_bills_its_disk_and_may_come_back(desk: Desk) -> None:
    offer = desk.offer(spot=True)
    assert offer.min_bid is not None
    instance = desk.create(offer, bid=offer.min_bid)
    on_demand = desk.create(label="gptops:tests:other")
    desk.vast.time.advance(HOUR)
    assert desk.get(instance).status is Status.RUNNING
    desk.vast.script("outbid")
    assert desk.get(instance).status is Status.PREEMPTED
    assert desk.get(on_demand).status is Status.RUNNING
    desk.vast.dollars()
    bill = desk.vast.meter.of(instance.instance_id)
    assert (bill.gpu_per_hour, bill.disk_per_hour > 0) == (0.0, True)
    assert bill.gpu == pytest.approx(offer.min_bid, rel=0.02)
    desk.vast.resume(instance.instance_id)
    assert desk.get(instance).status is Status.RUNNING
    assert desk.vast.meter.of(instance.instance_id).gpu_per_hour == offer.min_bid


def test_13_a_destroy_is_asked_until_it_is_heard(desk: Desk) -> None:
    instance = desk.create()
    desk.vast.script("destroy_limited", times=2)
    with pytest.raises(RateLimited):
        desk.provider.destroy(instance.instance_id)
    Retrying(desk.provider, desk.clock).destroy(instance.instance_id)
    assert desk.vast.alive() == []


def test_13_what_was_destroyed_may_be_listed_for_a_while_and_bills_nothing(desk: Desk) -> None:
    desk.vast.script("destroy_lingers", looks=2)
    instance = desk.create()
    desk.provider.destroy(instance.instance_id)
    assert desk.vast.meter.per_hour == 0
    assert desk.provider.get(instance.instance_id) is not None
    assert len(desk.provider.labelled(LABEL)) == 1
    assert desk.provider.get(instance.instance_id) is None
    assert desk.provider.labelled(LABEL) == []


def test_13_an_end_that_says_there_was_nothing_is_an_end(desk: Desk) -> None:
    instance = desk.create()
    desk.vast.script("destroy_gone")
    desk.provider.destroy(instance.instance_id)
    assert desk.vast.alive() == []


def test_14_the_price_that_counts_is_the_instances_own(desk: Desk) -> None:
    desk.vast.script("price_changed", factor=1.5)
    offer = desk.offer()
    instance = desk.create(offer)
    gpus = offer.price_per_hour - offer.disk_per_hour
    assert instance.price_per_hour == offer.price_per_hour
    assert desk.get(instance).price_per_hour == pytest.approx(1.5 * gpus + offer.disk_per_hour, abs=1e-5)


def test_14_a_bid_that_was_billed_on_demand_shows_itself(desk: Desk) -> None:
    desk.vast.next(on_demand_anyway=True)
    offer = desk.offer(spot=True)
    instance = desk.create(offer, bid=offer.min_bid)
    assert instance.spot
    assert not desk.get(instance).spot


def test_15_ours_is_found_behind_a_full_page_of_others(desk: Desk) -> None:
    desk.vast.script("strangers", count=30)
    instance = desk.create(desk.offer(gpus=8))
    assert [each.instance_id for each in desk.provider.labelled("gptops:")] == [instance.instance_id]


def test_16_without_credit_everything_stops_and_nothing_can_be_opened(desk: Desk) -> None:
    instance = desk.running()
    desk.vast.script("credit_gone")
    assert desk.get(instance).status is Status.PREEMPTED
    assert "may not spend more" in refused(desk).what


def test_16_credit_ends_when_the_meter_has_reached_it(desk: Desk) -> None:
    desk.vast.credit = 1.0
    instance = desk.running()
    desk.vast.time.advance(100 * HOUR)
    assert desk.get(instance).status is Status.PREEMPTED


# With real hosts


@dataclass
class Guest:
    """A user who can log in."""

    desk: Desk
    key: Path

    def running(self, script: str = "", **options: object) -> Instance:
        """An instance that runs and knows our key."""
        if script:
            self.desk.vast.script(script, **options)
        instance = self.desk.create()
        self.desk.provider.authorize(instance.instance_id, public_line(self.key))
        self.desk.vast.time.advance(20)
        return self.desk.get(instance)

    def says(self, address: Address, command: str = "echo hello") -> str:
        """What a command prints there; "" where nobody lets us in."""
        options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "BatchMode=yes", "LogLevel=ERROR"]
        argv = ["ssh", "-i", str(self.key), "-p", str(address.port)]
        argv += [word for option in options for word in ("-o", option)]
        done = subprocess.run([*argv, f"{address.user}@{address.host}", command], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    def answers(self, address: Address) -> bool:
        """As soon as its sshd, which may just have been started, can be heard."""
        return bool(wait_until(lambda: self.says(address), seconds=60, what=f"{address} answers"))


@pytest.fixture
def guest(tmp_path: Path, fake_clock: FakeClock) -> Iterator[Guest]:
    if reason := reason_to_skip():
        pytest.skip(reason)
    ensure_key(tmp_path / "key")
    with VastCloud(tmp_path / "vast") as vast:
        yield Guest(Desk(vast, provider_of(vast, fake_clock), fake_clock), tmp_path / "key")


def test_8_sshd_refuses_until_its_time_has_come(guest: Guest) -> None:
    instance = guest.running("sshd_late", seconds=100)
    assert instance.status is Status.RUNNING
    assert guest.says(instance.addresses[0]) == ""
    guest.desk.vast.time.advance(100)
    assert guest.answers(guest.desk.get(instance).addresses[0])


def test_8_only_an_attached_key_is_let_in(guest: Guest) -> None:
    instance = guest.desk.running()
    stranger = guest.key.with_name("stranger")
    ensure_key(stranger)
    guest.desk.provider.authorize(instance.instance_id, public_line(stranger))
    assert Guest(guest.desk, stranger).answers(instance.addresses[0])
    assert guest.says(instance.addresses[0]) == ""
    guest.desk.provider.authorize(instance.instance_id, public_line(guest.key))
    assert guest.says(instance.addresses[0]) == "hello"


@pytest.mark.parametrize(("script", "open_way"), [("direct_filtered", 1), ("proxy_dead", 0)])
def test_9_one_way_is_open_where_the_other_is_not(guest: Guest, script: str, open_way: int) -> None:
    instance = guest.running(script)
    assert guest.answers(instance.addresses[open_way])
    assert guest.says(instance.addresses[1 - open_way]) == ""


def test_10_a_machine_shows_what_it_really_has(guest: Guest) -> None:
    asked = "nvidia-smi --query-gpu=name,driver_version --format=csv,noheader || echo broken"
    for script, shown in (
        ("old_driver", "NVIDIA GeForce RTX 3090, 470.82.01"),
        ("wrong_gpus", ""),
        ("broken_nvidia_smi", "broken"),
    ):
        instance = guest.running(script)
        assert guest.answers(instance.addresses[0])
        assert guest.says(instance.addresses[0], asked).endswith(shown)
        guest.desk.provider.destroy(instance.instance_id)


def test_11_a_host_goes_offline_and_returns_elsewhere_with_its_disk_and_its_key(guest: Guest) -> None:
    instance = guest.running()
    address = instance.addresses[0]
    assert guest.answers(address)
    guest.says(address, "echo kept > file; setsid sleep 1000 >/dev/null 2>&1 </dev/null &")
    machine = guest.desk.vast.box(instance.instance_id).machine
    assert machine is not None
    assert machine.processes()
    guest.desk.vast.script("moves")
    assert guest.desk.get(instance).status is Status.SILENT
    assert machine.processes() == []
    assert guest.says(address) == ""
    guest.desk.vast.resume(instance.instance_id)
    back = guest.desk.get(instance)
    assert back.status is Status.RUNNING
    assert back.addresses[0] != address
    assert guest.answers(back.addresses[0])
    assert guest.says(back.addresses[0], "cat file") == "kept"


def test_a_machine_can_end_itself_and_nothing_else_with_the_key_it_finds(guest: Guest) -> None:
    first, second = guest.running(), guest.running()
    assert guest.answers(first.addresses[0])
    found = guest.says(first.addresses[0], 'echo "$CONTAINER_ID $CONTAINER_API_KEY $GPU_COUNT"').split()
    assert (found[0], found[2]) == (first.instance_id, "1")
    own = provider_of(guest.desk.vast, guest.desk.clock, key=found[1])
    with pytest.raises(GptopsError):
        own.destroy(second.instance_id)
    with pytest.raises(GptopsError):
        own.labelled("")
    own.destroy(first.instance_id)
    assert guest.desk.vast.alive() == [second.instance_id]


def test_a_machine_ends_with_everything_that_runs_on_it(guest: Guest) -> None:
    instance = guest.running()
    assert guest.answers(instance.addresses[0])
    guest.says(instance.addresses[0], "setsid sleep 1000 >/dev/null 2>&1 </dev/null &")
    machine = guest.desk.vast.box(instance.instance_id).machine
    assert machine is not None
    guest.desk.provider.destroy(instance.instance_id)
    assert machine.processes() == []
    assert not machine.folder.exists()


def test_every_scenario_is_tried_here() -> None:
    tried = Path(__file__).read_text()
    assert [name for name in SCENARIOS if f'"{name}"' not in tried and name != "key_missing"] == []


def test_the_meter_of_the_double_can_follow_a_clock(tmp_path: Path, fake_clock: FakeClock) -> None:
    with VastCloud(tmp_path / "vast", sshd=False, clock=fake_clock) as vast:
        desk = Desk(vast, provider_of(vast, fake_clock), fake_clock)
        offer = desk.offer(gpus=8)
        instance = desk.create(offer)
        fake_clock.advance(12 + HOUR)
        gpu = offer.price_per_hour - offer.disk_per_hour
        assert vast.dollars() == pytest.approx(gpu + offer.disk_per_hour * (HOUR + 12) / HOUR, rel=1e-4)
        desk.provider.destroy(instance.instance_id)
        charged = vast.dollars()
        fake_clock.advance(24 * HOUR)
        assert vast.dollars() == charged


def test_keys_attached_before_the_machine_runs_are_there_when_it_does(guest: Guest) -> None:
    instance = guest.desk.create()
    guest.desk.provider.authorize(instance.instance_id, KEY_LINE)
    guest.desk.provider.authorize(instance.instance_id, public_line(guest.key))
    guest.desk.vast.time.advance(20)
    assert guest.answers(guest.desk.get(instance).addresses[0])
