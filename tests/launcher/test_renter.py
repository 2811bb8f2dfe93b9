"""Renting against the double of Vast, real hosts behind it: every way to fail ends with nothing that bills unseen.

Each test looks at the double's own books: what lives, what was asked, what the meter says.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest

from launcher.books.budget import Limits
from launcher.books.ledger import InstanceRow, InstanceState, Ledger
from launcher.errors import (
    GptopsError,
    HostRefused,
    KeyRefused,
    MayHaveCreated,
    NeverReady,
    NoOffer,
    OfferGone,
    OverBudget,
    StillOpen,
    Unreachable,
)
from launcher.hosts.closing import end_instance
from launcher.hosts.steps import Lines
from launcher.paths import StatePaths, state_paths
from launcher.providers.base import CreateRequest, Provider, Wanted
from launcher.providers.by_name import open_provider
from launcher.renting.attempts import MOST_GONE
from launcher.renting.market import RentRequest
from launcher.renting.renter import Renter
from tests.doubles.cloud import Reply
from tests.doubles.fixtures import vast, vast_rows  # noqa: F401 (fixtures)
from tests.doubles.vast_api import CREATE, ONE
from tests.doubles.vast_cloud import VastCloud
from tests.launcher.hurry import HurriedClock

H100 = Wanted(gpus=1, gpu_names=("H100",), disk_gib=20, min_cuda=13.0)
CHEAPEST, SECOND = "80004", "80005"
"""The machines of the market's two single H100s."""


@dataclass
class Agency:
    """A user who rents, and what they were told."""

    ledger: Ledger
    state: StatePaths
    clock: HurriedClock
    said: list[str] = field(default_factory=list)

    @property
    def provider(self) -> Provider:
        return open_provider("vast", self.state, clock=self.clock)

    @property
    def renter(self) -> Renter:
        return Renter(self.provider, self.ledger, self.state, self.clock, Lines(self.said.append, self.clock))

    def request(self, wanted: Wanted = H100, **changes: object) -> RentRequest:
        return replace(RentRequest(wanted, "tests", image="img", name="box"), **changes)  # type: ignore[arg-type]

    def rent(self, wanted: Wanted = H100, **changes: object) -> InstanceRow:
        return self.renter.rent(self.request(wanted, **changes), None)

    def fails(self, kind: type[GptopsError], wanted: Wanted = H100, **changes: object) -> GptopsError:
        with pytest.raises(kind) as raised:
            self.rent(wanted, **changes)
        return raised.value

    def end(self, row: InstanceRow) -> None:
        end_instance(row, self.provider, self.ledger, self.state, self.clock)

    def bad(self) -> set[str]:
        return set(self.ledger.bad_machines("vast"))


@pytest.fixture
def agency() -> Iterator[Agency]:
    clock, state = HurriedClock(), state_paths()
    with Ledger(state.ledger, clock) as ledger:
        yield Agency(ledger, state, clock)


def nothing_bills(double: VastCloud, *, at_most: float = 0.5) -> bool:
    """The meter's word: nothing lives, nothing is charged any more, and what was is cents."""
    assert double.alive() == []
    assert double.meter.per_hour == 0.0
    assert double.dollars() < at_most
    return True


def machine_of(double: VastCloud) -> str:
    """The one machine that lives."""
    [name] = double.alive()
    return str(double.box(name).ask["machine_id"])


# The best offer


def test_the_cheapest_that_fits_is_rented_and_its_end_ends_the_bill(vast: VastCloud, agency: Agency) -> None:  # noqa: F811
    row = agency.rent()
    assert machine_of(vast) == CHEAPEST
    assert (row.state, row.machine_id, row.gpus) == (InstanceState.OPEN, CHEAPEST, 1)
    assert row.price_per_hour == pytest.approx(2.10 + row.disk_per_hour)
    assert agency.ledger.prices(row.label)
    assert vast.count("POST", r"/ssh/$") == 1, "the key is attached to the instance, always"
    agency.end(row)
    assert nothing_bills(vast)


def test_what_an_earlier_failure_taught_is_kept_but_an_offer_that_is_named_is_taken(
    vast_rows: VastCloud,  # noqa: F811
    agency: Agency,
) -> None:
    agency.ledger.ban_machine("vast", CHEAPEST, "no sshd")
    assert agency.renter.plan(agency.request()).offer.machine_id == SECOND
    assert agency.renter.plan(agency.request(offer_id="1004")).offer.machine_id == CHEAPEST
    assert vast_rows.alive() == []


def test_an_offer_that_is_named_and_not_there_is_no_offer(vast_rows: VastCloud, agency: Agency) -> None:  # noqa: F811
    error = agency.fails(NoOffer, offer_id="999")
    assert "999" in error.what
    assert vast_rows.count("PUT", CREATE) == 0


def test_nothing_that_fits_is_said_before_anything_is_created(vast_rows: VastCloud, agency: Agency) -> None:  # noqa: F811
    error = agency.fails(NoOffer, replace(H100, max_price_per_hour=1.0))
    assert "2 by price" in error.why
    assert error.hint.startswith("--max-price 2.11 ")
    assert agency.ledger.instances() == []
    assert vast_rows.count("PUT", CREATE) == 0


# Offers that are gone


def test_offers_that_are_gone_cost_no_try(vast: VastCloud, agency: Agency) -> None:  # noqa: F811
    vast.sell("H100 SXM", gpu_per_hour=2.2)
    vast.script("offer_taken", times=2)
    row = agency.rent(tries=1)
    assert vast.count("PUT", CREATE) == 3
    assert agency.bad() == set(), "the machine has done nothing"
    agency.end(row)
    assert nothing_bills(vast)


def test_a_market_where_every_offer_is_gone_is_given_up(vast_rows: VastCloud, agency: Agency) -> None:  # noqa: F811
    for _ in range(MOST_GONE + 5):
        vast_rows.sell("H100 SXM", gpu_per_hour=2.2)
    vast_rows.script("offer_taken", times=100)
    error = agency.fails(NeverReady)
    assert f"{MOST_GONE} offers were gone" in error.what
    assert vast_rows.count("PUT", CREATE) == MOST_GONE
    assert nothing_bills(vast_rows, at_most=0.001)


# Answers that do not tell


def test_a_machine_whose_answer_was_lost_is_found_by_its_label_and_adopted(vast: VastCloud, agency: Agency) -> None:  # noqa: F811
    vast.script("create_reply_lost")
    row = agency.rent()
    assert vast.count("PUT", CREATE) == 1, "create is asked once for a label"
    assert vast.alive() == [row.instance_id]
    agency.end(row)
    assert nothing_bills(vast)


def test_where_the_question_was_lost_nothing_is_found_and_the_next_is_taken(vast: VastCloud, agency: Agency) -> None:  # noqa: F811
    vast.script("create_request_lost")
    row = agency.rent()
    assert vast.count("PUT", CREATE) == 2
    assert vast.alive() == [row.instance_id]
    agency.end(row)
    assert nothing_bills(vast)


def test_a_machine_whose_answer_was_lost_and_that_is_not_as_planned_is_ended(
    vast_rows: VastCloud,  # noqa: F811
    agency: Agency,
) -> None:
    vast_rows.script("create_reply_lost")
    vast_rows.script("price_changed", factor=3.0)
    agency.fails(MayHaveCreated, tries=1)
    assert len(vast_rows.boxes) == 1
    assert nothing_bills(vast_rows)


def test_a_machine_that_an_error_names_is_ours_and_ended(vast_rows: VastCloud, agency: Agency) -> None:  # noqa: F811
    vast_rows.script("error_with_contract")
    agency.fails(MayHaveCreated, tries=1)
    assert len(vast_rows.boxes) == 1
    assert nothing_bills(vast_rows)


# Machines that do not become ready


@pytest.mark.parametrize(
    ("scenario", "minutes", "kind", "banned"),
    [
        ("loading_forever", 30, Unreachable, {CHEAPEST}),
        ("loading_forever", 2, Unreachable, set()),  # it was not given the time that loading may take
        ("oci_error", 2, NeverReady, {CHEAPEST}),
    ],
)
def test_a_machine_that_never_answers_is_ended_in_time_and_not_taken_again(
    vast_rows: VastCloud,  # noqa: F811
    agency: Agency,
    scenario: str,
    minutes: float,
    kind: type[GptopsError],
    banned: set[str],
) -> None:
    vast_rows.script(scenario)
    agency.fails(kind, tries=1, deadline_seconds=60 * minutes)
    assert agency.bad() == banned
    assert nothing_bills(vast_rows)
    assert agency.ledger.instances() == []


def test_a_machine_where_nobody_listens_is_ended(vast_rows: VastCloud, agency: Agency) -> None:  # noqa: F811
    error = agency.fails(Unreachable, tries=1, deadline_seconds=60.0)
    assert "refused" in error.why
    assert nothing_bills(vast_rows)


@pytest.mark.parametrize("scenario", ["wrong_gpus", "broken_nvidia_smi", "old_driver"])
def test_a_machine_without_the_gpus_it_was_sold_with_gives_way_to_the_next(
    vast: VastCloud,  # noqa: F811
    agency: Agency,
    scenario: str,
) -> None:
    vast.script(scenario)
    row = agency.rent()
    assert machine_of(vast) == SECOND
    assert agency.bad() == {CHEAPEST}
    agency.end(row)
    assert nothing_bills(vast)


def test_after_the_tries_are_used_up_each_machine_is_named_with_its_reason(vast: VastCloud, agency: Agency) -> None:  # noqa: F811
    vast.always(gpus="NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.")
    error = agency.fails(NeverReady, tries=2)
    assert "2 tries" in error.what
    assert error.why.count("NVIDIA-SMI has failed") == 2
    assert agency.bad() == {CHEAPEST, SECOND}
    assert nothing_bills(vast)


def test_a_machine_that_goes_offline_while_it_loads_is_ended(vast_rows: VastCloud, agency: Agency) -> None:  # noqa: F811
    vast_rows.fail("POST", r"/ssh/$", Reply(200, {"success": True}), times=0)
    vast_rows.next(stays="unknown")
    error = agency.fails(NeverReady, tries=1)
    assert "not seen by its provider" in error.what
    assert nothing_bills(vast_rows)


def test_the_next_machine_is_not_much_dearer_than_the_one_that_was_agreed_to(
    vast_rows: VastCloud,  # noqa: F811
    agency: Agency,
) -> None:
    vast_rows.market = [row for row in vast_rows.market if row["id"] != 1005]
    vast_rows.sell("H100 SXM", gpu_per_hour=9.0)
    vast_rows.script("oci_error")
    agency.fails(NeverReady)
    assert len(vast_rows.boxes) == 1
    assert any("no other machine is taken" in line and "1 by price" in line for line in agency.said)
    assert nothing_bills(vast_rows)


# Machines that take their time


@pytest.mark.parametrize(
    ("scenario", "options"),
    [
        ("show_blind", {}),
        ("ports_missing", {"seconds": 30.0}),
        ("sshd_late", {"seconds": 60.0}),
        ("direct_filtered", {}),
        ("proxy_dead", {}),
    ],
)
def test_a_machine_that_takes_its_time_or_has_one_way_in_is_waited_for(
    vast: VastCloud,  # noqa: F811
    agency: Agency,
    scenario: str,
    options: dict[str, float],
) -> None:
    vast.script(scenario, **options)
    row = agency.rent(tries=1)
    assert machine_of(vast) == CHEAPEST
    assert row.address.startswith("root@localhost:" if scenario == "direct_filtered" else "root@127.0.0.1:")
    agency.end(row)
    assert nothing_bills(vast)


def test_a_key_that_is_not_let_in_is_attached_again(vast: VastCloud, agency: Agency) -> None:  # noqa: F811
    vast.fail("POST", r"/ssh/$", Reply(200, {"success": True, "msg": "it says"}))
    row = agency.rent(tries=1)
    assert vast.count("POST", r"/ssh/$") == 2
    agency.end(row)
    assert nothing_bills(vast)


def test_a_key_that_is_never_let_in_ends_the_machine_before_it_costs_much(vast: VastCloud, agency: Agency) -> None:  # noqa: F811
    vast.fail("POST", r"/ssh/$", Reply(200, {"success": True, "msg": "it says"}), times=1000)
    error = agency.fails(HostRefused, tries=1)
    assert "refused our key" in error.what
    assert agency.bad() == {CHEAPEST}
    assert nothing_bills(vast)


# Price and spot


def test_a_price_that_rose_after_the_quote_ends_the_machine_and_is_not_its_fault(
    vast: VastCloud,  # noqa: F811
    agency: Agency,
) -> None:
    vast.script("price_changed", factor=1.5)
    row = agency.rent()
    assert machine_of(vast) == SECOND
    assert agency.bad() == set()
    assert any("it costs $3.15/h, and was offered for $2.10/h" in line for line in agency.said)
    agency.end(row)
    assert nothing_bills(vast)


SPOT = replace(H100, spot=True)


@pytest.mark.parametrize(("bid", "sent"), [(None, 1.05 * 1.1), (1.5, 1.5)])
def test_a_spot_machine_is_asked_for_with_a_price_always(
    vast: VastCloud,  # noqa: F811
    agency: Agency,
    bid: float | None,
    sent: float,
) -> None:
    row = agency.rent(replace(SPOT, bid=bid))
    [asked] = [each for each in vast.requests if each.method == "PUT"]
    assert asked.body["price"] == pytest.approx(sent)
    assert row.spot
    agency.end(row)
    assert nothing_bills(vast)


def test_a_bid_that_was_billed_on_demand_is_ended_and_said(vast_rows: VastCloud, agency: Agency) -> None:  # noqa: F811
    vast_rows.next(on_demand_anyway=True)
    error = agency.fails(NeverReady, SPOT, tries=1)
    assert "on demand" in error.why
    assert nothing_bills(vast_rows)


def test_a_bid_below_the_lowest_creates_nothing(vast_rows: VastCloud, agency: Agency) -> None:  # noqa: F811
    error = agency.fails(NoOffer, replace(SPOT, bid=0.5))
    assert "2 by bid" in error.why
    assert error.hint.startswith("--bid 1.050 ")
    assert vast_rows.count("PUT", CREATE) == 0


def test_a_machine_that_is_outbid_while_it_loads_gives_way_to_the_next(vast: VastCloud, agency: Agency) -> None:  # noqa: F811
    class OutbidOnce(Lines):
        """Somebody bids more when the first machine has been seen twice."""

        def seen(self, what: str) -> None:
            if len(vast.boxes) == 1:
                vast.script("outbid")

    renter = replace(agency.renter, steps=OutbidOnce(agency.said.append, agency.clock))
    row = renter.rent(agency.request(SPOT), None)
    assert machine_of(vast) == SECOND
    assert agency.bad() == set(), "somebody bid more: the machine is as good as it was"
    agency.end(row)
    assert nothing_bills(vast)


# Ends that are hard


@pytest.mark.parametrize("scenario", ["destroy_limited", "destroy_lingers", "destroy_gone"])
def test_an_end_that_takes_several_tries_is_proven_before_the_next_is_taken(
    vast_rows: VastCloud,  # noqa: F811
    agency: Agency,
    scenario: str,
) -> None:
    vast_rows.script(scenario)
    if scenario == "destroy_lingers":
        vast_rows.always(lingers=3, oci_error=True)
        vast_rows._next.clear()
    else:
        vast_rows.script("oci_error")
    agency.fails(NeverReady, tries=1)
    assert nothing_bills(vast_rows)
    assert agency.ledger.instances() == []


def test_a_machine_that_cannot_be_ended_stops_everything_and_is_named(vast_rows: VastCloud, agency: Agency) -> None:  # noqa: F811
    vast_rows.script("oci_error")
    vast_rows.fail("DELETE", ONE, Reply(503, "<html>try later</html>"), times=1000)
    error = agency.fails(StillOpen)
    assert "$2.10 an hour" in error.what
    assert error.hint.startswith("gptops down box --discard")
    assert "https://" in error.hint
    assert len(vast_rows.boxes) == 1, "nothing more is rented while one may bill"
    assert [row.state for row in agency.ledger.instances()] == [InstanceState.CLOSING]


def test_ctrl_c_while_waiting_ends_the_machine(vast_rows: VastCloud, agency: Agency) -> None:  # noqa: F811
    class Interrupts(Lines):
        def seen(self, what: str) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace(agency.renter, steps=Interrupts(agency.said.append, agency.clock)).rent(agency.request(), None)
    assert len(vast_rows.boxes) == 1
    assert nothing_bills(vast_rows)
    assert agency.ledger.instances() == []


# Accounts


def test_a_create_that_is_limited_is_asked_again_later_under_a_new_label(vast: VastCloud, agency: Agency) -> None:  # noqa: F811
    vast.fail("PUT", CREATE, Reply(429, "API requests too frequent"))
    row = agency.rent(tries=1)
    first, second = [asked.body["label"] for asked in vast.requests if asked.method == "PUT"]
    assert first != second
    assert machine_of(vast) == CHEAPEST
    agency.end(row)
    assert nothing_bills(vast)


def test_an_account_that_may_not_spend_stops_at_once(vast_rows: VastCloud, agency: Agency) -> None:  # noqa: F811
    vast_rows.credit = 0.0
    error = agency.fails(GptopsError)
    assert "may not spend more" in error.what
    assert vast_rows.count("PUT", CREATE) == 1
    assert vast_rows.alive() == []


def test_a_wrong_key_creates_nothing(
    vast_rows: VastCloud,  # noqa: F811
    agency: Agency,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VAST_API_KEY", "wrong")
    agency.fails(KeyRefused)
    assert vast_rows.boxes == {}


def test_a_budget_that_does_not_pay_for_minutes_creates_nothing(vast_rows: VastCloud, agency: Agency) -> None:  # noqa: F811
    agency.fails(OverBudget, limits=Limits(max_usd=0.10))
    assert vast_rows.boxes == {}


def test_a_machine_that_nobody_here_knows_counts_against_the_limit_per_hour(
    vast_rows: VastCloud,  # noqa: F811
    agency: Agency,
) -> None:
    [offer, *_] = agency.provider.offers(H100)
    agency.provider.create(offer, CreateRequest("gptops:elsewhere:1", "img", 20, "ssh-ed25519 AAAA x"))
    error = agency.fails(OverBudget, limits=Limits(max_usd_per_hour=2.2))
    assert "gptops:elsewhere:1" in error.why
    assert len(vast_rows.boxes) == 1


def test_offers_gone_to_the_last_are_told_as_such(vast_rows: VastCloud, agency: Agency) -> None:  # noqa: F811
    vast_rows.script("offer_taken")
    agency.fails(OfferGone, offer_id="1004")
    assert nothing_bills(vast_rows, at_most=0.001)
